"""Events from outside, brought to one form and checked: what is wrong is told by field, and nothing of a request is kept then.

Plain functions of plain data. Where an event belongs is found later, by `fleet.events.ingest`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from fleet.control.kinds import CLUSTER, MACHINE, Json, Problem
from fleet.control.times import NEEDS_ZONE, parse_time
from fleet.events.log import SEVERITIES

MOST_EVENTS: Final = 1_000  # of one request: one statement writes them
MOST_BYTES: Final = 64 * 1024  # of one event's data
OWN_PREFIX: Final = "dev.fleet."
FAULT_DECLARED, FAULT_CLEARED = "dev.fleet.fault.declared", "dev.fleet.fault.cleared"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_TYPE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_LENGTHS: Final[Mapping[str, int]] = {"id": 256, "source": 512, "type": 128, "subject": 270}
_KINDS: Final[Mapping[str, int]] = {"machine": MACHINE, "cluster": CLUSTER}
# Set by Fleet itself in what is stored: nobody can put a name or an author into an event's mouth.
_OWN_KEYS: Final = ("name", "time", "by")


@dataclass(frozen=True, slots=True)
class Text:
    """A field of data that is text."""

    required: bool = False
    longest: int = 4_096


# What every event's data may say to people, and what certain types must say.
COMMON: Final[Mapping[str, Text]] = {"reason": Text(longest=128), "message": Text()}
SCHEMAS: Final[Mapping[str, Mapping[str, Text]]] = {
    FAULT_DECLARED: {"faultType": Text(required=True, longest=63), "message": Text(required=True)},
    FAULT_CLEARED: {"faultType": Text(required=True, longest=63)},
}


@dataclass(frozen=True, slots=True)
class Incoming:
    """One event. `kind` and `name`: what it is about (0 and "" = nothing that has a name). `time`: when it was observed."""

    id: str
    source: str
    type: str
    data: Json
    kind: int = 0
    name: str = ""
    severity: int = 0
    time: datetime | None = None

    @property
    def key(self) -> UUID:
        """What makes it the same event: its source and its id there."""
        digest = hashlib.blake2b(self.source.encode() + b"\x00" + self.id.encode(), digest_size=16)
        return UUID(bytes=digest.digest())

    @property
    def subject(self) -> str:
        """As people write it."""
        return f"{'cluster' if self.kind == CLUSTER else 'machine'}/{self.name}" if self.kind else ""

    def stored(self, by: str) -> bytes:
        """`data` as it lies in the log: the object's name, the observed time and who published it beside what was sent."""
        own: Json = {"name": self.name, "by": by}
        if self.time is not None:
            own["time"] = self.time.isoformat().replace("+00:00", "Z")
        return orjson.dumps({**{k: v for k, v in self.data.items() if k not in _OWN_KEYS}, **own})


