"""Entries of `metadata.managedFields`: who owns which fields, since when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fleet.api.fieldsets import Path, decode, encode
from fleet.control.kinds import API_VERSION, Json

MAX_UPDATERS = 10  # as Kubernetes: more updating managers than that, and the oldest become one
ANCIENT = "ancient-changes"
BEFORE_FIRST_APPLY = "before-first-apply"

Identity = tuple[str, str, str]  # manager, operation, subresource


@dataclass(slots=True)
class Entry:
    """One manager's fields. `time` is empty until a write of it has changed something."""

    manager: str
    operation: str
    subresource: str = ""
    time: str = ""
    paths: set[Path] = field(default_factory=set)

    @property
    def identity(self) -> Identity:
        return (self.manager, self.operation, self.subresource)

    def json(self) -> Json:
        """The entry as it stands in an object."""
        out: Json = {"manager": self.manager, "operation": self.operation, "apiVersion": API_VERSION}
        if self.time:
            out["time"] = self.time
        out |= {"fieldsType": "FieldsV1", "fieldsV1": encode(self.paths)}
        if self.subresource:
            out["subresource"] = self.subresource
        return out

    def who(self) -> str:
        """As conflicts name it."""
        text = f'"{self.manager}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return text + (f" using {API_VERSION}" if self.operation == "Update" else "")


def is_reset(value: Any) -> bool:
    """`[]` and `[{}]` mean: forget all owners."""
    return value in ([], [{}])


def read_entries(value: Any) -> list[Entry]:
    """Entries of a `managedFields` list; ValueError when malformed. Entries of other versions of the API are dropped."""
    if value is None or is_reset(value):
        return []
    if not isinstance(value, list):
        raise ValueError("metadata.managedFields must be a list")
    found: dict[Identity, Entry] = {}
    for item in value:
        if not isinstance(item, dict) or item.get("operation") not in ("Apply", "Update"):
            raise ValueError("operation must be `Apply` or `Update`")
        if item.get("fieldsType") != "FieldsV1" or not item.get("apiVersion"):
            raise ValueError("fieldsType must be FieldsV1 and apiVersion not empty")
        manager, sub, time = (item.get(k) or "" for k in ("manager", "subresource", "time"))
        if not all(isinstance(x, str) for x in (manager, sub, time)):
            raise ValueError("manager, subresource and time must be strings")
        if item["apiVersion"] == API_VERSION:
            entry = Entry(manager, item["operation"], sub, time, decode(item.get("fieldsV1") or {}))
            found[entry.identity] = entry
    return list(found.values())


def write_entries(entries: Iterable[Entry]) -> list[Json]:
    """The list as it is stored: managers without fields are gone; appliers first, then by time and name."""
    kept = sorted((e for e in entries if e.paths), key=lambda e: (e.operation, e.time, e.manager, e.subresource))
    return [e.json() for e in kept]


def entry_of(entries: list[Entry], identity: Identity) -> Entry:
    """The entry of that identity, added when there is none."""
    for entry in entries:
        if entry.identity == identity:
            return entry
    entries.append(Entry(*identity))
    return entries[-1]


def cap_updaters(entries: list[Entry]) -> list[Entry]:
    """Merge the oldest updating managers into one, so that the list does not grow with every new tool."""
    updaters = sorted((e for e in entries if e.operation == "Update" and e.paths), key=lambda e: (e.time, e.manager))
    surplus = len(updaters) - MAX_UPDATERS
    if surplus <= 0:
        return entries
    old = updaters[: surplus + 1]
    bucket = Entry(ANCIENT, "Update", "", old[-1].time, set().union(*(e.paths for e in old)))
    merged = {e.identity for e in old}
    return [e for e in entries if e.identity not in merged] + [bucket]
