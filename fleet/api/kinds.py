"""The kinds that the API itself brings: Credential."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from fleet.api.kubeconfig import KubeconfigError, parse
from fleet.control.addresses import literal_refusal
from fleet.control.kinds import CREDENTIAL, Column, Json, Kind, Problem
from fleet.control.networks import allowed_networks

_DATA_KEYS = {
    "ssh": ({"username", "privateKey", "passphrase", "password"}, {"privateKey", "password"}),
    "kubeconfig": ({"kubeconfig"}, {"kubeconfig"}),
    "redfish": ({"username", "password"}, {"password"}),
}


def _check(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new.get("spec", {})
    allowed, one_of = _DATA_KEYS[spec["type"]]
    problems = [
        Problem(f"spec.data[{key}]"[:200], f"a credential of type {spec['type']} knows {', '.join(sorted(allowed))}")
        for key in spec.get("data", {})
        if key not in allowed
    ]
    if old is None and not any(spec.get("data", {}).get(k) for k in one_of):
        problems.append(Problem("spec.data", f"one of {', '.join(sorted(one_of))} is required", "FieldValueRequired"))
    if old is not None and old.get("spec", {}).get("type") != spec["type"]:
        problems.append(Problem("spec.type", "is fixed once the credential is there", "FieldValueForbidden"))
    if old is None and spec["type"] == "redfish" and not spec.get("data", {}).get("username"):
        problems.append(Problem("spec.data[username]", "who enters the controllers is required", "FieldValueRequired"))
    if spec["type"] == "kubeconfig" and spec.get("data", {}).get("kubeconfig"):
        problems += _check_kubeconfig(spec["data"]["kubeconfig"])
    for index, network in enumerate(spec.get("networks", [])):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            problems.append(Problem(f"spec.networks[{index}]", str(error)))
    return problems


def _check_kubeconfig(text: str) -> list[Problem]:
    """What the text alone tells; a name is looked at when Fleet connects."""
    try:
        found = parse(text)
    except KubeconfigError as error:
        return [Problem("spec.data[kubeconfig]", str(error))]
    why = literal_refusal(found.host, allowed_networks())
    return (
        [Problem("spec.data[kubeconfig]", f"has the server {found.server}: {why}", "FieldValueForbidden")]
        if why
        else []
    )


CREDENTIAL_KIND = Kind(
    kind="Credential",
    plural="credentials",
    singular="credential",
    number=CREDENTIAL,
    short_names=("cred",),
    description="A secret that Fleet uses at hosts and at clusters of others. Its data can be written and never read; it is sealed so that only workers can open it.",
    spec={
        "type": "object",
        "description": "What the credential is, and where it may go.",
        "required": ["type"],
        "properties": {
            "type": {
                "type": "string",
                "enum": ["ssh", "kubeconfig", "redfish"],
                "description": "ssh: username (default root), privateKey, passphrase, password. kubeconfig: kubeconfig, of an Imported cluster. redfish: username and password, of machines' controllers.",
            },
            "data": {
                "type": "object",
                "description": "The secret values. Shown as empty; a key that is left out or empty in a write keeps its value.",
                "additionalProperties": {"type": "string", "maxLength": 32768},
                "maxProperties": 16,
            },
            "clusters": {
                "type": "array",
                "items": {"type": "string", "maxLength": 253},
                "x-kubernetes-list-type": "set",
                "description": "Clusters whose machines may refer to it; empty = machines outside every cluster only; `*` = all.",
            },
            "networks": {
                "type": "array",
                "items": {"type": "string", "maxLength": 64},
                "x-kubernetes-list-type": "set",
                "description": "Networks in CIDR form that it may be sent to; empty = wherever Fleet may connect.",
            },
        },
    },
    status={
        "type": "object",
        "properties": {
            "fingerprints": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Keyed digest of each value: tells whether two are equal, and nothing else.",
            }
        },
    },
    columns=(
        Column("Type", lambda o, now: o["spec"].get("type", ""), description="Kind of secret."),
        Column("Clusters", lambda o, now: ",".join(o["spec"].get("clusters", [])), description="Who may refer to it."),
    ),
    write_only=("spec.data",),
    validate=_check,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Credential",
        "metadata": {"name": "lab-ssh"},
        "spec": {
            "type": "ssh",
            "data": {"username": "root", "privateKey": "-----BEGIN OPENSSH PRIVATE KEY-----\n…"},
            "clusters": ["*"],
        },
    },
)
