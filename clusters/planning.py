"""What a pass wants of one control plane: the change that it is in, its refusals, and the outcome in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from clusters import models, rollouts
from clusters.cases import Case, fields_of
from clusters.lifecycle import ADDONS, Move, Progress, Wish
from clusters.manifests import Addon, digest_of, rendered
from clusters.planes import APISERVER, COMPONENTS, ETCD, ComponentSeen, Plane
from clusters.preflight import Hop, kubelets_too_new, kubelets_too_old, refusals, replicas_missing, state_refusals
from clusters.status import Part, Told
from clusters.versions import minor_text
from clusters.wanted import values_for
from fleet.control.conditions import Condition
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json
from fleet.control.times import format_time

Ends = Sequence[tuple[str, datetime]]
SOON: Final = timedelta(days=14)  # a certificate that ends so soon alarms
URGENT: Final = timedelta(days=3)  # and so soon it is renewed even while the cluster is held
BACKUP_SECONDS: Final = 6 * 3600
BACKUPS: Final = 10


def hop_of(case: Case, progress: Progress) -> Hop | None:
    """From what the control plane stands at to what the spec says; None = nothing to go to, or the versions are not known."""
    target = str(case.spec["packageVersion"])
    others = [v for v in (progress.reached, *progress.versions.values()) if v and v != target and v in case.versions]
    if not others or target not in case.versions:
        return None
    return Hop(case.versions[others[0]], case.versions[target], progress.emulated, case.known)


@dataclass(frozen=True, slots=True)
class Around:
    """What counts for a change besides its components. `addons`: rows as last seen; `kubelets`: version -> how many; `lacking`: what the provider
    cannot run of the target: both of a change only."""

    ends: Ends = ()
    addons: Sequence[rollouts.Row] = ()
    kubelets: Mapping[str, int] = field(default_factory=dict)
    lacking: Sequence[str] = ()


def refused(case: Case, progress: Progress, around: Around, now: datetime) -> list[str]:
    """Why what the spec asks for may not begin now."""
    hop = hop_of(case, progress)
    why = refusals(hop) if hop else []
    if hop and set(progress.versions.values()) == {progress.reached}:
        why += state_refusals(case.status.get("conditions", []), around.ends, now)
        why += [*kubelets_too_old(hop.after["kubernetesVersion"], around.kubelets), *around.lacking]
        why += replicas_missing(case.status.get("components", []))
    _, unrendered = addons_at(case, str(case.spec["packageVersion"]))
    return [*why, unrendered] if unrendered else why


def wish_of(case: Case, progress: Progress, plane: Plane, around: Around, now: datetime) -> Wish:
    """What is wanted now. The state of the cluster is asked before a change only: one that runs may be the way out."""
    target = str(case.spec["packageVersion"])
    hop = hop_of(case, progress)
    why = refused(case, progress, around, now)
    waits = kubelets_too_new(hop.after["kubernetesVersion"], around.kubelets) if hop and hop.down else []
    digests = {name: plane.digest(name) for name in COMPONENTS} | {ADDONS: addons_digest(case, progress, around.addons)}
    down = bool(hop and hop.down)
    return Wish(target, case.generation, digests, why, waits, down, rollouts.given_up(around.addons, now))


def addons_at(case: Case, version: str) -> tuple[tuple[Addon, ...], str]:
    """The addons of a ClusterPackageVersion for this cluster, or why they cannot be made."""
    if version not in case.versions:
        return (), f"there is no ClusterPackageVersion {version}"
    try:
        return rendered(case.versions[version], values_for(case, version)), ""
    except PermanentError as error:
        return (), error.message


def addons_now(case: Case, progress: Progress) -> tuple[tuple[Addon, ...], str]:
    """The same where they stand."""
    return addons_at(case, progress.versions.get(ADDONS, str(case.spec["packageVersion"])))


def addons_digest(case: Case, progress: Progress, rows: Sequence[rollouts.Row]) -> str:
    """What they have to be at; those that cannot be made stay what they are."""
    addons, problem = addons_now(case, progress)
    return digest_of({r.name: r.hash for r in rows} if problem else {a.name: a.hash for a in addons})


def emulating(case: Case, progress: Progress) -> Progress:
    """While a minor upgrade is not proven, what is new speaks as the old minor."""
    hop = hop_of(case, progress)
    if hop is None or hop.minors <= 0 or progress.emulated:
        return progress
    return replace(progress, emulated=minor_text(hop.before["kubernetesVersion"]))


def soak_until(case: Case, progress: Progress, now: datetime, default_seconds: float) -> datetime | None:
    """The end of the soak of a minor upgrade that has just arrived; None = there is none."""
    version = case.versions[str(case.spec["packageVersion"])]["kubernetesVersion"]
    if not progress.emulated or progress.emulated == minor_text(version):
        return None
    return now + timedelta(seconds=case.spec.get("rollout", {}).get("soakSeconds", default_seconds))


def backup_due(case: Case, last: datetime | None, now: datetime) -> bool:
    """Whether a scheduled snapshot is due; `last`: the time of the youngest. An interval of 0 is never."""
    seconds = case.spec.get("backups", {}).get("intervalSeconds", BACKUP_SECONDS)
    if seconds == 0:
        return False
    return last is None or now - last >= timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass found and how it ended. `seen` None: nothing was looked at. `trouble`: reason and sentence of what went wrong.

    `addons`: their rows; None = they were not thought of.
    """

    progress: Progress
    seen: Mapping[str, ComponentSeen] | None = None
    move: Move | None = None
    trouble: tuple[str, str] | None = None
    final: bool = False
    ends: Ends = ()
    told: Sequence[Told] = field(default_factory=tuple)
    version: str = ""
    endpoint: str = ""
    addons: Sequence[rollouts.Row] | None = None


