"""Recovery where conditions are written: faults and orders follow in the process that has the news, before anybody is woken for them."""

from __future__ import annotations

import time
from collections.abc import Set
from typing import Final

from fleet.control.db import Connection
from machines.waking import wake
from recovery.detecting import Ruleset, detect, read_rules
from recovery.orders import order

KEEP_RULES_SECONDS: Final = 2.0
_rules: Ruleset | None = None
_rules_at = 0.0


async def react(conn: Connection, machines: Set[int]) -> None:
    """Where conditions are written: faults and, if any is confirmed, orders in its cluster follow at once, in the same process. All are woken once."""
    found = await detect(conn, machines, await kept_rules(conn), waking=False)
    begun: tuple[int, ...] = ()
    try:
        if found.confirmed:
            begun = (await order(conn, clusters=found.clusters, waking=False)).machines
    finally:
        await wake(conn, found.turned.union(begun))


async def kept_rules(conn: Connection) -> Ruleset:
    """The rules, read again after a moment: a storm does not read them with each batch."""
    global _rules, _rules_at
    if _rules is None or time.monotonic() - _rules_at > KEEP_RULES_SECONDS:
        read = await read_rules(conn)
        if _rules is None or _rules.rules != read.rules:  # the same ones keep what was looked up for them
            _rules = read
        _rules_at = time.monotonic()
    return _rules
