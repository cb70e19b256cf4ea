"""The accepted set in the words of the port to hosts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fleet.control.kinds import Json
from machines.hosts import Artifact, WantedFile, WantedPackage, WantedUnit


def package_of(entry: Json, mirrors: tuple[tuple[str, str], ...] = ()) -> WantedPackage:
    """One package of an accepted set; URLs go through the idc's mirrors here, so that a mirror never changes a set."""
    return WantedPackage(
        name=entry["name"],
        version=entry["version"],
        artifacts=tuple(artifact_of(a, mirrors) for a in entry["artifacts"]),
        kind=entry["kind"],
        units=tuple(unit_of(u) for u in entry["units"]),
        disruption=entry["disruption"],
        requires=tuple(entry["requires"]),
        health_check=tuple(entry["healthCheck"]),
        health_timeout_seconds=entry["healthTimeout"],
        rollback_on_failure=entry["rollback"],
    )


def unit_of(entry: Json) -> WantedUnit:
    """A unit of a package. What shall be enabled or started cannot stay masked."""
    alive = bool(entry["enabled"] or entry["started"])
    masked = False if entry["masked"] is None and alive else entry["masked"]
    return WantedUnit(entry["name"], entry["enabled"], entry["started"], masked)


def artifact_of(entry: Json, mirrors: tuple[tuple[str, str], ...] = ()) -> Artifact:
    """One artifact, its URL rewritten by the first mirror whose `from` it begins with."""
    made = Artifact(
        format=entry["format"],
        url=entry["url"],
        sha256=entry["sha256"],
        gpg_key=entry["gpgKey"],
        os_family=entry["osFamily"],
        architecture=entry["architecture"],
        destination=entry["destination"],
    )
    for source, mirror in mirrors:
        if made.url.startswith(source):
            return replace(made, url=mirror + made.url[len(source) :])
    return made


def file_of(entry: Json) -> WantedFile:
    """One file of an accepted set."""
    return WantedFile(
        path=entry["path"],
        content=entry["content"],
        sha256=entry["sha256"],
        mode=entry["mode"],
        owner=entry["owner"],
        validate=tuple(entry["validate"]),
        on_change=tuple(entry["onChange"]),
        source=entry["source"],
    )


def verifiable(entry: Json) -> bool:
    """Each artifact of the package has a checksum or a key; a package without artifacts has nothing to verify."""
    return all(a["sha256"] or a["gpgKey"] for a in entry["artifacts"])


def by_name(body: Json) -> Mapping[str, Json]:
    """Packages of an accepted set by name."""
    return {p["name"]: p for p in body.get("packages", [])}


def wanted_units(body: Json) -> dict[str, tuple[WantedUnit, str]]:
    """Unit -> (as wanted, package)."""
    return {u["name"]: (unit_of(u), p["name"]) for p in body.get("packages", []) for u in p["units"]}
