"""Drivers by name: which adapter of the port to hosts a machine is reached through, and how its target is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from fleet.control import clock
from fleet.control.addresses import refusal
from fleet.control.kinds import Json
from fleet.control.networks import allowed_networks
from machines.catalog import Catalog
from machines.hosts import Hosts, Login, StepRef, Target
from machines.rows import Row

SSH: Final = "ssh"
CONNECTIONS: Final = 50  # of SSH to one idc at a time, where the Idc says nothing else
connections: dict[str, int] = {}  # what Idcs say, kept by the reconciler
_factories: dict[str, Callable[[], Hosts]] = {}


def register_driver(name: str, factory: Callable[[], Hosts]) -> None:
    """Make a driver known; the factory is called once a worker process."""
    _factories[name] = factory


def driver(name: str) -> Hosts:
    """A new adapter; KeyError names a driver that is not built in."""
    if name == SSH and SSH not in _factories:
        return _ssh()
    return _factories[name]()


def _ssh() -> Hosts:
    from machines.ssh import SshHosts

    networks = allowed_networks()
    return SshHosts(
        allowed=lambda address: refusal(address, networks),
        limit_of=lambda idc: connections.get(idc, CONNECTIONS),
        clock=clock.unix,
    )


def settings_of(row: Row, catalog: Catalog) -> Json:
    """`driver` of the machine, laid over that of its class, over that of its cluster."""
    cluster = catalog.clusters.get(row.cluster_id)
    class_ = catalog.classes.get(row.spec.get("className", ""))
    out: dict[str, Any] = {}
    for spec in (cluster.spec if cluster else {}, class_.spec if class_ else {}, row.spec):
        out |= spec.get("driver", {})
    return out


def target_of(
    row: Row,
    wanted: Json,
    body: Json,
    *,
    login: Login | None = None,
    polls: tuple[StepRef, ...] = (),
    stale: tuple[str, ...] = (),
    contents: bool = True,
) -> Target:
    """The host, and what of it shall be looked at: what is wanted and what Fleet once put there."""
    names = {p["name"] for p in body.get("packages", [])} | {r.package for r in row.inventory}
    files = tuple(f["path"] for f in body.get("files", []))
    checks: Mapping[str, tuple[str, ...]] = {
        p["name"]: tuple(p["healthCheck"]) for p in body.get("packages", []) if p["healthCheck"]
    }
    return Target(
        key=row.id,
        uid=row.uid,
        name=row.name,
        address=row.spec.get("ip", ""),
        idc=row.spec.get("idc", ""),
        port=wanted.get("port", 22),
        login=login,
        host_keys=tuple(wanted.get("hostKeys", ())),
        serial_number=row.spec.get("serialNumber", ""),
        packages=tuple(sorted(names)),
        files=(*files, *(p for p in stale if p not in files)),
        units=tuple(u["name"] for p in body.get("packages", []) for u in p["units"]),
        sysctls=tuple(body.get("sysctls", {})),
        modules=tuple(body.get("modules", ())),
        health_checks=checks,
        with_content_of=files if contents else (),
        polls=polls,
    )
