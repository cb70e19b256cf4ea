"""How far addons are: an object as the API server shows it -> whether it is rolled out; these -> one row an addon -> what a change may do. Pure.

Rules of readiness: https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from clusters.lifecycle import ADDONS
from clusters.manifests import Addon, called, digest_of
from clusters.planes import ComponentSeen
from fleet.control.conditions import Condition, Status
from fleet.control.kinds import Json
from fleet.control.times import format_time

GIVE_UP_SECONDS: Final = 600.0  # without any progress; the default of a Deployment's progressDeadlineSeconds
HOPELESS: Final = frozenset({400, 405, 413, 415, 422})  # answers to an object that only another manifest changes


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one object. `progress` grows while it rolls out. `hopeless`: it will not become better by itself. `needs_nodes`: its pods do."""

    ok: bool
    message: str = ""
    progress: int = 0
    hopeless: bool = False
    needs_nodes: bool = False


def standing(obj: Json) -> Standing:
    """Of an object as it was read; kinds that roll nothing out are ready when they are there."""
    look = _LOOKS.get(obj["kind"])
    if look is None:
        return Standing(True)
    generation, seen = obj["metadata"].get("generation", 0), obj.get("status", {}).get("observedGeneration")
    if obj["kind"] in _WORKLOADS and (seen or 0) < generation:
        return Standing(False, "its controller has not looked at it yet")
    return look(obj.get("spec", {}), obj.get("status", {}))


def _deployment(spec: Json, status: Json) -> Standing:
    wanted = spec.get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    progressing = _condition(status, "Progressing")
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return Standing(
            False, progressing.get("message", "its deadline of progress is over"), updated + available, True, True
        )
    if updated < wanted:
        return Standing(False, f"{updated} of {wanted} replicas are new", updated + available, needs_nodes=True)
    if status.get("replicas", 0) > updated:
        return Standing(
            False, f"{status['replicas'] - updated} old replicas are still there", updated + available, needs_nodes=True
        )
    if available < updated:
        return Standing(False, f"{available} of {wanted} replicas are available", updated + available, needs_nodes=True)
    return Standing(True, progress=updated + available)


def _daemon_set(spec: Json, status: Json) -> Standing:
    wanted, available = status.get("desiredNumberScheduled", 0), status.get("numberAvailable", 0)
    by_hand = spec.get("updateStrategy", {}).get("type") == "OnDelete"
    updated = wanted if by_hand else status.get("updatedNumberScheduled", 0)
    if updated < wanted:
        return Standing(False, f"{updated} of {wanted} nodes have the new pod", updated + available, needs_nodes=True)
    if available < wanted:
        return Standing(False, f"{available} of {wanted} pods are available", updated + available, needs_nodes=True)
    return Standing(True, progress=updated + available)


def _stateful_set(spec: Json, status: Json) -> Standing:
    strategy, wanted = spec.get("updateStrategy", {}), spec.get("replicas", 1)
    available = status.get("availableReplicas", 0)
    partition = strategy.get("rollingUpdate", {}).get("partition", 0)
    due = 0 if strategy.get("type") == "OnDelete" else max(wanted - partition, 0)
    updated = status.get("updatedReplicas", 0)
    if updated < due:
        return Standing(False, f"{updated} of {due} replicas are new", updated + available, needs_nodes=True)
    if available < wanted:
        return Standing(False, f"{available} of {wanted} replicas are available", updated + available, needs_nodes=True)
    return Standing(True, progress=updated + available)


def _job(spec: Json, status: Json) -> Standing:
    failed = _condition(status, "Failed")
    if failed.get("status") == "True":
        return Standing(False, f"it failed: {failed.get('message') or failed.get('reason', '')}", hopeless=True)
    if _condition(status, "Complete").get("status") == "True" or spec.get("suspend"):
        return Standing(True)
    done = status.get("succeeded", 0)
    return Standing(False, f"{done} of {spec.get('completions', 1)} pods have ended well", done, needs_nodes=True)


def _definition(spec: Json, status: Json) -> Standing:
    accepted = _condition(status, "NamesAccepted")
    if accepted.get("status") == "False":
        return Standing(False, accepted.get("message", "its names are taken"), hopeless=True)
    ok = _condition(status, "Established").get("status") == "True"
    return Standing(ok, "" if ok else "it is not established yet")


def _service(spec: Json, status: Json) -> Standing:
    found = _condition(status, "Available")
    ok = found.get("status") == "True"
    return Standing(ok, "" if ok else found.get("message", "it was not looked at yet"), needs_nodes=not ok)


_WORKLOADS: Final = frozenset({"Deployment", "DaemonSet", "StatefulSet"})
_LOOKS: Final[Mapping[str, Callable[[Json, Json], Standing]]] = {
    "Deployment": _deployment, "DaemonSet": _daemon_set, "StatefulSet": _stateful_set, "Job": _job,
    "CustomResourceDefinition": _definition, "APIService": _service,
}  # fmt: skip


def _condition(status: Json, type_: str) -> Json:
    return next((c for c in status.get("conditions", []) if c["type"] == type_), {})


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one object of an addon. `refused`: code and sentence of the API server; `silent`: it did not answer."""

    obj: Json
    standing: Standing | None = None
    refused: tuple[int, str] | None = None
    silent: str = ""
    unknown_kind: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One addon as `status.addons[]` shows it. `since`: the last time it got further. `progress`: how far it got at most."""

    name: str
    hash: str
    status: Status
    reason: str
    message: str
    since: datetime
    progress: int = 0

    @property
    def applied(self) -> bool:
        """The API server has taken all of it."""
        return self.reason in (UP_TO_DATE, ROLLING, FAILED, NO_NODES)

    def json(self) -> Json:
        """As stored; `row_of` is the other way round."""
        out: Json = {
            "name": self.name, "hash": self.hash, "status": self.status, "reason": self.reason, "message": self.message,
            "since": format_time(self.since), "progress": self.progress,
        }  # fmt: skip
        return {k: v for k, v in out.items() if v not in ("", 0)}


