"""Why a machine with a fault is, or is not, under repair: one ladder for each live fault, in the order in which recovery asks."""

from __future__ import annotations

from typing import Final

from fleet.control.kinds import Json
from machines.why import ladder_of, plain_rung
from recovery.models import Fault, Remediation
from recovery.types import CONFIRMED, LIVE, NEEDS_PERSON, OPEN, RECOVERING, SUSPECTED

_MOST: Final = 5
# Reasons of the ledger are asked for last; these come before it.
_BEFORE: Final = {
    "ViewBroken": "Fleet can see the cluster",
    "OtherRemediation": "No other remediation works on the machine",
    "OtherFault": "No worse fault of the machine is repaired first",
    "Outranks": "The remediation of a lesser fault has ended",
    "CordonedByPerson": "No person closed the node",
    "RepairedTooOften": "It was not repaired too often already",
    "NoPlaybook": "A playbook repairs it",
    "PlaybookMissing": "Its playbook is there",
    "OnlySilence": "More than silence speaks for it: a cut network looks like a dead machine",
    "OneSource": "As many independent sources say so as the first rung asks for",
    "PersonAsked": "Fleet can do something about it",
}


def ladders(obj: Json) -> list[Json]:
    """The questions about the live faults of one machine, the worst first; none without a fault."""
    name = obj["metadata"]["name"]
    found = Fault.objects.filter(spec__machine=name, phase__in=LIVE).order_by("-severity", "id")[:_MOST]
    return [_ladder(name, fault) for fault in found]


def _ladder(machine: str, fault: Fault) -> Json:
    repair = fault.status.get("repair", {}) if fault.phase in (CONFIRMED, NEEDS_PERSON) else {}
    reason, said = repair.get("reason", ""), repair.get("message", "")
    message = fault.status.get("message", "")
    rungs = [
        plain_rung("It has been seen for long enough", "no" if fault.phase == OPEN else "holds", message if fault.phase == OPEN else "", "recovery"),
        plain_rung("Enough independent sources say so", "no" if fault.phase == SUSPECTED else "holds", message if fault.phase == SUSPECTED else "", "recovery"),
        plain_rung("Its rule acts, and is not on trial", "no" if fault.shadow else "holds", f"Rule {fault.rule} is in shadow: it finds and does nothing." if fault.shadow else "", "a person"),
    ]  # fmt: skip
    rungs += [
        plain_rung(text, "no" if reason == known else "holds", said if reason == known else "", "recovery")
        for known, text in _BEFORE.items()
    ]
    ledger = bool(reason) and reason not in _BEFORE
    rungs.append(
        plain_rung(
            "Safety grants the permit", "no" if ledger else "holds", f"{reason}: {said}" if ledger else "", "safety"
        )
    )
    if fault.phase == RECOVERING:
        rungs.append(plain_rung("A remediation works on it", "holds", _doing(fault), "recovery"))
    elif fault.phase == NEEDS_PERSON and not reason:
        actions = [
            {
                "annotation": "fleet.dev/retry",
                "value": "yes",
                "text": f"kubectl annotate fault {fault.name} fleet.dev/retry=yes",
            }
        ]
        rungs.append(plain_rung("Recovery knows another way", "no", message, "a person", actions))
    else:
        rungs.append(plain_rung("A remediation works on it", "unknown", "It begins with the next turn.", "recovery"))
    asked = "Who repairs" if fault.phase == RECOVERING else "Why is nobody repairing"
    return ladder_of(f"{asked} {fault.type} of {machine} ({fault.name})?", rungs)


def _doing(fault: Fault) -> str:
    remediation = Remediation.objects.filter(fault_id=fault.pk, ended_at=None).first()
    return f"{remediation.name} is {remediation.phase}: {remediation.status.get('message', '')}" if remediation else ""
