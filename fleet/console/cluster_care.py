"""Hands off a cluster, hands on again, and etcd back to a snapshot: acts, and what they would do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from django.http import QueryDict

from clusters.storage import RESTORE
from fleet.api.actions import patch_object
from fleet.api.errors import bad_request
from fleet.api.patches import merge_patch
from fleet.api.rights import Actor
from fleet.console.acting import write_of
from fleet.console.cluster_seen import check_seen
from fleet.console.words import closed, count
from fleet.control.kinds import Json

AS_SNAPSHOT: Final = "snapshot"  # value of the field: the cluster asks for the version of the snapshot afterwards


@dataclass(frozen=True, slots=True)
class Told:
    """What an act would do: why it would be refused or wait, what happens, one sentence each, and the line that does the same."""

    says: tuple[str, ...]
    command: str
    waits: tuple[str, ...] = ()
    go: str = ""


def patched(live: Json, patch: Json) -> Json:
    """The live object with a merge patch laid over."""
    changed: Json = merge_patch(live, patch)
    return changed


def line_of(name: str, patch: Json, kind: str = "cluster") -> str:
    """The kubectl line of a merge patch."""
    return f"kubectl patch {kind} {name} --type merge -p '{orjson.dumps(patch).decode()}'"


def paused_patch(on: bool) -> Json:
    """`spec.paused` true, or taken away."""
    return {"spec": {"paused": True if on else None}}


def pause(name: str, actor: Actor, form: QueryDict) -> str:
    """Hands off the cluster and its machines."""
    _set_paused(name, actor, form, on=True)
    return f"{name} is paused: nothing new starts in it."


def resume(name: str, actor: Actor, form: QueryDict) -> str:
    """Hands on again."""
    _set_paused(name, actor, form, on=False)
    return f"{name} goes on."


def _set_paused(name: str, actor: Actor, form: QueryDict, *, on: bool) -> None:
    def patch(live: Json) -> Json:
        check_seen(live, form)
        return patched(live, paused_patch(on))

    patch_object("clusters", name, patch, write=write_of(actor))


def restore(name: str, actor: Actor, form: QueryDict) -> str:
    """Etcd goes back to a snapshot of this cluster; the name was typed."""
    if form.get("confirm", "").strip() != name:
        raise bad_request(f"type {name}, the name of the cluster whose data would be replaced")

    def patch(live: Json) -> Json:
        check_seen(live, form)
        return patched(live, restore_patch(live, form))

    patch_object("clusters", name, patch, write=write_of(actor))
    return f"{name} goes back to the snapshot {form.get('snapshot', '')}."


def snapshot_of(live: Json, form: QueryDict) -> Json:
    """The snapshot that the form names; ApiError when there is none of that name."""
    wanted = form.get("snapshot", "").strip()
    found = next((s for s in live.get("status", {}).get("snapshots", []) if s["name"] == wanted), None)
    if found is None:
        raise bad_request(f"there is no snapshot “{wanted[:100]}” of it any more" if wanted else "choose a snapshot")
    return dict(found)


def restore_patch(live: Json, form: QueryDict) -> Json:
    """The approver's word, and the version of the snapshot's time where that is wanted too."""
    snapshot = snapshot_of(live, form)
    patch: Json = {"metadata": {"annotations": {RESTORE: snapshot["name"]}}}
    version = snapshot.get("packageVersion", "")
    if form.get("after") == AS_SNAPSHOT and version and version != live["spec"].get("packageVersion"):
        patch["spec"] = {"packageVersion": version}
    return patch


# -- told before it is done ---------------------------------------------------------------------------------------------


def told_pause(obj: Json, machines: int) -> Told:
    """What pausing stops and what goes on."""
    name, made = obj["metadata"]["name"], bool(obj["spec"].get("provider"))
    says = [f"Nothing new starts on {count(machines, 'machine')} of it: no package, no reboot, no repair."]
    if made:
        says.append("Its control plane is looked at and left as it is; only a certificate that ends within 3 days is renewed.")  # fmt: skip
    if _is_changing(obj):
        says.append(f"The change to {obj['spec']['packageVersion']} stands still where it is; a step that runs is let end.")  # fmt: skip
    says.append("Looking goes on, and so do gates and opening: a node that is well is opened.")
    says.append("A pause has no end and no reason. A hold has both, and ends by itself.")
    return Told(tuple(says), line_of(name, paused_patch(True)), go="Pause 1 cluster")


def told_resume(obj: Json, machines: int) -> Told:
    """What goes on again."""
    name = obj["metadata"]["name"]
    says = [f"Fleet puts differences right again on {count(machines, 'machine')}; each change asks for its permit first."]  # fmt: skip
    if _is_changing(obj):
        says.append(f"The change to {obj['spec']['packageVersion']} goes on where it stood still.")
    says.append("Holds that cover it stay.")
    return Told(tuple(says), line_of(name, paused_patch(False)), go="Resume 1 cluster")


def _is_changing(obj: Json) -> bool:
    reached = obj.get("status", {}).get("packageVersion", "")
    return bool(reached) and reached != obj["spec"].get("packageVersion")


def told_restore(obj: Json, form: QueryDict, held: str) -> Told:
    """The order of a restore, what is lost, and what it waits for. ApiError when the snapshot is gone."""
    snapshot, spec = snapshot_of(obj, form), obj["spec"]
    patch, name = restore_patch(obj, form), obj["metadata"]["name"]
    taken = datetime.fromisoformat(snapshot["takenAt"])
    version = snapshot.get("packageVersion", "")
    says = [
        f"What was written to its API after {taken:%-d %b %H:%M} UTC is lost: objects, tokens, leases.",
        "All API servers stop; clients and kubelets wait for them. Pods that run go on.",
        "Etcd's data is replaced, with its revisions lifted, so that no watcher takes old for new.",
        f"The components start again{f' at {version}' if version else ''}, and Fleet lists every node anew before it believes anything.",
    ]
    asks = patch.get("spec", {}).get("packageVersion") or spec.get("packageVersion", "")
    if version and asks != version:
        says.append(f"It still asks for {asks}: the upgrade from {version} begins once it is ready again.")
    elif version and spec.get("packageVersion") != version:
        says.append(f"It asks for {version} from then on, not for {spec.get('packageVersion')}.")
    says.append("The word is used up: it restores once. There is no undo but another snapshot.")
    waits = (f"nothing new starts: {held}",) if held else ()
    return Told(tuple(says), line_of(name, patch), waits, f"Restore {name}")


def snapshots_of(obj: Json) -> list[dict[str, Any]]:
    """What can be gone back to, the youngest first, in words."""
    return [{**s, "said": closed(s.get("why") or "snapshot").rstrip(".")} for s in obj.get("status", {}).get("snapshots", [])]  # fmt: skip
