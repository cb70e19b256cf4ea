"""The filter language of the console: `key:value`, `-key:value`, bare words for name, IP and serial number."""

from __future__ import annotations

import difflib
import ipaddress
import re
import shlex
from dataclasses import dataclass, field
from typing import Final, Literal

from fleet.api.errors import ApiError
from fleet.api.selectors import FieldSelector, LabelSelector
from fleet.console.words import LEGEND
from machines.states import STATES

FIELDS: Final = {
    "state": "status.state",
    "phase": "status.phase",
    "cluster": "spec.clusterName",
    "idc": "spec.idc",
    "ip": "spec.ip",
    "rack": "spec.rack",
    "class": "spec.className",
    "model": "spec.hardwareModel",
    "serial": "spec.serialNumber",
}
KEYS: Final = (*FIELDS, "label")
# keys whose values are known beforehand
VALUES: Final = {"state": STATES, "phase": tuple(phase for phase, _, _ in LEGEND)}
LONGEST: Final = 500
_TOKEN = re.compile(r"(-?)([A-Za-z]+)[:=](.*)", re.DOTALL)
_COMPARED = re.compile(r"-?([A-Za-z]+)[<>]=?.*")
Term = tuple[str, Literal["=", "!="], str]


class FilterError(ValueError):
    """A filter that cannot be read; the message says which token and what would be right."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed `q`. `tokens` are shown back to the person, in order."""

    tokens: tuple[tuple[str, str], ...] = ()  # (key with sign, value)
    words: tuple[str, ...] = ()
    fields: FieldSelector = field(default_factory=FieldSelector)
    labels: LabelSelector = field(default_factory=LabelSelector)

    @property
    def prefix(self) -> str:
        """The beginning of a name, when one bare word stands alone."""
        return self.words[0] if len(self.words) == 1 else ""

    def values(self, key: str) -> list[str]:
        """What is asked of a key."""
        return [v for k, v in self.tokens if k == key]


def pieces(text: str) -> list[str]:
    """The parts of a filter; quotes keep a part together. FilterError where it is no such text."""
    if len(text) > LONGEST:
        raise FilterError(f"A filter may have at most {LONGEST} characters.")
    if "\x00" in text:
        raise FilterError("A filter is plain text.")
    try:
        return shlex.split(text)
    except ValueError:
        raise FilterError("A quote is not closed.") from None


def token_of(part: str) -> tuple[str, str, str] | None:
    """(sign, key, value) of `key:value`; None = it is a word."""
    match = _TOKEN.fullmatch(part)
    return None if match is None or _is_address(part) else (match[1], match[2], match[3])


def parse(text: str) -> Filter:
    """Read a filter; FilterError for an unknown key or value (with the nearest known one) and for more than one bare word."""
    parts = pieces(text)
    tokens: list[tuple[str, str]] = []
    words: list[str] = []
    terms: list[Term] = []
    labels: list[str] = []
    for part in parts:
        token = token_of(part)
        if token is None:
            if _is_address(part):
                tokens.append(("ip", part))
                terms.append((FIELDS["ip"], "=", part))
            else:
                words.append(_bare(part))
            continue
        sign, key, value = token
        if key == "label":
            labels.append(label_text(f"{sign}{key}", value))
        else:
            _check(key, value)
            terms.append((FIELDS[key], "!=" if sign else "=", value))
        tokens.append((f"{sign}{key}", value))
    if len(words) > 1:
        raise FilterError("One bare word at a time: it is looked for as name, address or serial number.")
    try:
        selector = LabelSelector.parse(",".join(labels))
    except ApiError as error:
        raise FilterError(f"The label cannot be read: {error.message}") from None
    return Filter(tuple(tokens), tuple(words), FieldSelector(tuple(terms)), selector)


def label_text(key: str, value: str) -> str:
    """A token `label:` or `-label:` as a label selector."""
    if not key.startswith("-"):
        return value
    return value.replace("=", "!=", 1) if "=" in value else f"!{value}"


def _bare(part: str) -> str:
    """A word; a comparison is no word."""
    compared = _COMPARED.fullmatch(part)
    if compared:
        raise FilterError(f"“{part[:60]}” compares, and “{compared[1]}” has no order. Write {compared[1]}:value.")
    return part


def _check(key: str, value: str) -> None:
    if key not in FIELDS:
        near = difflib.get_close_matches(key, KEYS, 1)
        hint = f" Did you mean “{near[0]}”?" if near else f" Keys are {', '.join(KEYS)}."
        raise FilterError(f"“{key}” is no key to filter by.{hint}")
    known = VALUES.get(key)
    if known is not None and value not in known:
        near = difflib.get_close_matches(value, known, 1)
        hint = f" Did you mean “{near[0]}”?" if near else ""
        raise FilterError(f"“{value[:60]}” is no {key}. {key.capitalize()}s are {', '.join(known)}.{hint}")


def _is_address(word: str) -> bool:
    """Whether a bare word is an address: it is looked for as one."""
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def join(tokens: tuple[tuple[str, str], ...], words: tuple[str, ...]) -> str:
    """The text of a filter."""
    return " ".join([*(f"{k}:{shlex.quote(v)}" for k, v in tokens), *(shlex.quote(w) for w in words)])


def with_state(parsed: Filter, state: str) -> str:
    """The filter with this state instead of any other."""
    kept = tuple(t for t in parsed.tokens if t[0] not in ("state", "-state"))
    return join((*kept, ("state", state)), parsed.words)
