"""What a proposed spec would lead to, said before it is written: the plan from the accepted set to the proposed one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from fleet.control import db
from fleet.control.kinds import Json
from machines.accepting import kept_layers
from machines.analyze import Diff, Leftover, compare
from machines.catalog import Catalog, catalog
from machines.desired import wanted_units
from machines.hosts import Facts, FileFact, PackageFact, UnitFact
from machines.plan import Plan, converge
from machines.resolve import Wish, resolve, shared_layers
from machines.rows import InventoryRow

_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)  # when a package was installed plays no part here
SHOWN: Final = 12  # differences that are told one by one
_STORED: Final = """
SELECT m.uid::text, a.layers, q.body, f.facts ->> 'kernel',
  (SELECT jsonb_agg(jsonb_build_array(n.package, n.version, n.host_version)) FROM inventory n WHERE n.machine_id = m.id AND n.removed_at IS NULL)
FROM machine m JOIN machine_state s ON s.id = m.id LEFT JOIN accepted a ON a.machine_id = m.id LEFT JOIN accepted_set q ON q.hash = s.desired_hash
  LEFT JOIN machine_fact f ON f.machine_id = m.id WHERE m.name = %s
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """What Fleet knows of the machine now; all of it empty for one that is new."""

    uid: str = ""
    layers: Json | None = None
    body: Json | None = None
    kernel: str = ""
    inventory: tuple[tuple[str, str, str], ...] = ()  # (package, version, host's version)


@dataclass(frozen=True, slots=True)
class Foreseen:
    """The plan, or the sentence why there is none. `diffs` against the accepted set, not against what a host may have drifted to."""

    plan: Plan | None = None
    diffs: Sequence[Diff] = ()
    problem: str = ""

    def sentences(self) -> list[str]:
        """For people, one a line."""
        if self.problem:
            return [f"plan: none: {self.problem}"]
        if self.plan is None:
            return ["plan: nothing would be done"]
        steps = ", ".join(f"{s.verb} {s.subject}".strip() for s in self.plan.steps)
        more = len(self.diffs) - SHOWN
        out = [f"plan: disruption {self.plan.disruption}; {len(self.plan.steps)} steps: {steps}"[:900]]
        out += [f"plan: {d.sentence}"[:300] for d in self.diffs[:SHOWN]]
        return out + ([f"plan: and {more} differences more"] if more > 0 else [])


def foresee(obj: Json) -> Foreseen:
    """What Fleet would do to the machine if its spec were that of `obj`. For threads without an event loop."""
    return asyncio.run(_foresee(obj))


async def _foresee(obj: Json) -> Foreseen:
    conn = await db.connect()
    try:
        known = await catalog(conn)
        row = await (await conn.execute(_STORED, [obj["metadata"]["name"]])).fetchone()
    finally:
        await conn.close()
    return proposed(obj, _stored(row), known)


def _stored(row: Any) -> Stored:
    if row is None:
        return Stored()
    return Stored(row[0], row[1], row[2], row[3] or "", tuple((p, v, h) for p, v, h in row[4] or ()))


def proposed(obj: Json, stored: Stored, known: Catalog) -> Foreseen:
    """The same without reading. Layers stay as accepted: a changed layer reaches the machine by a rollout only."""
    spec, meta = obj["spec"], obj["metadata"]
    cluster = known.cluster_named(spec.get("clusterName", ""))
    live = shared_layers(known, cluster.id if cluster else 0, spec)
    taken = (stored.layers or {}).get("shared")
    shared = live if taken is None else kept_layers(taken, live)
    found = resolve(Wish(meta["name"], stored.uid or meta.get("uid", ""), spec, meta.get("labels", {}), shared), known)
    if not found.ok:
        return Foreseen(problem=found.problem[1] if found.problem else "the versions do not resolve")
    named = {p["name"] for p in found.body["packages"]} | set(spec.get("disabledPackages", []))
    paths = {f["path"] for f in found.body["files"]}
    stale = {f["path"]: f["sha256"] for f in (stored.body or {}).get("files", []) if f["path"] not in paths}
    left = Leftover(tuple(p for p, _, _ in stored.inventory if p not in named), stale)
    inventory = [InventoryRow(p, v, "", h, "", _LONG_AGO) for p, v, h in stored.inventory]
    diffs = compare(found.body, facts_of(stored), inventory, left)
    return Foreseen(converge(diffs, found.body) if diffs else None, diffs)


def facts_of(stored: Stored) -> Facts:
    """A host that is exactly as accepted."""
    body = stored.body
    if body is None:
        return Facts(0, os_family="debian", kernel=stored.kernel)
    versions: Mapping[str, str] = {p: host for p, _, host in stored.inventory}
    packages = {
        p["name"]: PackageFact(versions.get(p["name"]) or p["version"], declared=p["version"]) for p in body["packages"]
    }
    units = {
        name: UnitFact(
            "masked" if unit.masked else "loaded", "enabled" if unit.enabled else "disabled", "active" if unit.started and not unit.masked else "inactive"
        )
        for name, (unit, _) in wanted_units(body).items()
    }  # fmt: skip
    packages |= {
        p: PackageFact(host or version, declared=version) for p, version, host in stored.inventory if p not in packages
    }
    return Facts(
        0,
        kernel=stored.kernel,
        boot_parameters=" ".join(body["bootParameters"]),
        packages=packages,
        files={f["path"]: FileFact(f["sha256"], f["mode"], f["owner"]) for f in body["files"]},
        units=units,
        sysctls=dict(body["sysctls"]),
        modules=dict.fromkeys(body["modules"], True),
        kept_sysctls=tuple(sorted(body["sysctls"])),
        kept_modules=tuple(sorted(body["modules"])),
        kept_boot=tuple(sorted(body["bootParameters"])),
    )