UP_TO_DATE: Final = "UpToDate"
ROLLING: Final = "RollingOut"
FAILED: Final = "Failed"
REFUSED: Final = "Refused"
INVALID: Final = "Invalid"
KIND_UNKNOWN: Final = "KindUnknown"
SILENT: Final = "NotAnswering"
NO_NODES: Final = "NoNodes"
_HOPELESS: Final = frozenset({FAILED, INVALID})


def row_of(json: Json) -> Row:
    """From `status.addons[]`."""
    since = datetime.strptime(json["since"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return Row(
        json["name"], json["hash"], json["status"], json["reason"], json.get("message", ""), since, json.get("progress", 0)
    )  # fmt: skip


def rows_of(status: Json) -> tuple[Row, ...]:
    """All of a cluster's status."""
    return tuple(row_of(r) for r in status.get("addons", []))


def moved(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[Row, str]]:
    """Addons that are rolled out now, or are so no longer, with a sentence; what only goes on is no news."""
    old = {r.name: (r.hash, r.status == "True") for r in before}
    out = []
    for row in after:
        was = old.get(row.name, ("", False))
        if row.status == "True" and was != (row.hash, True):
            out.append((row, f"addon {row.name} is rolled out"))
        elif row.status != "True" and was == (row.hash, True) or row.reason in _HOPELESS and was != (row.hash, False):
            out.append((row, f"addon {row.name}: {row.message}"))
    return out


def row_after(before: Row | None, addon: Addon, found: Sequence[Found], nodes: bool, now: datetime) -> Row:
    """The row of an addon after a look. `nodes`: there is one that pods could run on."""
    status, reason, message = _verdict(found, nodes)
    number = addon.hash
    progress = sum(f.standing.progress for f in found if f.standing)
    if before is None or before.hash != number:
        return Row(addon.name, number, status, reason, message, now, progress)
    further = progress > before.progress or (status, reason) != (before.status, before.reason)
    return Row(
        addon.name, number, status, reason, message, now if further else before.since, max(progress, before.progress)
    )


def _verdict(found: Sequence[Found], nodes: bool) -> tuple[Status, str, str]:
    """Of the whole addon, by the worst of its objects, which is named."""
    for each in found:
        if each.silent:
            return "Unknown", SILENT, each.silent
    for each in found:
        if each.refused is not None:
            code, text = each.refused
            return "False", INVALID if code in HOPELESS else REFUSED, f"{called(each.obj)}: {text}"
    for each in found:
        if each.unknown_kind:
            return (
                "False",
                KIND_UNKNOWN,
                f"{called(each.obj)}: the API server knows no {each.obj['kind']} in {each.obj['apiVersion']}",
            )
    late = [(f, f.standing) for f in found if f.standing is not None and not f.standing.ok]
    for each, stands in sorted(late, key=lambda pair: not pair[1].hopeless):
        if stands.needs_nodes and not nodes:
            return "Unknown", NO_NODES, f"{called(each.obj)}: {stands.message}; there is no node yet"
        return "False", FAILED if stands.hopeless else ROLLING, f"{called(each.obj)}: {stands.message}"
    return "True", UP_TO_DATE, ""


def seen_of(rows: Sequence[Row], is_new: bool) -> ComponentSeen:
    """The addons as a part of the control plane. In a new cluster it is enough that they were taken: nodes come later."""
    digest = digest_of({r.name: r.hash for r in rows})
    waits = [r for r in rows if not (r.status == "True" or r.reason == NO_NODES or (is_new and r.applied))]
    message = f"addon {waits[0].name}: {waits[0].message}" if waits else ""
    ready = True if not waits else None if all(r.reason == SILENT for r in waits) else False
    return ComponentSeen(ADDONS, digest, "", ready, len(rows) - len(waits), len(rows), message)


def given_up(rows: Sequence[Row], now: datetime) -> str:
    """Why the addons will not get ready, "" = they may."""
    for row in rows:
        if row.reason in _HOPELESS:
            return f"addon {row.name}: {row.message}"
    for row in rows:
        if row.status == "False" and now - row.since > timedelta(seconds=GIVE_UP_SECONDS):
            return f"addon {row.name} made no progress for {GIVE_UP_SECONDS / 60:.0f} minutes: {row.message}"
    return ""


def condition(rows: Sequence[Row], problem: str) -> Condition:
    """AddonsUpToDate. `problem`: why they cannot be rendered."""
    if problem:
        return Condition("AddonsUpToDate", "False", "TemplateError", problem)
    if not rows:
        return Condition("AddonsUpToDate", "True", "NoAddons", "the package version has no addons")
    off = [r for r in rows if r.status != "True"]
    if not off:
        return Condition("AddonsUpToDate", "True", UP_TO_DATE, f"{len(rows)} addons are rolled out")
    worst = next((r for r in off if r.status == "False"), off[0])
    return Condition(
        "AddonsUpToDate", worst.status, worst.reason, "; ".join(f"{r.name}: {r.message}" for r in off)[:1_000]
    )
