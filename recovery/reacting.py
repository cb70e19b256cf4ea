"""Recovery where conditions are written: faults and orders follow in the process that has the news, before anybody is woken for them."""

from __future__ import annotations

import time
from collections.abc import Set
from typing import Final

from fleet.control.db import Connection
from recovery.detecting import Ruleset, detect, read_rules
from recovery.orders import order

KEEP_RULES_SECONDS: Final = 2.0
_rules: Ruleset | None = None
_rules_at = 0.0


async def react(conn: Connection, machines: Set[int]) -> None:
    """Where conditions are written: faults and, if any is confirmed, orders follow at once, in the same process."""
    found = await detect(conn, machines, await kept_rules(conn))
    if found.confirmed:
        await order(conn)


async def kept_rules(conn: Connection) -> Ruleset:
    """The rules, read again after a moment: a storm does not read them with each batch."""
    global _rules, _rules_at
    if _rules is None or time.monotonic() - _rules_at > KEEP_RULES_SECONDS:
        _rules, _rules_at = await read_rules(conn), time.monotonic()
    return _rules