def part_of(case: Case, outcome: Outcome, now: datetime) -> Part:
    """Everything that the Cluster-Operator says of a cluster with a control plane."""
    seen = outcome.seen
    conditions = [held(case), _first_to_end(outcome.ends, now), *_whole(case, outcome)]
    fields: Json = {
        **fields_of(outcome.progress),
        "observedGeneration": case.generation,
        "phase": phase_of(case, outcome),
    }
    if seen is not None:
        conditions += [_component(seen, ETCD, "EtcdHealthy"), _component(seen, APISERVER, "APIServerReachable")]
        fields["components"] = [_row(case, outcome.progress, name, seen.get(name)) for name in COMPONENTS]
    if outcome.addons is not None:
        conditions.append(_addons(case, outcome.progress, outcome.addons))
        fields["addons"] = [row.json() for row in outcome.addons] or None
    if outcome.ends:
        fields["certificates"] = [{"name": n, "notAfter": format_time(at)} for n, at in outcome.ends]
    if outcome.version:
        fields["kubernetesVersion"] = outcome.version
    if outcome.endpoint:
        fields["endpoint"] = outcome.endpoint
    return Part(fields, conditions, outcome.told)


def phase_of(case: Case, outcome: Outcome) -> str:
    """The summary for people."""
    progress = outcome.progress
    if case.deleted:
        return models.DELETING
    if (outcome.trouble and outcome.final) or progress.stopped:
        return models.FAILED
    if not progress.reached:
        return models.PROVISIONING
    if progress.reached != case.spec["packageVersion"] and (outcome.move is None or outcome.move.verb != "refuse"):
        return models.UPGRADING
    machines = case.status.get("phases", {})
    if outcome.trouble or not _all_ready(outcome.seen) or not _all_there(outcome.seen):
        return models.DEGRADED
    if machines.get("Failed") or machines.get("Repairing"):
        return models.DEGRADED
    return models.RUNNING


def _all_ready(seen: Mapping[str, ComponentSeen] | None) -> bool:
    return seen is None or all(n in seen and seen[n].ready is not False for n in COMPONENTS)


def _all_there(seen: Mapping[str, ComponentSeen] | None) -> bool:
    """Whether no component works with fewer pods than it shall have: one more lost may be its end."""
    found = [seen[n] for n in COMPONENTS if n in seen] if seen is not None else []
    return all(s.replicas_ready == s.replicas for s in found if s.ready)


def held(case: Case) -> Condition:
    """Whether a pause or a Hold keeps Fleet's hands off."""
    return Condition("Held", "True", "Held", case.held) if case.held else Condition("Held", "False", "NotHeld")


