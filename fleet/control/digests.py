"""Names for JSON values by what they say."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson


def hash64(body: Any) -> int:
    """Signed 64 bits of a JSON value: the first 8 bytes of the SHA-256 of its canonical text (keys sorted, compact)."""
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def hex64(body: Any) -> str:
    """The same as 16 hexadecimal digits, for people."""
    return f"{hash64(body) & 0xFFFFFFFFFFFFFFFF:016x}"
