"""Why nobody repairs a machine, as a ladder of questions; a remediation as rungs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from fleet.console.words import Stage, closed, count
from fleet.control.kinds import Json
from recovery.playbooks import ACTIONS, HARDNESS, OF_PEOPLE, VERIFY_SECONDS
from recovery.types import TYPES

_ACTIONS: Final[Mapping[str, str]] = {
    "CleanDisk": "Clean the disk", "Isolate": "Close for pods", "RestartUnits": "Restart units", "RewriteConfiguration": "Rewrite configuration",
    "ReinstallPackage": "Re-install package", "Drain": "Drain", "Reboot": "Reboot", "PowerCycle": "Power-cycle", "Reinstall": "Reinstall the system", "Replace": "Replace hardware", "AskPerson": "Ask a person",
}  # fmt: skip
# phase of a fault: (tone, word)
FAULT_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "Open": ("unknown", "Seen"), "Suspected": ("warn", "Suspected"), "Confirmed": ("warn", "Confirmed"), "Recovering": ("busy", "Under repair"), "NeedsPerson": ("bad", "Needs a person"),
    "Resolved": ("ok", "Over"),
}  # fmt: skip
REMEDIATION_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "Waiting": ("held", "Waits"), "Repairing": ("busy", "Repairs"), "Verifying": ("busy", "Verifies"), "Probation": ("warn", "On probation"), "Succeeded": ("ok", "Repaired"),
    "Escalated": ("bad", "Given to a person"), "Cancelled": ("off", "Cancelled"),
}  # fmt: skip


def meaning(type_: str) -> str:
    """What a type of fault means, "" = it is not one of Fleet's own."""
    return TYPES[type_].meaning if type_ in TYPES else ""


def action_words(step: Json) -> str:
    """A step of a rung in words."""
    what = ", ".join(
        step.get("units", []) or step.get("clean", []) or ([step["package"]] if step.get("package") else [])
    )
    word = _ACTIONS.get(step.get("action", ""), step.get("action", ""))
    return f"{word}: {what}" if what else step.get("task") or word


def sources_of(fault: Json) -> str:
    """Who says so, in words: a person's word stands for two sources."""
    found = [s.removeprefix("person:") for s in fault["sources"] if s != "word-of-a-person"]
    return ", ".join(found)


def said_of(faults: Sequence[Json]) -> str:
    """The worst fault of a machine in a sentence, "" = there is none."""
    fault = next((f for f in faults if not f["shadow"]), None)
    if fault is None:
        return ""
    done = {"NeedsPerson": "it needs a person", "Recovering": "Fleet repairs it", "Confirmed": "its repair waits"}.get(fault["phase"], "not confirmed yet")  # fmt: skip
    return f"{fault['type']}: {done}."


def stops(why: Json) -> bool:
    """Whether a ladder has a rung that does not hold: else the repair is under way, and nobody has to be told why not."""
    return any(r["answer"] != "holds" for r in why["rungs"])


def ladder(faults: Sequence[Json], *, here: bool = False) -> Json | None:
    """ "Why is nobody repairing it?" of the worst fault that is no trial; None = nothing is wrong. `here`: on the fault's own page."""
    real = [f for f in faults if not f["shadow"]]
    trial = [f for f in faults if f["shadow"]]
    if not real and not trial:
        return None
    fault = (real or trial)[0]
    rungs: list[Json] = []
    for text, owner, since, (answer, explanation, actions) in _questions(fault, here):
        asked = not rungs or rungs[-1]["answer"] == "holds"
        rungs.append({
            "text": text, "owner": owner, "since": since, "answer": answer if asked else "notAsked",
            "explanation": explanation if asked else "", "actions": actions if asked else [],
        })  # fmt: skip
    return {"question": "Why is nobody repairing it?", "rungs": rungs}


Answer = tuple[str, str, list[Json]]


def _questions(fault: Json, here: bool) -> list[tuple[str, str, str, Answer]]:
    phase, repair = fault["phase"], fault["status"].get("repair", {})
    name, seen = f"Fault {fault['name']}", fault["first_seen"].isoformat()
    look = [] if here else [{"href": f"/faults/{quote(fault['name'], safe='')}", "text": "Look at the fault"}]
    since = str(repair.get("since", "")) or seen
    changed = fault["phase_at"].isoformat() if fault.get("phase_at") else since
    return [
        (f"{name}: the rule that found it is in force", fault["rule"] or "a person", seen, _in_force(fault)),
        ("Its time has passed and enough sources say so", sources_of(fault) or "recovery", seen, _confirmed(fault, look)),
        ("Fleet may repair it, it was not given to a person", "recovery", since, _of_fleet(fault, look)),
        ("Nothing stands against the repair", "safety" if "Budget" in str(repair.get("reason")) else "recovery", since, _allowed(fault, look)),
        ("A rung of its playbook is under way", fault.get("playbook") or "recovery", changed, _under_way(fault, phase)),
    ]  # fmt: skip


_HOLDS: Final[Answer] = ("holds", "", [])


def _in_force(fault: Json) -> Answer:
    if fault["shadow"]:
        rule = fault["rule"]
        return "no", f"Rule {rule} is on trial: it finds and counts, and nothing is done.", [{"href": f"/rules/{quote(rule, safe='')}", "text": "Look at the rule"}]  # fmt: skip
    return _HOLDS