def _component(seen: Mapping[str, ComponentSeen], name: str, type_: str) -> Condition:
    found = seen.get(name)
    if found is None:
        return Condition(type_, "False", "NotReady", f"{name} is not there")
    if found.ready is None:
        return Condition(type_, "Unknown", "NotSeen", found.message)
    if not found.ready and not found.serves:
        return Condition(type_, "False", "NotReady", found.message)
    reason, words = ("Ready", "is ready") if found.ready else ("Changing", "serves while it is changed")
    return Condition(
        type_, "True", reason, f"{name} {found.version} {words}{f': {found.message}' if found.message else '.'}"
    )


def _addons(case: Case, progress: Progress, rows: Sequence[rollouts.Row]) -> Condition:
    if ADDONS not in progress.versions:
        return Condition("AddonsUpToDate", "False", "Waiting", "they come after the components of the control plane")
    return rollouts.condition(rows, addons_now(case, progress)[1])


def _row(case: Case, progress: Progress, name: str, found: ComponentSeen | None) -> Json:
    spec = case.versions.get(progress.versions.get(name, str(case.spec["packageVersion"])), {})
    wanted = next(
        (c.get("version") or spec["kubernetesVersion"] for c in spec.get("components", []) if c["name"] == name), ""
    )
    if found is None:
        return {
            "name": name,
            "wanted": wanted,
            "seen": "",
            "ready": "False",
            "replicas": "0/1",
            "message": "is not there",
        }
    ready = {True: "True", False: "False", None: "Unknown"}[found.ready]
    return {
        "name": name, "wanted": wanted, "seen": found.version, "ready": ready, "replicas": f"{found.replicas_ready}/{found.replicas}",
        "message": found.message,
    }  # fmt: skip


def _first_to_end(ends: Ends, now: datetime) -> Condition:
    if not ends:
        return Condition("CertificatesValid", "Unknown", "NotMade", "there are no certificates yet")
    name, end = ends[0]
    at = f"{end:%Y-%m-%d %H:%M} UTC"
    return certificates(end, now, f"the first to end is {name}, at {at}", f"{name} ended at {at}")


def certificates(end: datetime, now: datetime, runs: str, ended: str) -> Condition:
    """CertificatesValid by the end of the first of them; `runs` and `ended`: its sentences."""
    if end <= now:
        return Condition("CertificatesValid", "False", "Ended", ended)
    return Condition("CertificatesValid", "True", "EndsSoon" if end - now < SOON else "Valid", runs)


def _whole(case: Case, outcome: Outcome) -> list[Condition]:
    """ControlPlaneUpToDate, Ready, Reconciling and Stalled, which follow the kstatus convention."""
    progress, target = outcome.progress, str(case.spec["packageVersion"])
    reason, message = _now(case, outcome)
    calm = outcome.move is not None and outcome.move.verb == "rest" and not progress.stopped
    there = progress.reached == target and set(progress.versions.values()) == {target}
    stalled = (
        bool(progress.stopped)
        or outcome.final
        or (outcome.move is not None and outcome.move.verb in ("refuse", "late"))
    )
    ready = there and calm and _all_ready(outcome.seen) and not outcome.trouble
    return [
        Condition("ControlPlaneUpToDate", "True" if there else "False", "UpToDate" if there else reason, f"all components stand at {target}" if there else message),
        Condition("Ready", "True" if ready else "False", "Ready" if ready else reason, "the control plane is ready" if ready else message),
        Condition("Reconciling", "False" if calm or stalled else "True", "AtRest" if calm else reason, "" if calm else message),
        Condition("Stalled", "True" if stalled else "False", reason if stalled else "NotStalled", message if stalled else ""),
    ]  # fmt: skip


def _now(case: Case, outcome: Outcome) -> tuple[str, str]:
    """One word and one sentence for what goes on."""
    if case.deleted:
        return "Deleting", outcome.trouble[1] if outcome.trouble else "the control plane is being stopped"
    if outcome.trouble:
        return outcome.trouble
    stopped = outcome.progress.stopped
    if stopped:
        return stopped["reason"], (
            f"the change to {stopped['packageVersion']} stopped at {stopped['component']}, which was put back: {stopped['message']}; "
            "change the spec to try again"
        )
    if case.held:
        return "Held", f"nothing new starts: {case.held}"
    move = outcome.move
    if move is not None and move.message:
        return move.reason, move.message
    return "Progressing", f"on the way to {case.spec['packageVersion']}"
