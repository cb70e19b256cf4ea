"""The kind OperationBatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from fleet.api.errors import ApiError
from fleet.api.selectors import FieldSelector, LabelSelector
from fleet.control.kinds import OPERATION_BATCH, Column, Json, Kind, Problem
from fleet.safety.schema import text_of
from machines.schema import MACHINE_KIND
from machines.schema_drain import DRAIN, drain_problems
from machines.schema_versions import UNIT_PATTERN

VERBS: Final = ("Reconcile", "Restart", "Drain", "Reboot", "Decommission")
HARMLESS: Final = frozenset({"Reconcile"})  # a look alone takes nothing away: it needs no second person
PARALLEL: Final = 50  # Operations of one batch that are open in one cluster at a time
MAX_FAILED: Final = 3
AWAITING, RUNNING, PAUSED, STALLED = "AwaitingApproval", "Running", "Paused", "Stalled"
SUCCEEDED, FAILED, CANCELLED, EXPIRED = "Succeeded", "Failed", "Cancelled", "Expired"
ENDED: Final = (SUCCEEDED, FAILED, CANCELLED, EXPIRED)
PHASES: Final = (AWAITING, RUNNING, PAUSED, STALLED, *ENDED)
_STEERING: Final = frozenset({"paused", "cancelled", "maxFailed"})  # what may change while it runs
_SELECTS: Final = ("labelSelector", "fieldSelector", "namePrefix")
# Machines by what can be asked of them; the list API itself allows less, because a watch must be able to follow it.
SELECTABLE: Final = replace(
    MACHINE_KIND,
    selectable=(
        *MACHINE_KIND.selectable, "status.state", "spec.rack", "spec.className", "spec.hardwareModel", "spec.serialNumber",
    ),
)  # fmt: skip


def _check_target(target: Json) -> list[Problem]:
    """One way of saying which machines, and none that could mean everything by mistake."""
    ways: list[str] = [w for w in ("machines", "matchAll") if w in target]
    ways += ["selectors"] if any(k in target for k in _SELECTS) else []
    if len(ways) != 1:
        text = f"say exactly one of machines; {', '.join(_SELECTS)} (all that are given must hold); matchAll: true"
        return [Problem("spec.target", text, "FieldValueRequired")]
    if target.get("matchAll") is False:
        return [Problem("spec.target.matchAll", "matchAll is true or absent")]
    return [p for key in ("machines", *_SELECTS) if key in target for p in _says_nothing(key, target[key])]


def _says_nothing(key: str, given: Any) -> list[Problem]:
    """What is empty, also once it is read, would mean every machine."""
    read: dict[str, Callable[[str], Any]] = {"labelSelector": LabelSelector.parse, "fieldSelector": fields_of}
    try:
        parsed = read[key](given) if key in read else given
    except ApiError as error:
        return [Problem(f"spec.target.{key}", error.message)]
    if parsed in ((), [], "", LabelSelector(), FieldSelector()):
        text = "what is empty selects nothing; every machine is written matchAll: true"
        return [Problem(f"spec.target.{key}", text, "FieldValueRequired")]
    return []


def fields_of(text: str) -> FieldSelector:
    """`spec.target.fieldSelector` as it is matched; ApiError where it is none."""
    return FieldSelector.parse(text, SELECTABLE)


def _check(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new["spec"]
    if old is not None:
        return _check_change(spec, old["spec"])
    problems = _check_target(spec["target"])
    if spec["verb"] == "Restart" and not spec.get("units"):
        problems.append(Problem("spec.units", "Restart needs the units that it restarts", "FieldValueRequired"))
    if spec["verb"] != "Restart" and spec.get("units"):
        problems.append(Problem("spec.units", f"{spec['verb']} restarts no units", "FieldValueForbidden"))
    if not spec["reason"].strip():
        problems.append(Problem("spec.reason", "say why: it stands with each Operation", "FieldValueRequired"))
    if spec.get("cancelled"):
        problems.append(Problem("spec.cancelled", "a batch is not cancelled before it is there", "FieldValueForbidden"))
    return [*problems, *drain_problems(spec)]


def _check_change(spec: Json, old: Json) -> list[Problem]:
    changed = sorted(k for k in {*spec, *old} - _STEERING if spec.get(k) != old.get(k))
    problems = [
        Problem(f"spec.{key}", "what a batch does and on which machines never changes; cancel it and ask for another", "FieldValueForbidden")
        for key in changed
    ]  # fmt: skip
    if old.get("cancelled") and not spec.get("cancelled"):
        problems.append(
            Problem("spec.cancelled", "what was cancelled stays so; ask for another", "FieldValueForbidden")
        )
    return problems


OPERATION_BATCH_KIND: Final = Kind(
    kind="OperationBatch",
    plural="operationbatches",
    singular="operationbatch",
    number=OPERATION_BATCH,
    short_names=("batch",),
    description="One verb on many machines. The list is frozen when it is asked for; over the limit of this Fleet nothing begins before another person approved exactly that list. Then its Operations begin as they fit: a few in each cluster, each with a permit of its own, and none any more once too many failed.",
    cluster_field="spec.clusterName",
    writers="operator",
    spec={
        "type": "object",
        "description": "What shall be done, on which machines. Only paused, cancelled and maxFailed may change later.",
        "required": ["verb", "target", "reason"],
        "properties": {
            "verb": {"type": "string", "enum": list(VERBS), "description": "Reconcile, Restart (units), Drain, Reboot, Decommission (delete the machine)."},
            "clusterName": {"type": "string", "maxLength": 253, "description": "Only machines of this cluster; left out, the batch is the whole fleet's and takes rights there."},
            "target": {
                "type": "object",
                "description": "Which machines: machines; or labelSelector, fieldSelector and namePrefix, of which all that are given must hold; or matchAll.",
                "properties": {
                    "machines": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 253}, "maxItems": 1000, "x-kubernetes-list-type": "set", "description": "By name."},
                    "labelSelector": {"type": "string", "maxLength": 4096, "description": "As kubectl's -l, for example pool=web,tier!=edge."},
                    "fieldSelector": {"type": "string", "maxLength": 4096, "description": "As kubectl's --field-selector, for example status.phase=Failed,spec.rack=r11."},
                    "namePrefix": {"type": "string", "maxLength": 253, "description": "Names that begin so."},
                    "matchAll": {"type": "boolean", "description": "true: every machine, of clusterName where that is given."},
                },
            },
            "units": {"type": "array", "items": {"type": "string", "maxLength": 255, "pattern": UNIT_PATTERN}, "maxItems": 32, "description": "Restart: which units."},
            "drain": DRAIN,
            "reason": {"type": "string", "minLength": 1, "maxLength": 900, "description": "Why, for the second person and for whoever reads it later."},
            "expect": {
                "type": "object",
                "description": "What was counted before: another list than that is refused.",
                "properties": {"count": {"type": "integer", "minimum": 1}, "hash": {"type": "string", "maxLength": 64}},
            },
            "maxFailed": {"type": "integer", "minimum": 0, "maximum": 100000, "description": f"With more failures than these nothing more begins until it is raised; {MAX_FAILED} by default."},
            "parallel": {"type": "integer", "minimum": 1, "maximum": 500, "description": f"How many Operations may be open in one cluster at a time; {PARALLEL} by default. Budgets hold besides."},
            "paused": {"type": "boolean", "description": "true: nothing more begins; what runs goes on."},
            "cancelled": {"type": "boolean", "description": "true: nothing more begins, what runs ends before its next step. Stays so."},
        },
    },
    status={
        "type": "object",
        "properties": {
            "phase": {"type": "string", "enum": list(PHASES), "description": "AwaitingApproval: another person must approve it. Stalled: too many failed."},
            "message": {"type": "string", "description": "What it waits for, or how it ended."},
            "count": {"type": "integer", "description": "How many machines are on the list."},
            "targetsHash": {"type": "string", "description": "Of the list alone: what spec.expect.hash is compared with."},
            "hash": {"type": "string", "description": "Of the list and what is done to it: what an approver names."},
            "author": {"type": "string", "description": "Who asked for it."},
            "approval": {"type": "string", "enum": ["NotNeeded", "Needed", "Given"]},
            "approvedBy": {"type": "string", "description": "The second person."},
            "cancelledBy": {"type": "string", "description": "Who cancelled it."},
            "clusters": {
                "type": "array",
                "description": "How many of each cluster; the largest first, at most 100.",
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}},
            },
            "waiting": {"type": "integer", "description": "Not begun yet."},
            "open": {"type": "integer", "description": "Have an open Operation."},
            "succeeded": {"type": "integer"},
            "failed": {"type": "integer"},
            "skipped": {"type": "integer", "description": "Gone, being decommissioned, or cancelled by a person."},
            "startTime": {"type": "string"},
            "endTime": {"type": "string"},
        },
    },
    columns=(
        Column("Verb", text_of("spec", "verb"), description="What is done."),
        Column("Machines", lambda o, now: o.get("status", {}).get("count"), "integer", "How many are on the list."),
        Column("Phase", text_of("status", "phase"), description="How far it is."),
        Column("Done", lambda o, now: o.get("status", {}).get("succeeded"), "integer", "How many succeeded."),
        Column("Failed", lambda o, now: o.get("status", {}).get("failed"), "integer", "How many failed."),
        Column("Author", text_of("status", "author"), description="Who asked for it."),
        Column("Approved By", text_of("status", "approvedBy"), description="The second person."),
        Column("Message", text_of("status", "message"), description="What it waits for.", priority=1),
    ),
    selectable=("spec.clusterName", "spec.verb", "status.phase"),
    validate=_check,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "OperationBatch",
        "metadata": {"generateName": "reboot-"},
        "spec": {"verb": "Reboot", "clusterName": "iad1-web", "target": {"labelSelector": "pool=web"}, "reason": "new kernel"},
    },
)  # fmt: skip
