"""What ran on a machine whose power is certainly off is let go by its cluster, so that other machines may run it: its node is called out
of service (a Kubernetes taint: volumes are detached, pods deleted without their kubelet's word) until its pods are gone, and always
before its power is switched on again. Pods that nobody would make anew, or whose data would be lost, keep a node from it.

In the `progress` of a power cycle: `release` (`since`; `pods`, how many; `tainted`, the taint was seen to be taken) is committed before
the taint is put there, so that whoever finds it knows that the taint may stand; `released` and `releasedWhy` are there when the power may be switched on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from urllib.parse import quote

from clusters.kube import Kube
from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines.bmc import PowerState
from machines.drain import Options, Pod, data_at_stake, has_ended, is_at_home, nobody_makes_anew
from machines.drainer import pods_of
from machines.gates import NodeRow
from machines.nodes import NODES
from machines.operation_moves import Told
from machines.rounds import seconds_since, waiting

OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
MARK: Final = "fleet.dev/out-of-service"  # annotation: the Operation that put the taint there; without it the taint is somebody else's
RELEASE_SECONDS: Final = 180.0  # a machine is not kept off for longer than that for its pods
SILENT_SECONDS: Final = 60.0  # without an answer, before anything was put on the node
STANDS_SECONDS: Final = 900.0  # without an answer, while the taint may stand
_NAMED: Final = 3


def is_due(progress: Json) -> bool:
    """Whether the node's turn is now: the power was seen off, and nothing was said of its pods yet."""
    return bool(progress.get("wasOff")) and "released" not in progress


async def let_go(
    kube: Kube, node: NodeRow, owner: str, options: Options, progress: Json, power: PowerState, now: datetime, *, cut: bool
) -> Told:  # fmt: skip
    """One round. `owner`: the Operation, by name; `cut`: it was cancelled, so that nothing is waited for. Raises one of NO_ANSWER."""
    path = f"{NODES}/{quote(node.name, safe='')}"
    live = await kube.find(path)
    if live is None or live["metadata"]["uid"] != node.uid:
        return _released(progress, power, now, 0, "Its node is gone.")
    stands, ours = _taint_of(live)
    if stands and not ours:
        return _released(progress, power, now, 0, "Somebody else called its node out of service.")
    pods = [p for p in await pods_of(kube, node.name) if not is_at_home(p) and not has_ended(p)]
    release = progress.get("release")
    if release is None and ours:  # left there by an Operation that could not take it away
        release = {"since": format_time(now), "pods": len(pods), "tainted": True}
    if release is None:
        stuck = _kept(pods, options)
        if stuck or not pods or cut or power != "Off":
            return _released(progress, power, now, 0, stuck)
        text = f"The power is off: {_pods(len(pods))} of its node may run elsewhere."
        return waiting("Off", text, progress | {"release": {"since": format_time(now), "pods": len(pods)}}, 0.05)
    gone = max(0, release["pods"] - len(pods))
    over = cut or power != "Off" or not pods or seconds_since(release["since"], now) > RELEASE_SECONDS
    taken_away = not ours and bool(release.get("tainted"))  # by a person: nothing more is asked of the pods
    if taken_away or (over and not ours):
        return _released(progress, power, now, gone, "")
    if over:
        await kube.patch(path, _without(live))
        left = f"{_pods(len(pods))} still stood on its node when it was switched on." if pods else ""
        return _released(progress, power, now, gone, left)
    if not ours:
        await kube.patch(path, _with(live, owner))
    text = f"The power is off and the node out of service; {_pods(len(pods))} of it {'is' if len(pods) == 1 else 'are'} left."
    return waiting("OutOfService", text, _without_trouble(progress) | {"release": release | {"tainted": True}}, 3.0)


def unanswered(progress: Json, power: PowerState, error: Exception, now: datetime) -> Told:
    """A round without an answer of the API server. Where nothing can stand on the node the power waits for nobody; where the taint may
    stand the machine stays off, for it would throw off whatever runs there then."""
    release = progress.get("release")
    since = progress.get("releaseTrouble") or format_time(now)
    said = f"The API server did not answer: {error or 'no answer in time'}"
    if release is None and seconds_since(since, now) > SILENT_SECONDS:
        return _released(progress, power, now, 0, said)
    if seconds_since(since, now) > STANDS_SECONDS:
        text = f"The node may still have the taint {OUT_OF_SERVICE}, which goes before the power is switched on. {said}"
        return Told("Failed", "OutOfServiceStands", text, progress)
    return waiting("NodeNotSeen", said, progress | {"releaseTrouble": since}, 5.0)


def _released(progress: Json, power: PowerState, now: datetime, pods: int, why: str) -> Told:
    left = {k: v for k, v in _without_trouble(progress).items() if k != "release"}
    left |= {"released": pods, "releasedAt": format_time(now), "releasedWhy": why}
    if power == "Off":
        left["next"] = "on"
    return waiting("LetGo", told_of(left) or "Nothing on its node had to be let go.", left, 0.05)


def told_of(progress: Json) -> str:
    """What became of the pods, for the step's last word; "" = there is nothing to say."""
    pods, why = progress.get("released", 0), progress.get("releasedWhy", "")
    said = f"{_pods(pods)} of its node {'was' if pods == 1 else 'were'} let go meanwhile." if pods else ""
    return " ".join(s for s in (said, why) if s)


def _without_trouble(progress: Json) -> Json:
    return {k: v for k, v in progress.items() if k != "releaseTrouble"}


def _kept(pods: Sequence[Pod], options: Options) -> str:
    """Why the pods are not let go, "" = they may be. What is on its way out already is nobody's loss."""
    found = [(p, why) for p in pods if p.metadata.deleted is None and (why := _keeps(p, options))]
    if not found:
        return ""
    named = "; ".join(f"{p.key}: {why}" for p, why in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"Its pods were not let go: {named}{more}."


def _keeps(pod: Pod, options: Options) -> str:
    if options.word(pod) == "skip":
        return "it is to stay where it is"
    if nobody_makes_anew(pod, options):
        return "it has no controller that would make it anew"
    if data_at_stake(pod, options):
        return "its data in emptyDir would be lost"
    return ""


def _taint_of(live: Json) -> tuple[bool, bool]:
    """(the node is out of service, by Fleet)."""
    stands = any(t.get("key") == OUT_OF_SERVICE for t in live.get("spec", {}).get("taints") or [])
    return stands, stands and MARK in (live["metadata"].get("annotations") or {})


def _with(live: Json, owner: str) -> Json:
    taint = {"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
    return _body(live, [*(live.get("spec", {}).get("taints") or []), taint], owner)


def _without(live: Json) -> Json:
    return _body(live, [t for t in live["spec"]["taints"] if t.get("key") != OUT_OF_SERVICE], None)


def _body(live: Json, taints: list[Json], owner: str | None) -> Json:
    meta = {"resourceVersion": live["metadata"]["resourceVersion"], "annotations": {MARK: owner}}
    return {"metadata": meta, "spec": {"taints": taints}}


def _pods(count: int) -> str:
    return f"{count} pod{'' if count == 1 else 's'}"
