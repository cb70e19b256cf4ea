"""From layers and pins to the one set that a machine shall hold. Pure: no clock, no database, same input, same answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar

from fleet.control.digests import hash64
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json
from fleet.control.render import render, sha256
from machines.catalog import Catalog, ConfigVersion, PackageVersion
from machines.schema import artifacts_of

V = TypeVar("V", PackageVersion, ConfigVersion)
# Layers, weakest first. `machine` is a pin: rollouts leave it alone.
LAYERS: Final = ("cluster", "class", "rollout", "machine")


@dataclass(frozen=True, slots=True)
class Wish:
    """What one machine asks for: its own words and its shared layers, as accepted or as they are now.

    `shared`: {"cluster": {"name", "versions", "variables"}, "class": {...}}.
    """

    name: str
    uid: str
    spec: Json
    labels: Json
    shared: Json


@dataclass(frozen=True, slots=True)
class Resolved:
    """The answer: the set and its hash, or why there is none."""

    body: Json = field(default_factory=dict)
    hash: int = 0
    layer_of: Mapping[str, str] = field(default_factory=dict)  # package -> the layer that asked
    problem: tuple[str, str] | None = None  # (reason, sentence): VersionsResolved=False

    @property
    def ok(self) -> bool:
        return self.problem is None


def shared_layers(catalog: Catalog, cluster_id: int, spec: Json) -> Json:
    """The shared layers of a machine as they are now."""
    out: Json = {}
    cluster = catalog.clusters.get(cluster_id) if cluster_id else None
    if cluster is not None:
        out["cluster"] = layer_json(cluster.name, cluster.versions, cluster.spec.get("variables"))
    class_name = spec.get("className")
    if class_name and (known := catalog.classes.get(class_name)) is not None:
        out["class"] = layer_json(known.name, known.spec.get("versions"), known.spec.get("variables"))
    return out


def layer_json(name: str, versions: Json | None, variables: Json | None) -> Json:
    """A shared layer as machines remember it."""
    return {"name": name, "versions": versions or {}, "variables": variables or {}}


def wanted_versions(wish: Wish) -> tuple[dict[str, Any], dict[str, str]]:
    """(package -> version as written, package -> layer), the strongest layer last; disabled packages are left out."""
    versions: dict[str, Any] = {}
    layer_of: dict[str, str] = {}
    own = {"machine": {"versions": wish.spec.get("versions", {})}}
    for layer in LAYERS:
        for package, version in {**wish.shared, **own}.get(layer, {}).get("versions", {}).items():
            versions[package], layer_of[package] = version, layer
    for package in wish.spec.get("disabledPackages", []):
        versions.pop(package, None)
        layer_of.pop(package, None)
    return versions, layer_of


def numeric(text: str) -> Decimal | None:
    """The text as a plain decimal number, or None."""
    try:
        return Decimal(text) if text and text.replace(".", "", 1).isdigit() else None
    except InvalidOperation:
        return None


def approved_version(package: str, wanted: Any, known: Sequence[PackageVersion]) -> PackageVersion:
    """The one package version meant, if it may be used."""
    return _approved(find_version(package, wanted, known))


def _approved(found: V) -> V:
    if not found.approved:
        raise PermanentError(
            "NotApproved", f"{found.name} waits for the approval of a second person (annotation fleet.dev/approve)."
        )
    return found


def find_version(package: str, wanted: Any, known: Sequence[PackageVersion]) -> PackageVersion:
    """The one package version meant. A string means itself; a number only what is numerically equal to exactly one."""
    if isinstance(wanted, str):
        exact = next((p for p in known if p.version == wanted), None)
        if exact is None:
            raise PermanentError(
                "VersionUnknown", f"There is no MachinePackageVersion of {package} with version {wanted}."
            )
        return exact
    number = Decimal(str(wanted))
    equal = sorted((p for p in known if numeric(p.version) == number), key=lambda p: p.version)
    if len(equal) == 1:
        return equal[0]
    if not equal:
        raise PermanentError(
            "VersionUnknown",
            f"There is no MachinePackageVersion of {package} that equals the number {wanted}; write the version in quotes.",
        )
    choices = " or ".join(p.version for p in equal)
    raise PermanentError("VersionAmbiguous", f"{package}: {wanted} came as a number; write it in quotes: {choices}?")


def resolve(wish: Wish, catalog: Catalog) -> Resolved:
    """The set of a machine. Every problem is a sentence, never an exception: an unresolved machine keeps what it has."""
    versions, layer_of = wanted_versions(wish)
    class_name = wish.spec.get("className")
    try:
        if class_name and "class" not in wish.shared:
            raise PermanentError("ClassUnknown", f"There is no MachineClass {class_name}.")
        found = {p: approved_version(p, v, catalog.packages.get(p, ())) for p, v in sorted(versions.items())}
        ordered = in_order(found)
        body = _body(wish, catalog, [found[p] for p in ordered])
    except PermanentError as error:
        return Resolved(layer_of=layer_of, problem=(error.reason, error.message))
    return Resolved(body, hash64(body), layer_of)


def in_order(found: Mapping[str, PackageVersion]) -> list[str]:
    """Package names so that what is required comes first; cycles and missing ones are named."""
    needs: dict[str, list[str]] = {}
    for package, version in sorted(found.items()):
        needs[package] = [_required(package, text, found) for text in version.spec.get("requires", [])]
    out: list[str] = []
    path: list[str] = []

    def visit(package: str) -> None:
        if package in out:
            return
        if package in path:
            circle = " → ".join([*path[path.index(package) :], package])
            raise PermanentError("RequiresCycle", f"Packages require each other in a circle: {circle}.")
        path.append(package)
        for needed in needs[package]:
            visit(needed)
        path.pop()
        out.append(package)

    for package in sorted(needs):
        visit(package)
    return out


def _required(package: str, text: str, found: Mapping[str, PackageVersion]) -> str:
    name, _, least = text.partition(">=")
    there = found.get(name)
    if there is None:
        raise PermanentError("RequiredMissing", f"{package} requires {text}, and no layer asks for {name}.")
    if least and version_key(there.version) < version_key(least):
        raise PermanentError("RequiredTooOld", f"{package} requires {text}, but {name} is to be {there.version}.")
    return name


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """An order of versions: runs of digits count as numbers, `~` sorts before the end, as in Debian."""
    runs = re.findall(r"[0-9]+|[^0-9]+", version)
    keys = [(1, int(r), "") if r[0] in "0123456789" else (0 if r[0] == "~" else 2, 0, r) for r in runs]
    return (*keys, (1, -1, ""))


def _body(wish: Wish, catalog: Catalog, packages: Sequence[PackageVersion]) -> Json:
    body: Json = {"packages": [], "files": [], "sysctls": {}, "modules": [], "bootParameters": []}
    variables = _variables(wish)
    paths: dict[str, str] = {}
    for version in packages:
        body["packages"].append(_package(version))
        for pointer in version.spec.get("configMaps", []):
            config = catalog.configs.get((pointer["name"], pointer["value"]))
            if config is None:
                raise PermanentError(
                    "ConfigUnknown",
                    f"{version.name} points at configuration {pointer['name']} {pointer['value']}, which does not exist.",
                )
            _approved(config)
            values = {
                **variables,
                "machine": _facts(wish),
                "package": _about(version),
                "args": version.spec.get("args", []),
            }
            for file in config.spec.get("files", []):
                if file["path"] in paths:
                    raise PermanentError(
                        "FileTwice", f"{file['path']} is written by both {paths[file['path']]} and {config.name}."
                    )
                paths[file["path"]] = config.name
                body["files"].append(_file(file, values, config.name, version.package))
            for key, value in sorted(config.spec.get("sysctls", {}).items()):
                text = _sysctl(value)
                if body["sysctls"].setdefault(key, text) != text:
                    raise PermanentError("SysctlTwice", f"{key} is set to both {body['sysctls'][key]} and {text}.")
            body["modules"] += [m for m in config.spec.get("modules", []) if m not in body["modules"]]
            body["bootParameters"] += [
                b for b in config.spec.get("bootParameters", []) if b not in body["bootParameters"]
            ]
    return body


def _variables(wish: Wish) -> Json:
    """Weakest first: cluster, class, machine."""
    out: Json = {}
    for layer in ("cluster", "class", "rollout"):
        out |= wish.shared.get(layer, {}).get("variables", {})
    out |= wish.spec.get("variables", {})
    return out


def _facts(wish: Wish) -> Json:
    """What templates know about the machine as `machine`: declared things only, so that a look never changes a file."""
    spec = wish.spec
    names = ("clusterName", "className", "idc", "rack", "ip", "serialNumber", "hardwareModel")
    return {"name": wish.name, "uid": wish.uid, "labels": wish.labels, **{n: spec.get(n, "") for n in names}}


def _about(version: PackageVersion) -> Json:
    return {"name": version.package, "version": version.version, "args": version.spec.get("args", [])}


def _sysctl(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(str(value).split())


def _package(version: PackageVersion) -> Json:
    spec = version.spec
    check = spec.get("healthCheck", {})
    return {
        "name": version.package,
        "version": version.version,
        "kind": spec.get("kind", "Component"),
        "artifacts": [
            {
                "format": a["format"],
                "url": a["url"],
                "sha256": a.get("sha256", ""),
                "gpgKey": a.get("gpgKey", ""),
                "osFamily": a.get("when", {}).get("osFamily", ""),
                "architecture": a.get("when", {}).get("architecture", ""),
                "destination": a.get("destination", ""),
            }
            for a in artifacts_of(spec)
        ],
        "units": [
            {"name": u["name"], "enabled": u.get("enabled"), "started": u.get("started"), "masked": u.get("masked")}
            for u in spec.get("units", [])
        ],
        "disruption": spec.get("disruption", "Restart"),
        "requires": spec.get("requires", []),
        "healthCheck": check.get("command", []),
        "healthTimeout": check.get("timeoutSeconds", 30),
        "rollback": spec.get("rollbackOnFailure", False),
    }


def _file(file: Json, values: Json, source: str, package: str) -> Json:
    content = render(file.get("content", ""), values, f"{source}, {file['path']}")
    return {
        "path": file["path"],
        "content": content,
        "sha256": sha256(content),
        "mode": file.get("mode", "0644").rjust(4, "0"),
        "owner": _owner(file.get("owner", "root:root")),
        "validate": file.get("validate", []),
        "onChange": file.get("onChange", []),
        "source": source,
        "package": package,
    }


def _owner(text: str) -> str:
    return text if ":" in text else f"{text}:{text}"
