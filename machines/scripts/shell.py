"""What all step scripts share: checked and quoted values, and the prelude. Pure.

A value reaches a shell only through `quote`, and a name only after its pattern has matched in full.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from machines.observe import FUNCTIONS

PRELUDE: Final[str] = FUNCTIONS + Path(__file__).with_name("prelude.sh").read_text(encoding="utf-8")

PATTERNS: Final[dict[str, re.Pattern[str]]] = {
    "package": re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,127}"),
    "version": re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~:-]{0,127}"),
    "unit": re.compile(r"[A-Za-z0-9_][A-Za-z0-9:_.@\\-]{0,254}"),
    "module": re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"),
    "path": re.compile(r"/[^\x00-\x1f\x7f]{1,1023}"),
    "mode": re.compile(r"0?[0-7]{3,4}"),
    "owner": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "url": re.compile(r"(https?://[^\s\x00-\x1f\x7f\"'`\\<>|^{}]{1,2000}|(file://)?/[^\x00-\x1f\x7f]{1,1023})"),
    "boot parameter": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"),
    "boot value": re.compile(r"[A-Za-z0-9_.,:;/=@%+-]{0,500}"),
    "sysctl value": re.compile(r"[^\x00-\x1f\x7f]{1,1000}"),
    "boot id": re.compile(r"[0-9a-f-]{36}"),
}


def checked(value: str, kind: str, field: str) -> str:
    """The value if it matches its kind in full, else ValueError naming the field."""
    if not isinstance(value, str) or not PATTERNS[kind].fullmatch(value):
        raise ValueError(f"{field}: not acceptable as {kind}: {str(value)[:60]!r}")
    if kind == "path" and (".." in value.split("/") or value.endswith("/") or "//" in value):
        raise ValueError(f"{field}: a path is absolute, plain and without '..': {value[:60]!r}")
    return value


def quote(value: str) -> str:
    """One word for a POSIX shell. NUL cannot be said in a shell and is refused; what is not UTF-8 neither."""
    if "\x00" in value:
        raise ValueError(f"a value holds NUL: {value[:60]!r}")
    value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    return shlex.quote(value)


def words(values: Iterable[str]) -> str:
    """Several quoted words."""
    return " ".join(quote(value) for value in values)


def argv(values: tuple[str, ...], field: str) -> str:
    """A command as quoted words; an empty one is refused."""
    if not values or not values[0]:
        raise ValueError(f"{field}: an argv list needs a command")
    return words(values)


def assign(**values: str) -> str:
    """`name='value'` lines; the names are ours, the values are quoted."""
    return "".join(f"{name}={quote(value)}\n" for name, value in values.items())


def embed(content: bytes) -> str:
    """Bytes as `base64 -d <<'END'` body: any content, also one that looks like shell, passes as data."""
    return "base64 -d <<'END_OF_BASE64'\n" + base64.encodebytes(content).decode() + "END_OF_BASE64\n"


def script(*parts: str) -> str:
    """A whole step script."""
    return PRELUDE + "\n" + "\n".join(part.rstrip("\n") for part in parts) + "\nexit 0\n"


def resource(name: str) -> str:
    """A shell part that stands beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
