"""How a changed shared layer reaches running machines: one canary, a soak, then within the budget, stop at the first failure.

One row of `layer_rollout` a layer. Fleet-wide change stands above machines: it only creates Operations of the owner Rollout;
each machine asks for its own permit, so the budgets of safety hold whatever is asked for here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from django.db import connection, transaction

from clusters.following import machine_versions, still_to_come
from clusters.models import Cluster, ClusterPackageVersion
from clusters.schema_cluster import MADE, provider_of
from clusters.status import Part, write_parts
from fleet.api.storage import storage_for
from fleet.control import clock, work
from fleet.control.conditions import Condition
from fleet.control.digests import hex64
from fleet.control.kinds import MACHINE, OPERATION, Json
from machines.conditions import BIT
from machines.models import MachineClass, OwnerClass
from machines.resolve import layer_json

RESUME: Final = "fleet.dev/resume-rollout"
SOAK_SECONDS: Final = 60
WIDTH: Final = 200  # Operations of one rollout that may be open at once; permits narrow it further
OWNER: Final = "rollout"
ALL_HAVE_IT: Final = "All machines have the layer."
_WELL = (1 << BIT["UpToDate"]) | (1 << BIT["HostHealthy"])
_SEEN = 1 << BIT["Reachable"]

# Machines that carry Fleet itself are people's to move.
_WHERE = """FROM machine m JOIN machine_state s ON s.id = m.id JOIN accepted a ON a.machine_id = m.id
  WHERE {scope} AND m.deleted_at IS NULL AND NOT m.labels @> '{{"fleet.dev/carries-fleet": "true"}}' AND a.layers #> ARRAY['shared', %s] IS NOT NULL AND a.layers #> ARRAY['shared', %s] <> %s::jsonb"""
_OPEN = """
WITH c AS MATERIALIZED (SELECT m.id, m.uid, m.name, m.cluster_id, m.spec FROM machine m WHERE m.id = ANY (%s::bigint[])),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM c) + 4) AS base),
n AS MATERIALIZED (SELECT c.*, nextval('machines_operation_id_seq') AS op, (SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id) AS rv FROM c),
ins AS (
  INSERT INTO machines_operation (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, epoch)
  SELECT op, gen_random_uuid(), left(name, 230) || '-' || op, rv, 1, '{}', '{}', '[]', '[]',
    jsonb_strip_nulls(jsonb_build_object('machine', name, 'verb', 'Update', 'owner', %s::text, 'reason', %s::text, 'clusterName', spec -> 'clusterName')),
    '{"steps": [], "message": "Waits for its turn."}', date_trunc('second', now()), id, uid, cluster_id, %s, 'Pending', 0 FROM n
  ON CONFLICT DO NOTHING RETURNING id, rv, machine_id, cluster_id),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, %s, 1 FROM ins)
SELECT machine_id FROM ins
"""


@dataclass(frozen=True, slots=True)
class Layer:
    """A shared layer as it is now. `manual`: a person starts it; `manual_clusters`: clusters that a class layer leaves alone.

    `coming`: why it will change although nobody edits it any more, "" = it will not. `told`: also while nobody lags behind.
    """

    kind: str  # cluster | class
    id: int
    name: str
    value: Json
    manual: bool
    soak: int
    resume: str
    manual_clusters: tuple[int, ...] = ()
    coming: str = ""
    told: bool = False

    @property
    def hash(self) -> str:
        """What a person names who lets it go on."""
        return hex64(self.value)


@dataclass(slots=True)
class Progress:
    """The row of a layer's rollout."""

    hash: str
    state: str  # Pending Waiting Canary Rolling Stopped Done
    canary_id: int | None = None
    canary_good_at: datetime | None = None
    failed_machine: str = ""
    message: str = ""
    since: datetime | None = None  # failures before it do not count: start, or the last resume


