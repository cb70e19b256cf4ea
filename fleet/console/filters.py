"""The filter language of the console: `key:value`, `-key:value`, bare words for name, IP and serial number."""

from __future__ import annotations

import difflib
import ipaddress
import re
import shlex
from dataclasses import dataclass, field

from fleet.api.errors import ApiError
from fleet.api.selectors import FieldSelector, LabelSelector
from machines.states import STATES

FIELDS = {
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
_TOKEN = re.compile(r"(-?)([A-Za-z]+)[:=](.*)")


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


def parse(text: str) -> Filter:
    """Read a filter; FilterError for an unknown key (with the nearest known one), a bad state, more than one bare word."""
    if len(text) > 500:
        raise FilterError("A filter may have at most 500 characters.")
    try:
        parts = shlex.split(text)
    except ValueError:
        raise FilterError("A quote is not closed.") from None
    tokens, words, terms, labels = [], [], [], []
    for part in parts:
        match = _TOKEN.fullmatch(part)
        if match is None:
            words.append(part)
            continue
        sign, key, value = match.groups()
        if key == "label":
            labels.append(value if not sign else f"!{value}" if "=" not in value else value.replace("=", "!=", 1))
        elif key in FIELDS:
            if key == "state" and value not in STATES:
                raise FilterError(f"“{value}” is no state. States are {', '.join(STATES)}.")
            terms.append((FIELDS[key], "!=" if sign else "=", value))
        else:
            near = difflib.get_close_matches(key, [*FIELDS, "label"], 1)
            hint = f" Did you mean “{near[0]}”?" if near else f" Keys are {', '.join([*FIELDS, 'label'])}."
            raise FilterError(f"“{key}” is no key to filter by.{hint}")
        tokens.append((f"{sign}{key}", value))
    if len(words) > 1:
        raise FilterError("One bare word at a time: it is looked for as name, address or serial number.")
    terms += _address(words)
    try:
        selector = LabelSelector.parse(",".join(labels))
    except ApiError as error:
        raise FilterError(f"The label cannot be read: {error.message}") from None
    return Filter(tuple(tokens), tuple(words), FieldSelector(tuple(terms)), selector)  # type: ignore[arg-type]


def _address(words: list[str]) -> list[tuple[str, str, str]]:
    """A bare word that is an address is looked for as one."""
    try:
        ipaddress.ip_address(words[0] if words else "")
    except ValueError:
        return []
    return [("spec.ip", "=", words.pop())]


def join(tokens: tuple[tuple[str, str], ...], words: tuple[str, ...]) -> str:
    """The text of a filter."""
    return " ".join([*(f"{k}:{shlex.quote(v)}" for k, v in tokens), *words])
