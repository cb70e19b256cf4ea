"""Differences as lines that people read: numbered, with sign as well as tint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson
import yaml

from fleet.control.kinds import Json


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a unified difference. `kind` is add, del, hunk or "" for context."""

    old: str
    new: str
    text: str
    kind: str


def lines(text: str) -> Iterator[Line]:
    """A unified difference, numbered; its two head lines are left out."""
    return _lines(text.splitlines()[2:])


def _lines(body: Iterable[str]) -> Iterator[Line]:
    old = new = 0
    for line in body:
        if line.startswith("@@"):
            was, now = line.split("@@")[1].split()[:2]
            old, new = abs(int(was.split(",")[0])), int(now.split(",")[0])
            yield Line("", "", line.strip(), "hunk")
        elif line.startswith("-"):
            yield Line(str(old), "", f"- {line[1:]}", "del")
            old += 1
        elif line.startswith("+"):
            yield Line("", str(new), f"+ {line[1:]}", "add")
            new += 1
        else:
            yield Line(str(old), str(new), f"  {line[1:]}", "")
            old, new = old + 1, new + 1


def as_yaml(value: object) -> str:
    """An object as people read it."""
    return str(yaml.safe_dump(orjson.loads(orjson.dumps(value)), sort_keys=False, allow_unicode=True, width=110))


def of_objects(before: Json | None, after: Json | None) -> list[Line]:
    """What changed between two forms of an object; what Fleet itself counts up is left out."""
    was, now = (as_yaml(_told(each)).splitlines() if each else [] for each in (before, after))
    found = list(difflib.unified_diff(was, now, n=2, lineterm=""))
    return list(_lines(found[2:]))


def _told(obj: Json) -> Json:
    meta = {k: v for k, v in obj.get("metadata", {}).items() if k not in ("resourceVersion", "uid")}
    return {k: meta if k == "metadata" else v for k, v in obj.items() if k != "status"}
