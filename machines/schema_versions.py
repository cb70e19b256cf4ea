"""The kinds of what is installed: MachinePackageVersion and MachineConfigVersion."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clusters.schema import CONDITIONS, NAME_PATTERN
from fleet.control.kinds import CONFIG_VERSION, PACKAGE_VERSION, Column, Json, Kind, Problem

UNIT_PATTERN = r"[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|mount|target|path|slice)"
PATH_PATTERN = r"/[A-Za-z0-9._/@:+,=~ -]*[A-Za-z0-9._@:+,=~-]"
SHA256 = {
    "type": "string",
    "pattern": "[0-9a-f]{64}",
    "x-fleet-pattern-means": "must be 64 hexadecimal digits in lower case",
}
ARGV: Json = {
    "type": "array",
    "items": {"type": "string", "maxLength": 1024, "pattern": r"[^\x00\r\n]*"},
    "maxItems": 64,
}

_URL = {
    "type": "string",
    "maxLength": 2048,
    "pattern": r"(https?|file)://[^\s'\"\\<>`$;|&(){}]+|/[^\s'\"\\<>`$;|&(){}]+|simulated:[A-Za-z0-9._/+~:-]+",
    "x-fleet-pattern-means": "must be an http, https or file URL, or an absolute path, without spaces, quotes or shell characters",
}
_ARTIFACT: Json = {
    "type": "object",
    "required": ["format", "url"],
    "properties": {
        "format": {"type": "string", "enum": ["deb", "rpm", "tarball"]},
        "url": _URL,
        "sha256": SHA256,
        "gpgKey": {
            "type": "string",
            "maxLength": 65536,
            "description": "ASCII-armoured public key that signed the rpm.",
        },
        "when": {
            "type": "object",
            "properties": {
                "osFamily": {"type": "string", "enum": ["debian", "rhel"]},
                "architecture": {"type": "string", "enum": ["amd64", "arm64"]},
            },
        },
        "destination": {
            "type": "string",
            "pattern": PATH_PATTERN,
            "maxLength": 1024,
            "description": "Tarball: folder it is unpacked into.",
        },
    },
}


def package_version(obj: Json) -> str:
    """`spec.version`, by default the name without the `packageName-` prefix."""
    spec = obj.get("spec", {})
    if spec.get("version") not in (None, ""):
        return str(spec["version"])
    return str(obj["metadata"].get("name", "")).removeprefix(f"{spec.get('packageName', '')}-")


def config_version(obj: Json) -> str:
    """`spec.version`, by default the name without the `configName-` prefix."""
    spec = obj.get("spec", {})
    if spec.get("version") not in (None, ""):
        return str(spec["version"])
    return str(obj["metadata"].get("name", "")).removeprefix(f"{spec.get('configName', '')}-")


def artifacts_of(spec: Json) -> list[Json]:
    """`config.artifacts[]`, the shorthand `rpm: url` written out."""
    config = spec.get("config", {})
    short = [
        {"format": f, "url": config[f], "sha256": config.get("sha256", ""), "gpgKey": config.get("gpgKey", "")}
        for f in ("deb", "rpm", "tarball")
        if config.get(f)
    ]
    return [*config.get("artifacts", []), *short]


def _check_package(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new.get("spec", {})
    problems = []
    for index, artifact in enumerate(spec.get("config", {}).get("artifacts", [])):
        if ".." in artifact.get("destination", "").split("/"):
            problems.append(Problem(f"spec.config.artifacts[{index}].destination", "may not climb with .."))
    if spec.get("packageName") in spec.get("requires", []):
        problems.append(Problem("spec.requires", f"{spec['packageName']} cannot require itself"))
    return problems


def _warn_package(obj: Json) -> list[str]:
    bare = [a for a in artifacts_of(obj.get("spec", {})) if not a.get("sha256") and not a.get("gpgKey")]
    return [f"{a['url'][:120]} has neither sha256 nor gpgKey: it will never be installed" for a in bare]


_APPROVAL: Json = {
    "hash": {
        "type": "string",
        "description": "Hash of the spec; what an approver names in the annotation fleet.dev/approve.",
    },
    "author": {"type": "string", "description": "Who wrote it."},
    "approvedBy": {
        "type": "string",
        "description": "Who approved it; where approval is required it is not used before.",
    },
}

PACKAGE_VERSION_KIND = Kind(
    kind="MachinePackageVersion",
    plural="machinepackageversions",
    singular="machinepackageversion",
    number=PACKAGE_VERSION,
    short_names=("mpv",),
    description="One version of one package: what is downloaded, how it is installed, configured and checked. Immutable.",
    immutable=True,
    spec={
        "type": "object",
        "description": "The package version.",
        "required": ["packageName"],
        "properties": {
            "packageName": {
                "type": "string",
                "maxLength": 128,
                "pattern": NAME_PATTERN,
                "description": "Name by which machines ask for it.",
            },
            "version": {
                "type": "string",
                "maxLength": 128,
                "pattern": r"[A-Za-z0-9][A-Za-z0-9.+:~_-]*",
                "description": "By default the object's name without the `packageName-` prefix.",
            },
            "kind": {
                "type": "string",
                "enum": ["Component", "Configuration", "KernelPatch"],
                "description": "Component by default.",
            },
            "config": {
                "type": "object",
                "description": "Artifacts. `deb: url`, `rpm: url`, `tarball: url` are short for one of them.",
                "properties": {
                    "deb": _URL,
                    "rpm": _URL,
                    "tarball": _URL,
                    "sha256": SHA256,
                    "gpgKey": {"type": "string", "maxLength": 65536},
                    "artifacts": {"type": "array", "items": _ARTIFACT, "maxItems": 32},
                },
            },
            "configMaps": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "description": "MachineConfigVersions that go with it: configName and version.",
                "items": {
                    "type": "object",
                    "required": ["name", "value"],
                    "properties": {
                        "name": {"type": "string", "maxLength": 128, "pattern": NAME_PATTERN},
                        "value": {"type": "string", "maxLength": 128, "pattern": r"[A-Za-z0-9][A-Za-z0-9.+:~_-]*"},
                    },
                },
            },
            "units": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "description": "systemd units that shall be so.",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string", "maxLength": 255, "pattern": UNIT_PATTERN},
                        "enabled": {"type": "boolean"},
                        "started": {"type": "boolean"},
                        "masked": {"type": "boolean"},
                    },
                },
            },
            "args": {
                "type": "array",
                "items": {"type": "string", "maxLength": 1024, "pattern": r"[^\x00\r\n]*"},
                "description": "Start arguments, for templates as `args`.",
            },
            "disruption": {
                "type": "string",
                "enum": ["None", "Reload", "Restart", "Drain", "Reboot"],
                "description": "How hard installing it is on the machine; Restart by default.",
            },
            "requires": {
                "type": "array",
                "items": {"type": "string", "maxLength": 256, "pattern": NAME_PATTERN + r"(>=[A-Za-z0-9.+:~_-]+)?"},
                "x-kubernetes-list-type": "set",
                "description": "Packages that must be there before: name or name>=version.",
            },
            "healthCheck": {
                "type": "object",
                "required": ["command"],
                "properties": {
                    "command": ARGV | {"minItems": 1},
                    "timeoutSeconds": {"type": "integer", "minimum": 1, "maximum": 600},
                },
                "description": "Exit code 0 = well.",
            },
            "rollbackOnFailure": {
                "type": "boolean",
                "description": "Put the previous version back when the health check fails.",
            },
        },
    },
    status={
        "type": "object",
        "properties": {
            "machines": {"type": "integer", "description": "Machines whose accepted set holds it."},
            **_APPROVAL,
            "conditions": CONDITIONS,
        },
    },
    columns=(
        Column("Package", lambda o, now: o["spec"].get("packageName", ""), description="Package name."),
        Column("Version", lambda o, now: package_version(o), description="Version."),
        Column(
            "Disruption", lambda o, now: o["spec"].get("disruption", "Restart"), description="How hard on the machine."
        ),
        Column(
            "Verifiable",
            lambda o, now: "False" if _warn_package(o) else "True",
            description="Every artifact has a checksum or a signature.",
        ),
    ),
    selectable=("spec.packageName",),
    validate=_check_package,
    warn=_warn_package,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "MachinePackageVersion",
        "metadata": {"name": "pouch-1.0"},
        "spec": {
            "packageName": "pouch",
            "config": {"deb": "https://packages.example/pouch_1.0_amd64.deb", "sha256": "0" * 64},
            "configMaps": [{"name": "pouch-config", "value": "v1"}],
            "units": [{"name": "pouch.service", "enabled": True, "started": True}],
        },
    },
)

_FILE: Json = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "path": {
            "type": "string",
            "maxLength": 1024,
            "pattern": PATH_PATTERN,
            "x-fleet-pattern-means": "must be an absolute path without .. and control characters",
        },
        "mode": {"type": "string", "pattern": "0?[0-7]{3,4}", "description": "Octal, 0644 by default."},
        "owner": {
            "type": "string",
            "maxLength": 128,
            "pattern": r"[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?",
            "description": "user:group, root:root by default.",
        },
        "content": {
            "type": "string",
            "maxLength": 524288,
            "description": "Jinja2 template: variables, machine, package.",
        },
        "validate": ARGV
        | {"description": "Command that must succeed before the file is put in place; %s = the new file."},
        "onChange": {
            "type": "array",
            "items": {"type": "string", "maxLength": 300, "pattern": r"daemon-reload|(reload|restart):" + UNIT_PATTERN},
            "description": "reload:UNIT, restart:UNIT, daemon-reload.",
        },
    },
}
_SYSCTL_KEY = r"[a-z0-9_]+(\.[A-Za-z0-9_*/-]+)+"
_WORD = {"type": "string", "maxLength": 256, "pattern": r"[^\s'\"\x00]+( [^\s'\"\x00]+)*"}


def _check_config(new: Json, old: Json | None) -> Sequence[Problem]:
    problems = []
    seen: set[str] = set()
    for index, file in enumerate(new.get("spec", {}).get("files", [])):
        path = file["path"]
        if re.search(r"(^|/)\.\.?(/|$)", path) or "//" in path:
            problems.append(Problem(f"spec.files[{index}].path", f'"{path}": may not hold . or .. or empty parts'))
        if path.startswith(("/var/lib/fleet/", "/usr/local/lib/fleet/", "/proc/", "/sys/", "/dev/")):
            problems.append(
                Problem(f"spec.files[{index}].path", f'"{path}": this place is not for configuration files')
            )
        if path in seen:
            problems.append(Problem(f"spec.files[{index}].path", f'"{path}"', "FieldValueDuplicate"))
        seen.add(path)
    return problems


CONFIG_VERSION_KIND = Kind(
    kind="MachineConfigVersion",
    plural="machineconfigversions",
    singular="machineconfigversion",
    number=CONFIG_VERSION,
    short_names=("mcv",),
    description="One version of a configuration: files, sysctls, kernel modules, boot parameters. Immutable.",
    immutable=True,
    spec={
        "type": "object",
        "description": "The configuration.",
        "required": ["configName"],
        "properties": {
            "configName": {
                "type": "string",
                "maxLength": 128,
                "pattern": NAME_PATTERN,
                "description": "Name by which packages point at it.",
            },
            "version": {
                "type": "string",
                "maxLength": 128,
                "pattern": r"[A-Za-z0-9][A-Za-z0-9.+:~_-]*",
                "description": "By default the object's name without the `configName-` prefix.",
            },
            "files": {"type": "array", "items": _FILE, "maxItems": 200, "description": "Files as they shall be."},
            "sysctls": {
                "type": "object",
                "additionalProperties": {
                    "anyOf": [{"type": "string"}, {"type": "number"}],
                    "maxLength": 256,
                    "pattern": r"[^\n\r\x00'\"]+",
                },
                "x-fleet-keys": _SYSCTL_KEY,
                "description": "Kernel parameters.",
            },
            "modules": {
                "type": "array",
                "items": {"type": "string", "maxLength": 128, "pattern": r"[A-Za-z0-9_-]+"},
                "x-kubernetes-list-type": "set",
                "description": "Kernel modules that shall be loaded.",
            },
            "bootParameters": {
                "type": "array",
                "items": _WORD,
                "x-kubernetes-list-type": "set",
                "description": "Kernel command line; takes a reboot.",
            },
        },
    },
    status={"type": "object", "properties": {**_APPROVAL, "conditions": CONDITIONS}},
    columns=(
        Column("Config", lambda o, now: o["spec"].get("configName", ""), description="Configuration name."),
        Column("Version", lambda o, now: config_version(o), description="Version."),
        Column("Files", lambda o, now: len(o["spec"].get("files", [])), "integer", "Number of files."),
    ),
    selectable=("spec.configName",),
    validate=_check_config,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "MachineConfigVersion",
        "metadata": {"name": "pouch-config-v1"},
        "spec": {
            "configName": "pouch-config",
            "files": [
                {
                    "path": "/etc/pouch/config.json",
                    "content": '{"idc": "{{ machine.idc }}"}\n',
                    "onChange": ["restart:pouch.service"],
                }
            ],
            "sysctls": {"net.core.somaxconn": "1024"},
        },
    },
)
