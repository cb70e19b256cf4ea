"""Phases of a machine: one declaration of the legal moves (django-fsm), and the phase that conditions amount to. Computed last, never read to decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PENDING: Final = "Pending"
PROVISIONING: Final = "Provisioning"
RUNNING: Final = "Running"
UPDATING: Final = "Updating"
REPAIRING: Final = "Repairing"
PROBATION: Final = "Probation"
FAILED: Final = "Failed"
DECOMMISSIONING: Final = "Decommissioning"
RETIRED: Final = "Retired"

PHASES: Final = (PENDING, PROVISIONING, RUNNING, UPDATING, REPAIRING, PROBATION, FAILED, DECOMMISSIONING, RETIRED)
NOT_IN_SERVICE: Final = frozenset({PENDING, PROVISIONING, DECOMMISSIONING, RETIRED})
# How long a repaired machine must stay well before it is Running again.
PROBATION_SECONDS: Final = 30.0


def _declared() -> tuple[str, ...]:
    """From>To of every transition that MachineState declares."""
    from machines.models import MachineState

    field = MachineState._meta.get_field("phase")
    pairs = {(t.source, t.target) for t in field.get_all_transitions(MachineState)}  # type: ignore[union-attr]
    return tuple(sorted(f"{source}>{target}" for source, target in pairs))


def __getattr__(name: str) -> tuple[str, ...]:
    # Computed at first use: models are not loaded yet when this module is.
    if name == "LEGAL":
        legal = _declared()
        globals()["LEGAL"] = legal
        return legal
    raise AttributeError(name)


@dataclass(frozen=True, slots=True)
class Signs:
    """What the phase is computed from. `work`: why an Operation is open or wanted ("" = none)."""

    deleted: bool = False
    retired: bool = False
    stalled: bool = False
    met: bool = False  # UpToDate and HostHealthy are True
    ever_met: bool = False
    begun: bool = False  # an Operation was started for it once, or is now
    work: str = ""  # "" | change | repair
    calm_seconds: float = 0.0  # how long the present phase lasts


def phase_of(now: str, signs: Signs) -> str:
    """The next phase, always a legal one: where the goal lies further away, the first step of the way."""
    if now == RETIRED or (now == DECOMMISSIONING and signs.retired):
        return RETIRED
    if signs.deleted or now == DECOMMISSIONING:
        return DECOMMISSIONING
    return _STEPS[now](signs)


def _pending(s: Signs) -> str:
    if s.met:
        return RUNNING
    return PROVISIONING if s.begun or s.stalled else PENDING


def _provisioning(s: Signs) -> str:
    if s.stalled:
        return FAILED
    return RUNNING if s.met else PROVISIONING


def _running(s: Signs) -> str:
    if s.stalled:
        return FAILED
    return {"change": UPDATING, "repair": REPAIRING}.get(s.work, RUNNING)


def _updating(s: Signs) -> str:
    if s.stalled:
        return FAILED
    if s.met and not s.work:
        return RUNNING
    return REPAIRING if s.work == "repair" else UPDATING


def _repairing(s: Signs) -> str:
    if s.stalled:
        return FAILED
    return PROBATION if s.met and not s.work else REPAIRING


def _probation(s: Signs) -> str:
    if s.stalled:
        return FAILED
    if s.work == "repair":
        return REPAIRING
    if s.work or (s.met and s.calm_seconds >= PROBATION_SECONDS):
        return RUNNING
    return PROBATION


def _failed(s: Signs) -> str:
    if s.stalled:
        return FAILED
    if s.met:
        return RUNNING
    if not s.ever_met:
        return PROVISIONING if s.work else FAILED
    return {"change": UPDATING, "repair": REPAIRING}.get(s.work, FAILED)


_STEPS: Final = {
    PENDING: _pending, PROVISIONING: _provisioning, RUNNING: _running, UPDATING: _updating, REPAIRING: _repairing,
    PROBATION: _probation, FAILED: _failed,
}  # fmt: skip
