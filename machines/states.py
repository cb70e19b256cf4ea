"""A machine's state for people: the first that holds of off, bad, held, unknown, busy, warn, gate, ok."""

from __future__ import annotations

from typing import Final

from machines.conditions import BIT

STATES: Final[tuple[str, ...]] = ("off", "bad", "held", "unknown", "busy", "warn", "gate", "ok")

_HELD, _REACHABLE = 1 << BIT["Held"], 1 << BIT["Reachable"]
_STARTED = "EXISTS (SELECT FROM machines_operation o WHERE o.machine_id = s.id AND o.started_at IS NOT NULL AND o.ended_at IS NULL)"

# Over machine_state s. Each arm stands alone, so that a filter for one state can be answered by its own index.
STATE_SQL: Final = (
    f"CASE WHEN s.phase IN ('Retired', 'Decommissioning') THEN 'off' WHEN s.phase = 'Failed' THEN 'bad' "
    f"WHEN s.paused OR s.cond_true & {_HELD} <> 0 THEN 'held' WHEN s.cond_true & {_REACHABLE} = 0 THEN 'unknown' "
    f"WHEN {_STARTED} THEN 'busy' WHEN s.phase IN ('Repairing', 'Probation') OR s.drift & 3 <> 0 THEN 'warn' "
    f"WHEN NOT s.open OR s.drift & 4 <> 0 THEN 'gate' ELSE 'ok' END"
)
# Conditions that follow from a state and that a partial index of machine_state answers; the CASE still decides.
NARROWER: Final[dict[str, str]] = {
    "off": "s.phase <> 'Running' AND s.phase IN ('Retired', 'Decommissioning')",
    "bad": "s.phase <> 'Running' AND s.phase = 'Failed'",
}
