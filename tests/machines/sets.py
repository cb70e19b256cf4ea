"""Catalogs, wishes, sets and facts for tests of the pure modules."""

from __future__ import annotations

from typing import Any

from fleet.control.kinds import Json
from machines.catalog import Catalog, ConfigVersion, PackageVersion
from machines.hosts import Facts, FileFact, PackageFact, UnitFact
from machines.resolve import Wish, layer_json, resolve

UID = "00000000-0000-0000-0000-000000000001"


def version(name: str, number: str, **spec: Any) -> PackageVersion:
    plain: Json = {"packageName": name, "config": {"deb": f"http://p/{name}_{number}.deb", "sha256": "ab" * 32}}
    return PackageVersion(f"{name}-{number}", f"uid-{name}-{number}", name, number, plain | spec)


def config(name: str, number: str = "v1", **spec: Any) -> ConfigVersion:
    return ConfigVersion(f"{name}-{number}", f"uid-{name}-{number}", name, number, {"configName": name, **spec})


def catalog(*found: PackageVersion | ConfigVersion) -> Catalog:
    packages: dict[str, tuple[PackageVersion, ...]] = {}
    configs = {}
    for each in found:
        if isinstance(each, PackageVersion):
            packages[each.package] = (*packages.get(each.package, ()), each)
        else:
            configs[each.config, each.version] = each
    return Catalog(packages, configs)


def wish(versions: Json | None = None, cluster: Json | None = None, klass: Json | None = None, **spec: Any) -> Wish:
    shared = {}
    if cluster is not None:
        shared["cluster"] = layer_json("c1", cluster, spec.pop("cluster_variables", {}))
    if klass is not None:
        shared["class"] = layer_json("gpu", klass, {})
    return Wish("m1", UID, {"idc": "iad1", "ip": "10.0.0.1", "versions": versions or {}, **spec}, {}, shared)


def pouch_set(**spec: Any) -> Json:
    """A set with one package, its unit and its file."""
    unit = {"name": "pouch.service", "enabled": True, "started": True}
    one = version(
        "pouch",
        "1.0",
        units=[unit],
        configMaps=[{"name": "conf", "value": "v1"}],
        healthCheck={"command": ["true"]},
        **spec,
    )
    files = [{"path": "/etc/pouch.conf", "content": "a\nb\n", "onChange": ["restart:pouch.service"]}]
    return resolve(wish({"pouch": "1.0"}), catalog(one, config("conf", files=files))).body


def facts(body: Json, **changes: Any) -> Facts:
    """What a host shows that holds exactly that set."""
    plain: Json = {
        "key": 1,
        "os_family": "debian",
        "architecture": "amd64",
        "kernel": "6.1.0-40-amd64",
        "boot_id": "boot-1",
        "boot_parameters": " ".join(["ro", "quiet", *body["bootParameters"]]),
        "system_state": "running",
        "packages": {p["name"]: PackageFact(p["version"], "installed", p["version"]) for p in body["packages"]},
        "files": {f["path"]: FileFact(f["sha256"], f["mode"], f["owner"], f["content"]) for f in body["files"]},
        "units": {u["name"]: UnitFact("loaded", "enabled", "active") for p in body["packages"] for u in p["units"]},
        "sysctls": dict(body["sysctls"]),
        "modules": dict.fromkeys(body["modules"], True),
        "health": {p["name"]: (0, "") for p in body["packages"] if p["healthCheck"]},
    }
    return Facts(**(plain | changes))
