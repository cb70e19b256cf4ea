"""The kind Permit: grants of the safety ledger, and the asks of people and foreign tools."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from fleet.control.kinds import PERMIT, Column, Json, Kind, Problem
from fleet.control.times import NEEDS_ZONE
from fleet.safety.schema import CONDITIONS, TIME_PATTERN, text_of

OF_FLEET: Final = re.compile(r"permit-\d+")  # names of what Fleet's own parts were granted
LONGEST_SECONDS: Final = 86_400
_FIXED: Final = ("machine", "verb", "owner", "unplanned", "clusterName")


def _check(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new["spec"]
    if old is None:
        if OF_FLEET.fullmatch(str(new["metadata"].get("name", ""))):
            text = "permit- and a number is the name of one of Fleet's own permits"
            return [Problem("metadata.name", text, "FieldValueForbidden")]
        return ()
    before = old.get("spec", {})
    return [
        Problem(f"spec.{key}", "never changes; make another permit", "FieldValueForbidden")
        for key in _FIXED
        if key in spec and spec[key] != before.get(key)
    ]


PERMIT_KIND = Kind(
    kind="Permit",
    plural="permits",
    singular="permit",
    number=PERMIT,
    description="May this machine be taken away for a while? Asked by creating one; granted or not by the same ledger that Fleet's own parts ask, whose grants are shown as permit-<number>. Deleting it gives it back.",
    spec={
        "type": "object",
        "description": "Which machine, for what, how long.",
        "required": ["machine", "verb"],
        "properties": {
            "machine": {"type": "string", "minLength": 1, "maxLength": 253, "description": "Name of the machine."},
            "clusterName": {"type": "string", "maxLength": 253, "description": "Its cluster; filled in by Fleet."},
            "verb": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": "[A-Za-z][A-Za-z0-9]*", "x-fleet-pattern-means": "must be one word such as Reboot", "description": "The strongest thing that will be done: Reload takes nothing away; Cordon, Drain, Restart, Reboot and any word that Fleet does not know take the machine away; Reinstall, Replace, Remove, Wipe destroy."},
            "owner": {"type": "string", "minLength": 1, "maxLength": 200, "description": "Who asks; by default the user who made it."},
            "reason": {"type": "string", "maxLength": 1024, "description": "Why, for those who look."},
            "unplanned": {"type": "boolean", "description": "A repair: it may use the whole budget, waits for no window and no other rack, and counts in the breaker. Planned changes leave a quarter of the budget."},
            "ttlSeconds": {"type": "integer", "minimum": 10, "maximum": LONGEST_SECONDS, "description": "How long the right lasts once granted, and how long it is asked for; 600 by default. Its end ends the right to begin, not the count."},
            "renewTime": {"type": "string", "format": "date-time", "maxLength": 40, "pattern": TIME_PATTERN, "x-fleet-pattern-means": NEEDS_ZONE, "description": "Written anew, the right begins anew: ttlSeconds from then."},
        },
    },
    status={
        "type": "object",
        "properties": {
            "phase": {"type": "string", "enum": ["Pending", "Granted", "Refused", "Expired", "Released"], "description": "Pending: asked again every few seconds. Refused: no longer. Expired: nothing more may begin under it, and the machine counts until it was seen well."},
            "takesCapacity": {"type": "boolean", "description": "The machine counts as unavailable until release."},
            "cost": {"type": "integer", "description": "What it took from the budget; 0 for a machine that was unavailable already."},
            "permit": {"type": "integer", "description": "Number of its grant in the ledger."},
            "pendingTime": {"type": "string", "format": "date-time", "description": "Since when it is asked for."},
            "grantedTime": {"type": "string", "format": "date-time"},
            "expiresTime": {"type": "string", "format": "date-time"},
            "releasedTime": {"type": "string", "format": "date-time"},
            "renewTime": {"type": "string", "description": "The spec.renewTime that was answered."},
            "conditions": {**CONDITIONS, "description": "Granted: whether something may begin under it now, else the reason."},
        },
    },
    columns=(
        Column("Machine", text_of("spec", "machine"), description="Name of the machine."),
        Column("Verb", text_of("spec", "verb"), description="What it allows."),
        Column("State", text_of("status", "phase"), description="Pending, Granted, Refused, Expired or Released."),
        Column("Cost", lambda o, now: o.get("status", {}).get("cost"), type="integer", description="Taken from the budget."),
        Column("Owner", text_of("spec", "owner"), description="Who asked.", priority=1),
    ),
    selectable=("spec.machine", "spec.clusterName", "spec.verb", "spec.owner", "status.phase"),
    cluster_field="spec.clusterName",
    writers="operator",
    validate=_check,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Permit",
        "metadata": {"name": "kured-a-0042"},
        "spec": {"machine": "a-0042", "verb": "Reboot", "reason": "kernel security update", "ttlSeconds": 900},
    },
)  # fmt: skip