@dataclass(frozen=True, slots=True)
class Sight:
    """What is so among the machines of a layer. `outdated`: candidates, best first."""

    outdated: tuple[int, ...] = ()
    open: int = 0
    failed: tuple[str, str] = ("", "")  # (machine, message) of the first that failed
    canary_well: bool = False
    canary_moved: bool = False  # it has the layer
    unseen: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now: the row as it shall stand, and machines to move."""

    progress: Progress
    move: tuple[int, ...] = ()
    cancel: bool = False


def advance(layer: Layer, progress: Progress | None, sight: Sight, now: datetime) -> Step:
    """The next state of a rollout. Pure."""
    if progress is None or progress.hash != layer.hash:
        progress = Progress(layer.hash, "Pending", since=now)
    else:
        progress = Progress(**{f: getattr(progress, f) for f in Progress.__slots__})
    resumed = layer.resume == layer.hash
    if not sight.outdated and not sight.open and not sight.unseen and not sight.failed[0]:
        progress.state, progress.message = "Done", ALL_HAVE_IT
        return Step(progress)
    if progress.state == "Stopped":
        if not resumed or progress.message.startswith("Resumed"):
            return Step(progress)
        progress.state, progress.since, progress.failed_machine, progress.message = (
            "Rolling",
            now,
            "",
            "Resumed by a person.",
        )
        return Step(progress)
    if sight.failed[0]:
        progress.state, progress.failed_machine = "Stopped", sight.failed[0]
        progress.message = f"{sight.failed[0]} failed: {sight.failed[1]} Go on by the annotation {RESUME}={layer.hash}"
        return Step(progress, cancel=True)
    if progress.state in ("Pending", "Waiting", "Done"):
        return _start(layer, progress, sight, resumed, now)
    if progress.state == "Canary":
        return _canary(layer, progress, sight, now)
    progress.message = f"{len(sight.outdated)} machines to go, {sight.open} at work" + (
        f", {sight.unseen} not reachable." if sight.unseen else "."
    )
    return Step(progress, sight.outdated[: max(WIDTH - sight.open, 0)])


def _start(layer: Layer, progress: Progress, sight: Sight, resumed: bool, now: datetime) -> Step:
    if layer.manual and not resumed:
        progress.state = "Waiting"
        progress.message = f"rollout.mode is Manual: start by the annotation {RESUME}={layer.hash}"
        return Step(progress)
    if not sight.outdated:
        progress.state, progress.message = "Pending", f"{sight.unseen} machines are not reachable."
        return Step(progress)
    progress.state, progress.canary_id, progress.canary_good_at, progress.since = "Canary", sight.outdated[0], None, now
    progress.message = "One machine goes first."
    return Step(progress, (sight.outdated[0],))


def _canary(layer: Layer, progress: Progress, sight: Sight, now: datetime) -> Step:
    if not (sight.canary_moved and sight.canary_well):
        progress.canary_good_at, progress.message = None, "The first machine takes the layer."
        again = progress.canary_id in sight.outdated and sight.open == 0 and progress.canary_id is not None
        return Step(progress, (progress.canary_id,) if again and progress.canary_id is not None else ())
    progress.canary_good_at = progress.canary_good_at or now
    if now - progress.canary_good_at < timedelta(seconds=layer.soak):
        progress.message = f"The first machine has it and is watched for {layer.soak} s."
        return Step(progress)
    progress.state, progress.message = "Rolling", "The first machine stayed well."
    return Step(progress)


# -- rows ---------------------------------------------------------------------------------------------------------------


def layers() -> list[Layer]:
    """All shared layers as they are now."""
    found, manual = [], []
    packages = dict(ClusterPackageVersion.objects.values_list("name", "spec"))
    for cluster in Cluster.objects.filter(deleted_at=None):
        rollout = cluster.spec.get("rollout", {})
        by_hand = rollout.get("mode") == "Manual"
        manual += [cluster.pk] if by_hand else []
        versions = machine_versions(cluster.spec, cluster.status, packages)
        value = layer_json(cluster.name, versions, cluster.spec.get("variables"))
        coming = still_to_come(cluster.spec, cluster.status, packages)
        soak = rollout.get("soakSeconds", SOAK_SECONDS)
        found.append(
            Layer(
                "cluster",
                cluster.pk,
                cluster.name,
                value,
                by_hand,
                soak,
                cluster.annotations.get(RESUME, ""),
                (),
                coming,
                _is_told(cluster),
            )  # fmt: skip
        )
    for each in MachineClass.objects.filter(deleted_at=None):
        value = layer_json(each.name, each.spec.get("versions"), each.spec.get("variables"))
        resume = each.annotations.get(RESUME, "")
        found.append(Layer("class", each.pk, each.name, value, False, SOAK_SECONDS, resume, tuple(manual)))
    return found


def _is_told(cluster: Cluster) -> bool:
    """Whether people look for a word on its machines also while none lags behind: it has a control plane, or a word stands there."""
    return provider_of(cluster.spec) in MADE or any(
        c["type"] == "MachinesUpToDate" for c in cluster.status.get("conditions", [])
    )


def rollout_layers(now: datetime | None = None) -> int:
    """One turn over all layers; how many machines were asked to move. A chore."""
    moment = now or clock.now()
    moved: list[int] = []
    for layer in layers():
        with transaction.atomic(), connection.cursor() as cursor:
            progress = _read(cursor, layer)
            sight = _look(cursor, layer, progress)
            if progress is None and not sight.outdated and not sight.unseen:
                step = None  # a layer that nobody lags behind needs no row
            else:
                step = advance(layer, progress, sight, moment)
                _write(cursor, layer, progress, step.progress)
                moved += _move(cursor, layer, step)
        if step is not None:
            _show(layer, step.progress)
        elif layer.told:
            _show(layer, Progress(layer.hash, "Done", message=ALL_HAVE_IT))
    if moved:
        work.wake(MACHINE, moved)
    return len(moved)


def _move(cursor: Any, layer: Layer, step: Step) -> list[int]:
    """Machines that are asked to move now; what was asked before and has not begun may be taken back."""
    if step.cancel:
        _cancel(cursor, layer)
    if not step.move:
        return []
    reason = f"Layer {layer.kind} {layer.name} {layer.hash}"
    cursor.execute(_OPEN, [list(step.move), OWNER, reason, OwnerClass.ROLLOUT, OPERATION])
    return [row[0] for row in cursor.fetchall()]


def _read(cursor: Any, layer: Layer) -> Progress | None:
    cursor.execute(
        "SELECT hash, state, canary_id, canary_good_at, failed_machine, message, created_at FROM layer_rollout WHERE layer = %s AND object_id = %s FOR UPDATE",
        [layer.kind, layer.id],
    )
    row = cursor.fetchone()
    return None if row is None else Progress(*row)


def _look(cursor: Any, layer: Layer, progress: Progress | None) -> Sight:
    scope = (
        "m.cluster_id = %s"
        if layer.kind == "cluster"
        else "m.spec ->> 'className' = %s AND m.cluster_id <> ALL (%s::int[])"
    )
    values: list[Any] = (
        [layer.id]
        if layer.kind == "cluster"
        else [layer.name, [] if layer.resume == layer.hash else list(layer.manual_clusters)]
    )
    text = orjson.dumps(layer.value).decode()
    cursor.execute(
        "SELECT m.id, s.cond_true & %s <> 0 AND s.phase NOT IN ('Decommissioning', 'Retired') AND NOT s.paused "
        + _WHERE.format(scope=scope)
        + " ORDER BY s.phase <> 'Running', m.id LIMIT 2000",
        [_SEEN, *values, layer.kind, layer.kind, text],
    )
    found = cursor.fetchall()
    outdated = tuple(i for i, able in found if able)
    since = progress.since if progress is not None and progress.hash == layer.hash else clock.now()
    reason = f"Layer {layer.kind} {layer.name} {layer.hash}"
    cursor.execute(
        "SELECT count(*) FILTER (WHERE ended_at IS NULL), (array_agg(ARRAY[spec ->> 'machine', status ->> 'message'] ORDER BY ended_at) FILTER (WHERE phase = 'Failed' AND ended_at >= %s))[1:1] "
        "FROM machines_operation WHERE owner_class = %s AND spec ->> 'reason' = %s",
        [since, OwnerClass.ROLLOUT, reason],
    )
    open_, failed = cursor.fetchone()
    first = failed[0] if failed else ("", "")
    well = moved = False
    if progress is not None and progress.canary_id is not None:
        cursor.execute(
            "SELECT s.cond_true & %s = %s AND s.observed_hash = s.desired_hash, a.layers #> ARRAY['shared', %s] = %s::jsonb "
            "FROM machine_state s JOIN accepted a ON a.machine_id = s.id WHERE s.id = %s",
            [_WELL, _WELL, layer.kind, text, progress.canary_id],
        )
        well, moved = cursor.fetchone() or (False, False)
    return Sight(
        outdated, int(open_), (str(first[0]), str(first[1] or "")), bool(well), bool(moved), len(found) - len(outdated)
    )


def _write(cursor: Any, layer: Layer, old: Progress | None, new: Progress) -> None:
    if old == new:
        return
    versions = orjson.dumps(layer.value["versions"]).decode()
    cursor.execute(
        """INSERT INTO layer_rollout AS r (layer, object_id, from_versions, to_versions, hash, canary_id, canary_good_at, state, failed_machine, message, created_at)
           VALUES (%s, %s, '{}', %s::jsonb, %s, %s, %s, %s, %s, %s, %s)
           ON CONFLICT (layer, object_id) DO UPDATE SET from_versions = CASE WHEN r.hash <> excluded.hash THEN r.to_versions ELSE r.from_versions END,
             to_versions = excluded.to_versions, hash = excluded.hash, canary_id = excluded.canary_id, canary_good_at = excluded.canary_good_at,
             state = excluded.state, failed_machine = excluded.failed_machine, message = excluded.message, created_at = excluded.created_at, updated_at = now()""",
        [
            layer.kind,
            layer.id,
            versions,
            new.hash,
            new.canary_id,
            new.canary_good_at,
            new.state,
            new.failed_machine,
            new.message,
            new.since,
        ],
    )


def _cancel(cursor: Any, layer: Layer) -> None:
    """What has not begun does not begin; what runs is let end."""
    cursor.execute(
        """WITH c AS (UPDATE machines_operation SET phase = 'Cancelled', ended_at = now(), rv = greatest(fleet_pos(4), rv + 1)
             WHERE owner_class = %s AND spec ->> 'reason' LIKE %s AND started_at IS NULL AND ended_at IS NULL RETURNING id, rv, cluster_id)
           INSERT INTO change (rv, object_id, cluster_id, kind, op, old) SELECT rv, id, cluster_id, %s, 2, '{"fields": {"status.phase": "Pending"}}' FROM c""",
        [OwnerClass.ROLLOUT, f"Layer {layer.kind} {layer.name} %", OPERATION],
    )


def _show(layer: Layer, progress: Progress) -> None:
    condition = Condition("MachinesUpToDate", "False", progress.state, progress.message)
    if progress.state == "Done":
        condition = Condition("MachinesUpToDate", "True", "AllHaveIt", progress.message)
        if layer.coming:
            condition = Condition("MachinesUpToDate", "False", "WaitsForControlPlane", layer.coming)
    plural = "clusters" if layer.kind == "cluster" else "machineclasses"
    write_parts(storage_for(plural), {layer.id: Part(conditions=(condition,))})
