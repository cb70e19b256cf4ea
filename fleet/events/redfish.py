"""Events that a machine's BMC posts (DMTF Redfish, `Event`): each record becomes one event about the machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from fleet.control.kinds import Json, Problem
from fleet.control.times import NEEDS_ZONE, parse_time
from fleet.events.incoming import Incoming, Unreadable, check, check_count, subject_of

PREFIX: Final = "org.dmtf.redfish."
_SEVERITIES: Final[Mapping[str, int]] = {"Critical": 2, "Warning": 1, "OK": 0}
_LONGEST: Final = 4_096


def records(found: Any, machine: str = "") -> list[Incoming]:
    """Records of one Redfish Event. `machine` names whose BMC it is; without it the event's Context does (set when subscribing)."""
    if not isinstance(found, dict) or not isinstance(found.get("Events"), list) or not found["Events"]:
        raise Unreadable([Problem("Events", "must be the list of records of a Redfish Event", "FieldValueRequired")])
    check_count(len(found["Events"]))
    problems: list[Problem] = []
    subject = machine or found.get("Context") or ""
    field = "machine" if machine else "Context"
    if not subject:
        text = "say whose BMC this is: as Context of the subscription, or by ?machine=NAME"
        raise Unreadable([Problem(field, text, "FieldValueRequired")])
    kind, name = subject_of(subject, field, problems)
    if problems:
        raise Unreadable(problems)
    events = [
        _event(each, f"Events[{i}]", found, kind, name, i, problems) for i, each in enumerate(found["Events"])
    ]  # fmt: skip
    if problems:
        raise Unreadable(problems[:50])
    return [event for event in events if event is not None]


def _event(
    record: Any, path: str, whole: Json, kind: int, name: str, number: int, problems: list[Problem]
) -> Incoming | None:
    if not isinstance(record, dict):
        problems.append(Problem(path, "must be an object", "FieldValueTypeInvalid"))
        return None
    before = len(problems)
    for key in ("MessageId", "Message", "EventId", "EventType", "MemberId"):
        if record.get(key) is not None and not isinstance(record[key], str):
            problems.append(Problem(f"{path}.{key}", "must be text", "FieldValueTypeInvalid"))
    message_id = record.get("MessageId")
    if not message_id:
        problems.append(Problem(f"{path}.MessageId", "", "FieldValueRequired"))
    when = record.get("EventTimestamp")
    moment = parse_time(when)
    if when is not None and moment is None:
        problems.append(Problem(f"{path}.EventTimestamp", NEEDS_ZONE))
    if len(problems) > before or not isinstance(message_id, str):
        return None
    severity = record.get("MessageSeverity") or record.get("Severity")
    data: Json = {"redfish": record, "reason": message_id.rsplit(".", 1)[-1][:128] or "Redfish"}
    data["message"] = (record.get("Message") or message_id)[:_LONGEST]
    made = Incoming(
        _id(record, whole, number), f"/redfish/{name}", PREFIX + _slug(record.get("EventType") or "Alert"), data, kind, name,
        _SEVERITIES.get(str(severity), 1), moment,
    )  # fmt: skip
    problems += check(made, path)
    return made


def _id(record: Json, whole: Json, number: int) -> str:
    """BMCs count from 1 again after a reset, and some count nothing: what was said and when belongs to the identity."""
    what = orjson.dumps(
        [record.get("EventId"), record.get("EventTimestamp"), record.get("MessageId"), record.get("Message"), record.get("OriginOfCondition")]
        + ([] if record.get("EventId") or record.get("EventTimestamp") else [whole.get("Id"), number]),
        option=orjson.OPT_SORT_KEYS,
    )  # fmt: skip
    return hashlib.blake2b(what, digest_size=16).hexdigest()


def _slug(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum() and c.isascii())[:40] or "alert"
