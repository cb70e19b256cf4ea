"""Label and field selectors: parsed once, matched in Python, translated to SQL for lists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from fleet.api.errors import bad_request
from fleet.api.schema import is_label_value, is_qualified_name
from fleet.control.kinds import Json, Kind

Operator = Literal["=", "!=", "in", "notin", "exists", "!", ">", "<"]
_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_COMPARE = re.compile(rf"({_KEY})\s*(==|=|!=|>|<)\s*([A-Za-z0-9._-]*)")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_OPERATORS: Mapping[str, Operator] = {"==": "=", "=": "=", "!=": "!=", ">": ">", "<": "<"}
MAX_LENGTH = 4_096


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "exists":
                return value is not None
            case "!":
                return value is None
            case "=" | "in":
                return value is not None and value in self.values
            case "!=" | "notin":
                return value is None or value not in self.values
            case ">" | "<":
                if value is None or not _INTEGER.fullmatch(value):
                    return False
                return int(value) > int(self.values[0]) if self.operator == ">" else int(value) < int(self.values[0])

    def sql(self, column: str) -> tuple[str, list[Any]]:
        """A condition on a jsonb column; equality by containment, which the GIN index answers."""

        def has(value: str) -> str:
            return orjson.dumps({self.key: value}).decode()

        match self.operator:
            case "exists":
                return f"{column} -> %s IS NOT NULL", [self.key]
            case "!":
                return f"{column} -> %s IS NULL", [self.key]
            case "=" | "in":
                if not self.values:
                    return "false", []
                return "(" + " OR ".join(f"{column} @> %s::jsonb" for _ in self.values) + ")", [
                    has(v) for v in self.values
                ]
            case "!=" | "notin":
                if not self.values:
                    return "true", []
                return "NOT (" + " OR ".join(f"{column} @> %s::jsonb" for _ in self.values) + ")", [
                    has(v) for v in self.values
                ]
            case ">" | "<":
                number = rf"CASE WHEN {column} ->> %s ~ '^-?\d{{1,18}}$' THEN ({column} ->> %s)::bigint END"
                return f"({number}) {self.operator} %s", [self.key, self.key, int(self.values[0])]


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; none at all matches everything (of a list request, not of a kind's own selector)."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """400 with the place that is wrong."""
        if len(text) > MAX_LENGTH:
            raise bad_request(f"a label selector may have at most {MAX_LENGTH} characters")
        found: list[Requirement] = []
        rest = text.strip()
        while rest:
            requirement, rest = _next(rest, text)
            found.append(requirement)
            rest = rest.lstrip()
            if rest:
                if not rest.startswith(",") or not rest[1:].strip():
                    raise bad_request(
                        f'unable to parse requirement: found "{rest[:40]}", expected: "," and another requirement in "{text[:200]}"'
                    )
                rest = rest[1:].lstrip()
        return cls(tuple(found))

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(r.matches(labels) for r in self.requirements)

    def sql(self, column: str) -> tuple[str, list[Any]]:
        """One condition and its parameters; `true` when empty."""
        parts = [r.sql(column) for r in self.requirements]
        return " AND ".join(p for p, _ in parts) or "true", [v for _, values in parts for v in values]


def _next(rest: str, text: str) -> tuple[Requirement, str]:
    """The first requirement and what follows it."""
    values: tuple[str, ...] = ()
    operator: Operator
    if match := _SET.match(rest):
        key, operator = match[1], "in" if match[3] == "in" else "notin"
        values = tuple(v.strip() for v in match[4].split(",")) if match[4].strip() else ()
    elif match := _COMPARE.match(rest):
        key, operator, values = match[1], _OPERATORS[match[3]], (match[4],)
        if operator in "<>" and not _INTEGER.fullmatch(match[4]):
            raise bad_request(f'unable to parse requirement: "{match[4]}" after {operator} must be an integer')
    elif match := _EXISTS.match(rest):
        key, operator = match[2], "!" if match[1] else "exists"
    else:
        raise bad_request(f'unable to parse requirement: found "{rest[:40]}" in "{text[:200]}", expected a label key')
    if not is_qualified_name(key):
        raise bad_request(f'unable to parse requirement: "{key[:80]}" is no label key')
    for value in values:
        if not is_label_value(value):
            raise bad_request(f'unable to parse requirement: "{value[:80]}" is no label value')
    return Requirement(key, operator, values), rest[match.end() :]


_PART = re.compile(r"(?:[^\\,]|\\.?)+", re.DOTALL)
_TERM = re.compile(r"([^=!]+?)\s*(==|=|!=)\s*((?:[^\\,=]|\\[\\,=])*)", re.DOTALL)


def _unescape(value: str) -> str:
    """A backslash makes the comma, the equal sign and itself part of a value."""
    return re.sub(r"\\([\\,=])", r"\1", value)


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Equalities on metadata.name and the kind's declared fields: (path, operator, value)."""

    terms: tuple[tuple[str, Literal["=", "!="], str], ...] = ()

    @classmethod
    def parse(cls, text: str, kind: Kind) -> FieldSelector:
        """400 for a field that the kind does not declare."""
        if len(text) > MAX_LENGTH:
            raise bad_request(f"a field selector may have at most {MAX_LENGTH} characters")
        allowed = {"metadata.name", *kind.selectable}
        terms: list[tuple[str, Literal["=", "!="], str]] = []
        for part in filter(None, (p.strip() for p in _PART.findall(text))):
            match = _TERM.fullmatch(part)
            if match is None:
                raise bad_request(f'invalid field selector: "{part[:100]}"; expected field=value')
            if match[1] not in allowed:
                raise bad_request(f"field label not supported: {match[1][:100]}")
            terms.append((match[1], "!=" if match[2] == "!=" else "=", _unescape(match[3])))
        return cls(tuple(terms))

    def matches(self, obj: Json) -> bool:
        return all((field_text(obj, path) == value) == (operator == "=") for path, operator, value in self.terms)

    @property
    def name(self) -> str | None:
        """The name asked for, when the selector pins it."""
        return next((v for p, o, v in self.terms if p == "metadata.name" and o == "="), None)


def field_text(obj: Json, path: str) -> str:
    """A field as selectors compare it: missing is the empty string."""
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else "true" if value is True else "false" if value is False else str(value)
