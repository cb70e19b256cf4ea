"""A control plane as the page of its cluster shows it: where it stands, what it is doing, its components, certificates and snapshots. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clusters.lifecycle import ADDONS, PARTS
from clusters.planes import COMPONENTS
from clusters.schema_cluster import MADE
from fleet.console.words import Stage, closed
from fleet.control.kinds import Json

_SHORT: Final[Mapping[str, str]] = {
    "kube-apiserver": "API server",
    "kube-controller-manager": "Controllers",
    "kube-scheduler": "Scheduler",
    ADDONS: "Addons",
}
_STATES: Final[Mapping[str, str]] = {"Running": "now", "True": "done", "False": "failed"}


@dataclass(frozen=True, slots=True)
class PlaneView:
    """`moving`: the stages of a change that runs or stopped; empty at rest. `steps`: what was done to each component last, with its
    `state` as of `words.step_state`. `certificates`: the first to end first. `made`: Fleet makes it and may change its version."""

    sentence: str
    tone: str
    moving: Sequence[Stage]
    components: Sequence[Json]
    certificates: Sequence[Json]
    snapshots: Sequence[Json]
    made: bool
    steps: Sequence[Json]


def view(obj: Json) -> PlaneView | None:
    """None for a group of plain hosts."""
    spec, status = obj["spec"], obj.get("status", {})
    if not spec.get("provider"):
        return None
    tone, sentence = _sentence(spec, status)
    return PlaneView(
        sentence,
        tone,
        _stages(spec, status),
        status.get("components", []),
        status.get("certificates", []),
        status.get("snapshots", [])[:5],
        spec["provider"] in MADE,
        [_step(s) for s in status.get("steps", [])],
    )


def _step(step: Json) -> Json:
    said = step.get("message") or step.get("reason") or ""
    return {**step, "state": _STATES.get(step.get("status", ""), "later"), "said": closed(said)}


def _sentence(spec: Json, status: Json) -> tuple[str, str]:
    """What people ask first, in one sentence."""
    by_type = {c["type"]: c for c in status.get("conditions", [])}
    ready, stalled = by_type.get("Ready", {}), by_type.get("Stalled", {})
    target, reached, version = (
        spec.get("packageVersion", ""),
        status.get("packageVersion", ""),
        status.get("kubernetesVersion", ""),
    )
    if status.get("work"):
        return (
            "busy",
            f"Etcd goes back to the snapshot {status['work'].get('restore')}: {str(status['work'].get('stage', '')).lower()}.",
        )
    if stalled.get("status") == "True":
        return "bad", closed(stalled.get("message") or stalled.get("reason", ""))
    if not ready:
        return "unknown", "Nothing was looked at yet."
    if ready.get("status") != "True":
        way = f"On the way from {reached} to {target}. " if reached and target and reached != target else ""
        return "busy" if by_type.get("Reconciling", {}).get("status") == "True" else "warn", way + closed(
            ready.get("message", "")
        )
    soak = (
        f" It speaks as {status['emulatedVersion']} until its soak ends; until then pointing back is allowed."
        if status.get("emulatedVersion")
        else ""
    )
    return "ok", f"Kubernetes {version or '?'} is ready.{soak}"


def _stages(spec: Json, status: Json) -> list[Stage]:
    """The snapshot before a change and one stage a component while it is made, changed or was stopped half-way; nothing at rest."""
    stands, reached, target = (
        status.get("componentVersions", {}),
        status.get("packageVersion", ""),
        spec.get("packageVersion", ""),
    )
    stopped = status.get("stopped", {}).get("component", "")
    if not stands or (reached == target and set(stands.values()) == {target} and not stopped):
        return []
    # what was left behind by the change before is not what this one has done
    begun = target in stands.values()
    steps: dict[str, Any] = {s["name"]: s for s in status.get("steps", []) if begun or stopped or not reached}
    shown = [p for p in PARTS if p != ADDONS or ADDONS in steps]  # most package versions have none
    names = list(reversed(shown)) if _goes_back(status, target) else shown
    saved = (
        [Stage("Snapshot", "done" if status.get("snapshotFor") == target or begun or stopped else "later", "", 1)]
        if reached
        else []
    )
    return saved + [_stage(name, stands.get(name) == target, steps.get(name, {}), stopped) for name in names]


def _goes_back(status: Json, target: str) -> bool:
    """Whether the last component is there already and the first is not: the order of going back."""
    stands = status.get("componentVersions", {})
    return bool(stands.get(COMPONENTS[-1]) == target != stands.get(COMPONENTS[0]))


def _stage(name: str, there: bool, step: Json, stopped: str) -> Stage:
    shown = _SHORT.get(name, name)
    if name == stopped:
        return Stage(shown, "failed", "put back", 1)
    if step.get("status") == "Running":
        return Stage(shown, "now", "", 1)
    return Stage(shown, "done" if there and step.get("status") == "True" else "later", "", 1)