def _confirmed(fault: Json, look: list[Json]) -> Answer:
    if fault["phase"] == "Open":
        return "no", closed(fault["status"].get("message", "")) + " It is seen, and its hold time still runs.", look
    if fault["phase"] == "Suspected":
        return (
            "no",
            f"Only {sources_of(fault) or 'nobody'} says so; a second, independent source is waited for.",
            look,
        )
    return _HOLDS


def _of_fleet(fault: Json, look: list[Json]) -> Answer:
    if fault["phase"] != "NeedsPerson":
        return _HOLDS
    repair = fault["status"].get("repair", {})
    said = repair.get("message") or fault["status"].get("message", "")
    return "no", closed(said), [*look, {"open": "#do-retry", "set": fault["name"], "text": "Try again…"}, {"open": "#do-clear", "set": fault["name"], "text": "It is over…"}]  # fmt: skip


def _allowed(fault: Json, look: list[Json]) -> Answer:
    repair = fault["status"].get("repair", {})
    if fault["phase"] == "Confirmed":
        if repair:
            return "no", closed(repair.get("message", "")), look
        return "unknown", "It was confirmed a moment ago; its turn comes within seconds.", look
    status = fault.get("remediation_status") or {}
    if fault.get("remediation_phase") == "Waiting" and status.get("reason"):
        return "no", closed(status.get("message", "")), [{"href": f"/remediations/{quote(fault['remediation'], safe='')}", "text": "Look at the repair"}]  # fmt: skip
    return _HOLDS


def _under_way(fault: Json, phase: str) -> Answer:
    if phase == "Recovering" and fault.get("remediation"):
        status = fault.get("remediation_status") or {}
        return "holds", closed(status.get("message", "")), []
    return "unknown", "No remediation works on it yet.", []


# -- a remediation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RungView:
    """One rung of a remediation's ladder. `state`: done, now, failed or later."""

    number: int
    name: str
    verb: str
    steps: tuple[str, ...]
    state: str
    outcome: str
    message: str
    operations: tuple[str, ...]
    verify_seconds: int


def rungs_of(obj: Json) -> list[RungView]:
    """The ladder as it was frozen, with what became of each rung."""
    spec, status = obj["spec"], obj.get("status", {})
    tried: dict[str, list[Json]] = {}
    for entry in status.get("rungs", []):
        tried.setdefault(entry["name"], []).append(entry)
    at, ended = int(status.get("rung", 1)), bool(status.get("endTime"))
    return [
        _rung(number, rung, tried.get(rung["name"], []), at, status, ended)
        for number, rung in enumerate(spec.get("ladder", {}).get("rungs", []), 1)
    ]


def _rung(number: int, rung: Json, entries: list[Json], at: int, status: Json, ended: bool) -> RungView:
    last = entries[-1] if entries else {}
    steps = tuple(action_words(s) for s in rung.get("steps", []))
    verbs = [ACTIONS.get(s.get("action", ""), "None") for s in rung.get("steps", [])]
    return RungView(
        number, rung["name"], max(verbs, key=HARDNESS.index, default="None"), steps, _state(number, at, entries, status, ended),
        _OUTCOMES.get(str(last.get("outcome", "")), str(last.get("outcome", ""))), closed(str(last.get("message", ""))), tuple(e["operation"] for e in entries if e.get("operation")), 0 if any(s.get("action") in OF_PEOPLE for s in rung.get("steps", [])) else int(rung.get("verifySeconds", VERIFY_SECONDS)),
    )  # fmt: skip


_OUTCOMES: Final[Mapping[str, str]] = {
    "DidNotHelp": "did not help", "CameBack": "it came back", "RungFailed": "failed", "LadderEnded": "did not help", "PersonAsked": "a person was asked", "Cancelled": "cancelled",
}  # fmt: skip


def _state(number: int, at: int, entries: list[Json], status: Json, ended: bool) -> str:
    phase = status.get("phase")
    if number < at:
        return "failed" if entries else "done"
    if number > at:
        return "later"
    if phase == "Succeeded":
        return "done"
    if phase in ("Escalated", "Cancelled"):
        return "failed"
    return "wait" if phase == "Waiting" and not ended else "now"


def stages(rungs: Sequence[RungView]) -> list[Stage]:
    """The same as a step track."""
    return [Stage(r.name, r.state, r.outcome or (r.verb if r.verb != "None" else ""), 1) for r in rungs]


def verdict(obj: Json, rungs: Sequence[RungView]) -> str:
    """What is so, since when, why, and what comes next."""
    status = obj.get("status", {})
    at, of = status.get("rung", 1), len(rungs)
    said = closed(status.get("message", ""))
    where = f"Rung {min(at, of)} of {of}: " if of else ""
    by_phase = {
        "Succeeded": f"Repaired by {rungs[min(at, of) - 1].name}. {said}" if of else f"Repaired. {said}",
        "Escalated": f"Given to a person after {count(len(status.get('rungs', [])), 'try', 'tries')}. {said}",
        "Cancelled": f"Cancelled. {said}",
    }
    return by_phase.get(status.get("phase", ""), f"{where}{said}").strip()


def rate(status: Mapping[str, Any]) -> str:
    """Of what ended, what succeeded."""
    ended = sum(int(status.get(k) or 0) for k in ("succeeded", "escalated"))
    return f"{int(status.get('succeeded') or 0) * 100 // ended} %" if ended else "–"