class Unreadable(Exception):
    """What is wrong with a request, by field."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems[0].message)
        self.problems = list(problems)


def cloud_events(found: Any) -> list[Incoming]:
    """From JSON: one CloudEvent, or a list of them. Raises Unreadable with everything that is wrong."""
    many = isinstance(found, list)
    events = found if many else [found]
    if not events:
        raise Unreadable([Problem("events", "the batch is empty", "FieldValueRequired")])
    check_count(len(events))
    problems: list[Problem] = []
    out = [_read(event, f"events[{i}]" if many else "event", problems) for i, event in enumerate(events)]
    if problems:
        raise Unreadable(problems[:50])
    return [event for event in out if event is not None]


def check_count(count: int) -> None:
    """One request is one statement: it has a bound."""
    if count > MOST_EVENTS:
        text = f"{count}: at most {MOST_EVENTS} in one request"
        raise Unreadable([Problem("events", text, "FieldValueTooMany")])


def _read(event: Any, path: str, problems: list[Problem]) -> Incoming | None:
    before = len(problems)
    if not isinstance(event, dict):
        problems.append(Problem(path, "must be an object", "FieldValueTypeInvalid"))
        return None
    if event.get("specversion") != "1.0":
        problems.append(Problem(f"{path}.specversion", 'must be "1.0"', "FieldValueNotSupported"))
    for name in ("id", "source", "type"):
        _check_text(event, name, path, problems)
    subject = event.get("subject")
    kind, name = 0, ""
    if subject not in (None, ""):
        kind, name = subject_of(subject, f"{path}.subject", problems)
    data = _data(event, path, problems)
    severity = event.get("severity", "warning" if event.get("type") == FAULT_DECLARED else "normal")
    if severity not in SEVERITIES:
        problems.append(
            Problem(f"{path}.severity", f"supported values: {', '.join(SEVERITIES)}", "FieldValueNotSupported")
        )
    time = _time(event.get("time"), f"{path}.time", problems)
    if len(problems) > before:
        return None
    made = Incoming(event["id"], event["source"], event["type"], data, kind, name, SEVERITIES.index(severity), time)
    problems += check(made, path)
    return made


def _check_text(event: Json, name: str, path: str, problems: list[Problem]) -> None:
    value, field = event.get(name), f"{path}.{name}"
    if value is None or value == "":
        problems.append(Problem(field, "", "FieldValueRequired"))
    elif not isinstance(value, str):
        problems.append(Problem(field, "must be text", "FieldValueTypeInvalid"))
    elif len(value) > _LENGTHS[name]:
        problems.append(Problem(field, f"may have at most {_LENGTHS[name]} characters", "FieldValueTooLong"))
    elif not value.isprintable() or value != value.strip():
        problems.append(Problem(field, "holds a control character, or a blank at an end"))
    elif name == "type" and not _TYPE.fullmatch(value):
        problems.append(Problem(field, "letters, digits, '.', '-' and '_', as com.example.disk.failing"))


def subject_of(subject: Any, field: str, problems: list[Problem]) -> tuple[int, str]:
    """(kind, name) of `machine/NAME`, `cluster/NAME` or the bare name of a machine."""
    if not isinstance(subject, str) or len(subject) > _LENGTHS["subject"]:
        problems.append(Problem(field, "must be text of at most 270 characters", "FieldValueTypeInvalid"))
        return 0, ""
    prefix, slash, name = subject.partition("/")
    kind = _KINDS.get(prefix) if slash else MACHINE
    name = name if slash else subject
    if kind is None or not _NAME.fullmatch(name):
        problems.append(Problem(field, "must be machine/NAME, cluster/NAME or the name of a machine"))
        return 0, ""
    return kind, name


def _data(event: Json, path: str, problems: list[Problem]) -> Json:
    if event.get("data_base64") is not None:
        problems.append(Problem(f"{path}.data_base64", "send JSON in data instead", "FieldValueForbidden"))
        return {}
    data = event.get("data")
    if data is None:
        return {}
    if isinstance(data, str):  # text/plain: a sentence for people
        return {"message": data}
    if not isinstance(data, dict):
        problems.append(Problem(f"{path}.data", "must be an object, or text", "FieldValueTypeInvalid"))
        return {}
    return data


def _time(value: Any, field: str, problems: list[Problem]) -> datetime | None:
    if value is None:
        return None
    moment = parse_time(value)
    if moment is None:
        problems.append(Problem(field, NEEDS_ZONE))
    return moment


def check(event: Incoming, path: str = "event") -> list[Problem]:
    """What its type says of an event: who may set it, and what its data must hold."""
    if event.type.startswith(OWN_PREFIX) and event.type not in SCHEMAS:
        text = (
            f"{event.type}: types below {OWN_PREFIX} are Fleet's own; from outside only {', '.join(SCHEMAS)} can be set"
        )
        return [Problem(f"{path}.type", text, "FieldValueForbidden")]
    problems: list[Problem] = []
    schema = SCHEMAS.get(event.type, {})
    if schema and not event.kind:
        problems.append(Problem(f"{path}.subject", "a fault is about a machine or a cluster", "FieldValueRequired"))
    for name, rule in {**COMMON, **schema}.items():
        problems += _check_field(event.data.get(name), rule, f"{path}.data.{name}")
    if not problems and len(orjson.dumps(event.data)) > MOST_BYTES:
        problems.append(Problem(f"{path}.data", f"may have at most {MOST_BYTES} bytes", "FieldValueTooLong"))
    return problems


def _check_field(value: Any, rule: Text, field: str) -> list[Problem]:
    if value is None or value == "":
        return [Problem(field, "", "FieldValueRequired")] if rule.required else []
    if not isinstance(value, str):
        return [Problem(field, "must be text", "FieldValueTypeInvalid")]
    if len(value) > rule.longest:
        return [Problem(field, f"may have at most {rule.longest} characters", "FieldValueTooLong")]
    return []
