"""Made-up breakers, holds, faults and repairs for the kit."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from fleet.console import repair
from fleet.console.breakers import MINUTES, Dial
from fleet.console.event_pages import histogram
from fleet.console.event_search import BARS, Bar, Counted
from fleet.console.fault_queries import Board, Cell
from fleet.console.notices import Told
from fleet.control.kinds import Json
from fleet.safety.breakers import Breaker
from fleet.safety.notices import Notice


def context(now: datetime) -> dict[str, Any]:
    """What the fragments of safety, events and repair are given."""
    return {
        "notices": _notices(now), "untaken": 2, "may_take": True, "may_approve": True,
        "breakers": _breakers(now), "counting": [Dial(_breaker("rack", "iad1/r112", "closed", 8, 2, now))], "quiet": 29, "tally": "1 open, 1 half-open, 31 closed", "may_reset": True,
        "holds": _holds(now), "may_hold": True, "histogram": histogram(_counted(now)), "board": _board(now), "rungs": (rungs := repair.rungs_of(_remediation())),
        "ladder_stages": repair.stages(rungs), "fault_phases": list(repair.FAULT_WORDS), "repair_phases": list(repair.REMEDIATION_WORDS),
    }  # fmt: skip


def _breaker(dim: str, name: str, state: str, threshold: int, count: int, now: datetime, allow: int = 0) -> Breaker:
    why = "50 machines were taken by faults within 10 minutes."
    return Breaker(
        dim,
        7,
        name,
        state,
        threshold,
        count,
        600,
        allow,
        1,
        now - timedelta(minutes=6),
        None,
        why,
        "",
        "m.ito" if state == "half-open" else "",
        (),
        now + timedelta(minutes=48) if state == "half-open" else None,
    )


def _notices(now: datetime) -> list[Told]:
    def notice(id_: int, severity: int, subject: str, message: str, by: str = "") -> Told:
        since, taken = now - timedelta(minutes=7 * id_), now - timedelta(minutes=3) if by else None
        return Told(
            Notice(id_, "BreakerOpen", severity, subject, message, "iad1-ads", since, None, by, taken), id_ != 2
        )

    return [
        notice(1, 2, "The breaker of cluster iad1-ads is open", "50 machines were taken by faults within 10 minutes."),
        notice(2, 1, "Hold load-test is overdue", "It ended at 12:00 and holds nothing any more: m.ito asked for it."),
        notice(3, 1, "3 machines of cluster iad1-ads need a person", "iad1-r112-u07, iad1-r112-u08.", "m.ito"),
    ]


def _breakers(now: datetime) -> list[Dial]:
    storm = tuple(max(0, min(57, (n - 40) * 5)) for n in range(MINUTES))
    calm = tuple(4 + n % 3 for n in range(MINUTES))
    return [
        Dial(_breaker("cluster", "iad1-ads", "open", 50, 57, now), storm),
        Dial(_breaker("idc", "fra1", "half-open", 50, 12, now, allow=2), calm, may_reset=True),
        Dial(_breaker("fleet", "", "closed", 200, 69, now), tuple(n + c for n, c in zip(storm, calm, strict=True))),
    ]


def _holds(now: datetime) -> list[Json]:
    def hold(name: str, cluster: str, hours: int, machines: int) -> Json:
        until = now + timedelta(hours=hours)
        spec = {"target": {"cluster": cluster}, "reason": "quarter close", "owner": "m.ito", "until": until.isoformat()}
        meta = {"name": name, "creationTimestamp": (now - timedelta(days=1)).isoformat()}
        return {
            "metadata": meta,
            "spec": spec,
            "status": {"machines": machines, "phase": "Effective"},
            "over": hours < 0,
        }

    return [hold("close", "fra2-pay", 8, 20_000), hold("load-test", "gru1-web", -2, 400)]


def _counted(now: datetime) -> Counted:
    bars = tuple(Bar(20 + n % 7, n % 5, 9 if 50 < n < 56 else 0) for n in range(BARS))
    return Counted(now - timedelta(hours=6), now, bars, from_bar=8)


def _board(now: datetime) -> Board:
    def cell(n: int, needs: int = 0, recovering: int = 0) -> Cell:
        return Cell(n, needs, recovering, now - timedelta(minutes=n), "")

    lines = (
        ("ComponentCrash", "Component", cell(230, 3, 212), (cell(212, 2, 200), cell(18, 1, 12), Cell())),
        ("DiskFailure", "Hardware", cell(4, 4), (cell(1, 1), cell(3, 3), Cell())),
        ("MemoryPressure", "Resource", cell(9), (Cell(), Cell(), cell(9))),
    )
    return Board(("iad1-ads", "fra1-pay", ""), lines, cell(243, 7, 212))


def _remediation() -> Json:
    steps = {
        "restart-units": "RestartUnits",
        "reinstall-package": "ReinstallPackage",
        "reboot": "Reboot",
        "ask-a-person": "AskPerson",
    }
    rungs = [{"name": name, "steps": [{"action": action}]} for name, action in steps.items()]
    tried = [
        {
            "name": "restart-units",
            "operation": "iad1-r112-u07-31",
            "outcome": "DidNotHelp",
            "message": "90 s after restart-units the fault is still seen.",
        }
    ]
    return {"spec": {"ladder": {"rungs": rungs}}, "status": {"phase": "Waiting", "rung": 2, "rungs": tried}}
