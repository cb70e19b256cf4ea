"""The kind of the Event Center: Subscription."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from fleet.control.conditions import conditions_schema
from fleet.control.kinds import SUBSCRIPTION, Column, Json, Kind, Problem
from fleet.control.networks import allowed_networks
from fleet.events.log import SEVERITIES
from fleet.events.webhooks import url_problem

SECRET_PREFIX: Final = "whsec_"
_SHORTEST, _LONGEST = 24, 64  # bytes, as Standard Webhooks says
_CRITERIA: Final = ("types", "severity", "clusters", "machine", "matchAll")
_NAME: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 253}

_CONDITIONS: Final[Json] = conditions_schema(
    "Ready: events are delivered. Stalled: only an edit helps. Gap: events were lost because it lagged beyond the retention."
)


def secret_bytes(secret: str) -> bytes | None:
    """The key of a Standard Webhooks secret; None when it is none."""
    if not secret.startswith(SECRET_PREFIX):
        return None
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if _SHORTEST <= len(key) <= _LONGEST else None


def _check(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new["spec"]
    problems: list[Problem] = []
    changed = old is None or spec["url"] != old["spec"].get("url")
    why = url_problem(spec["url"], allowed_networks()) if changed else None
    if why:
        problems.append(Problem("spec.url", why))
    secret = spec.get("secret", "")
    if old is None and not secret:
        problems.append(Problem("spec.secret", "", "FieldValueRequired"))
    if secret and secret_bytes(secret) is None:
        text = f"must be {SECRET_PREFIX} and {_SHORTEST} to {_LONGEST} bytes in base64; `echo {SECRET_PREFIX}$(openssl rand -base64 32)` makes one"
        problems.append(Problem("spec.secret", text))
    wanted = spec["filter"]
    if not any(wanted.get(key) for key in _CRITERIA):
        text = f"say at least one of {', '.join(_CRITERIA)}; everything is written matchAll: true"
        problems.append(Problem("spec.filter", text, "FieldValueRequired"))
    if wanted.get("matchAll") is False:
        problems.append(Problem("spec.filter.matchAll", "matchAll is true or absent"))
    if wanted.get("matchAll") and len(wanted) > 1:
        problems.append(Problem("spec.filter.matchAll", "leave it out where the other fields say what is wanted"))
    if spec.get("clusterName") and wanted.get("clusters"):
        text = "a subscription with a clusterName gets that cluster's events only"
        problems.append(Problem("spec.filter.clusters", text, "FieldValueForbidden"))
    return problems


def _status(name: str) -> Any:
    return lambda obj, now: str(obj.get("status", {}).get(name, ""))


def _ready(obj: Json, now: datetime) -> str:
    conditions = obj.get("status", {}).get("conditions", [])
    return str(next((c["reason"] for c in conditions if c["type"] == "Ready"), ""))


SUBSCRIPTION_KIND = Kind(
    kind="Subscription",
    plural="subscriptions",
    singular="subscription",
    number=SUBSCRIPTION,
    short_names=("sub",),
    description="A webhook that Fleet tells of events as they happen: in order, signed (Standard Webhooks), again until it is taken.",
    cluster_field="spec.clusterName",
    selectable=("spec.clusterName",),
    write_only=("spec.secret",),
    validate=_check,
    spec={
        "type": "object",
        "required": ["url", "filter"],
        "properties": {
            "clusterName": {
                **_NAME,
                "minLength": 0,
                "description": "Only events of this cluster, whose admins may write the subscription; empty = the whole fleet.",
            },
            "url": {
                "type": "string",
                "minLength": 1,
                "maxLength": 2048,
                "description": "Where events are posted to. https, or http to an address inside FLEET_ALLOWED_NETWORKS; no user and no secret in it, as whoever reads the object sees it.",
            },
            "secret": {
                "type": "string",
                "maxLength": 128,
                "description": "The key of the signatures: whsec_ and 24 to 64 bytes in base64. Never shown; left out or empty in a write it stays.",
            },
            "paused": {
                "type": "boolean",
                "description": "Nothing is delivered; the position stays, and delivery goes on from there.",
            },
            "filter": {
                "type": "object",
                "description": "Which events: all that is said must hold.",
                "properties": {
                    "types": {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1, "maxLength": 128},
                        "maxItems": 50,
                        "x-kubernetes-list-type": "set",
                        "description": "Beginnings of types, such as dev.fleet.machine. or dev.fleet.fault.declared; any of them.",
                    },
                    "severity": {"type": "string", "enum": list(SEVERITIES), "description": "At least so severe."},
                    "clusters": {
                        "type": "array",
                        "items": _NAME,
                        "maxItems": 100,
                        "x-kubernetes-list-type": "set",
                        "description": "Names of clusters; any of them.",
                    },
                    "machine": {**_NAME, "description": "Name of a machine."},
                    "matchAll": {"type": "boolean", "description": "true: every event."},
                },
            },
        },
    },
    status={
        "type": "object",
        "properties": {
            "secretFingerprint": {"type": "string", "description": "Keyed digest of the secret: tells whether two are equal, and nothing else."},
            "position": {"type": "string", "description": "Every event up to here was delivered or set aside."},
            "delivered": {"type": "integer", "description": "Events delivered in all."},
            "failures": {"type": "integer", "description": "Tries in a row that failed."},
            "deadLetters": {"type": "integer", "description": "Events that it refused and that were set aside."},
            "lostEvents": {"type": "integer", "description": "Events that retention took before they could be delivered."},
            "lastDeliveryTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer"},
            "conditions": _CONDITIONS,
        },
    },
    columns=(
        Column("Url", lambda o, now: o["spec"].get("url", ""), description="Where events go."),
        Column("State", _ready, description="Whether events are delivered, or why not."),
        Column("Delivered", _status("delivered"), description="Events delivered in all."),
        Column("Failures", _status("failures"), description="Tries in a row that failed."),
        Column("Dead", _status("deadLetters"), description="Events set aside.", priority=1),
        Column("Last", _status("lastDeliveryTime"), description="Time of the last delivery.", priority=1),
    ),
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Subscription",
        "metadata": {"name": "on-call"},
        "spec": {
            "url": "https://hooks.example.com/fleet",
            "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=",
            "filter": {"types": ["dev.fleet.fault.", "dev.fleet.machine.phase"], "severity": "warning"},
        },
    },
)  # fmt: skip
