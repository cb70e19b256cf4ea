"""What shared objects say: package versions, configuration versions, clusters, classes, idcs, readiness rules. Read once a process, again when a table moves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

from clusters.following import machine_versions
from clusters.preflight import is_short
from fleet.api.approval import usable
from fleet.control.db import Connection
from fleet.control.kinds import Json
from machines.rules import Rule, rule_of
from machines.schema import config_version, package_version


@dataclass(frozen=True, slots=True)
class PackageVersion:
    """One MachinePackageVersion."""

    name: str
    uid: str
    package: str
    version: str
    spec: Json
    approved: bool = True  # by a second person, where that is required


@dataclass(frozen=True, slots=True)
class ConfigVersion:
    """One MachineConfigVersion."""

    name: str
    uid: str
    config: str
    version: str
    spec: Json
    approved: bool = True


@dataclass(frozen=True, slots=True)
class Shared:
    """A shared object: a cluster, a class or an idc. Of a cluster, `versions`: what its layer holds for machines now; `carried_by`: the
    meta cluster of its control plane; `ready`: whether it said so last, and that no part of its control plane lacks a replica."""

    id: int
    name: str
    spec: Json
    annotations: Json = field(default_factory=dict)
    versions: Json = field(default_factory=dict)
    carried_by: str = ""
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Catalog:
    """All shared objects at one moment. `revision` changes whenever any of them does."""

    packages: Mapping[str, tuple[PackageVersion, ...]] = field(default_factory=dict)  # by packageName
    configs: Mapping[tuple[str, str], ConfigVersion] = field(default_factory=dict)  # by (configName, version)
    clusters: Mapping[int, Shared] = field(default_factory=dict)  # by row id
    classes: Mapping[str, Shared] = field(default_factory=dict)
    idcs: Mapping[str, Shared] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()  # in order of name
    revision: tuple[Any, ...] = ()

    def cluster_named(self, name: str) -> Shared | None:
        """The cluster of that name."""
        return next((c for c in self.clusters.values() if c.name == name), None)

    def package(self, name: str, version: str) -> PackageVersion | None:
        """Exactly that version."""
        return next((p for p in self.packages.get(name, ()) if p.version == version), None)


_MARKS: Final[LiteralString] = """
SELECT (SELECT row(count(*), max(rv))::text FROM machines_machinepackageversion), (SELECT row(count(*), max(rv))::text FROM machines_machineconfigversion),
  (SELECT row(count(*), max(rv))::text FROM machines_machineclass), (SELECT row(count(*), max(rv))::text FROM clusters_cluster), (SELECT row(count(*), max(rv))::text FROM clusters_idc),
  (SELECT row(count(*), max(rv))::text FROM machines_readinessrule)
"""
_known: Catalog | None = None


async def catalog(conn: Connection) -> Catalog:
    """The shared objects as they are now; only tables that moved are read again.

    A status write of a cluster moves its rv too: the price is one small read, never a wrong answer.
    """
    global _known
    old = _known or Catalog(revision=("",) * 6)
    marks = await (await conn.execute(_MARKS, prepare=True)).fetchone()
    if marks is None or tuple(marks) == old.revision:
        return old
    moved = [a != b for a, b in zip(marks, old.revision, strict=True)]
    _known = Catalog(
        packages=await _packages(conn) if moved[0] else old.packages,
        configs=await _configs(conn) if moved[1] else old.configs,
        classes={
            s.name: s for s in await _shared(conn, "SELECT id, name, spec, annotations FROM machines_machineclass")
        }
        if moved[2]
        else old.classes,
        clusters=await _clusters(conn) if moved[3] else old.clusters,
        idcs={s.name: s for s in await _shared(conn, "SELECT id, name, spec, annotations FROM clusters_idc")}
        if moved[4]
        else old.idcs,
        rules=await _rules(conn) if moved[5] else old.rules,
        revision=tuple(marks),
    )
    return _known


async def _packages(conn: Connection) -> dict[str, tuple[PackageVersion, ...]]:
    found = await conn.execute(
        "SELECT name, uid::text, spec, status FROM machines_machinepackageversion WHERE deleted_at IS NULL ORDER BY name"
    )
    grouped: defaultdict[str, list[PackageVersion]] = defaultdict(list)
    for name, uid, spec, status in await found.fetchall():
        version = package_version({"metadata": {"name": name}, "spec": spec})
        grouped[spec["packageName"]].append(
            PackageVersion(name, uid, spec["packageName"], version, spec, usable(status))
        )
    return {name: tuple(versions) for name, versions in grouped.items()}


async def _configs(conn: Connection) -> dict[tuple[str, str], ConfigVersion]:
    found = await conn.execute(
        "SELECT name, uid::text, spec, status FROM machines_machineconfigversion WHERE deleted_at IS NULL"
    )
    out = {}
    for name, uid, spec, status in await found.fetchall():
        version = config_version({"metadata": {"name": name}, "spec": spec})
        out[spec["configName"], version] = ConfigVersion(name, uid, spec["configName"], version, spec, usable(status))
    return out


async def _clusters(conn: Connection) -> dict[int, Shared]:
    """With the versions of their layers. A ClusterPackageVersion never changes while a cluster names it: clusters alone mark it."""
    found = await conn.execute(
        "SELECT name, kubernetes_version, spec -> 'machineVersions' FROM clusters_clusterpackageversion"
    )
    packages = {n: {"kubernetesVersion": k, "machineVersions": v or {}} for n, k, v in await found.fetchall()}
    rows = await conn.execute(
        "SELECT id, name, spec, annotations, jsonb_build_object('packageVersion', status -> 'packageVersion'),"
        """ status -> 'conditions' @> '[{"type": "Ready", "status": "True"}]' , coalesce(status -> 'components', '[]') FROM clusters_cluster"""
    )
    return {
        id_: Shared(
            id_, name, spec, annotations, machine_versions(spec, status, packages), _carrier(spec),
            bool(ready) and not any(is_short(c) for c in components),
        )
        for id_, name, spec, annotations, status, ready, components in await rows.fetchall()
    }  # fmt: skip


def _carrier(spec: Json) -> str:
    return str(spec.get("controlPlane", {}).get("metaCluster") or "")


async def _rules(conn: Connection) -> tuple[Rule, ...]:
    found = await conn.execute("SELECT name, spec FROM machines_readinessrule WHERE deleted_at IS NULL ORDER BY name")
    return tuple(rule_of(name, spec) for name, spec in await found.fetchall())


async def _shared(conn: Connection, sql: LiteralString) -> list[Shared]:
    return [Shared(*row) for row in await (await conn.execute(sql)).fetchall()]
