"""A Playbook in the form that repair works with: rungs, how hard each is on the machine, and the Operation that it becomes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from fleet.control.kinds import Json

# Actions of a rung, and the verb that the safety ledger is asked for. The hardest of a rung counts.
ACTIONS: Final[dict[str, str]] = {
    "CleanDisk": "None",
    "Isolate": "Cordon",
    "RestartUnits": "Restart",
    "RewriteConfiguration": "Restart",
    "ReinstallPackage": "Restart",
    "Drain": "Drain",
    "Reboot": "Reboot",
    "PowerCycle": "PowerCycle",
    "Reinstall": "Reinstall",
    "Replace": "Replace",
    "AskPerson": "None",
}
HARDNESS: Final = ("None", "Cordon", "Restart", "Drain", "Reboot", "PowerCycle", "Reinstall", "Replace")
TWO_SOURCES: Final = frozenset(
    {"Reboot", "PowerCycle", "Reinstall", "Replace"}
)  # never on the word of one source alone
SILENCE: Final = frozenset({"fleet", "kubelet"})  # sources that a cut network makes silent
MORE_THAN_SILENCE: Final = frozenset({"PowerCycle", "Reinstall"})  # actions that ask for a source besides those
BOOTS: Final = frozenset({"Reboot", "PowerCycle"})  # how long these may take can be said
BESIDE_REINSTALL: Final = frozenset({"Isolate", "Drain"})  # what may stand in its rung: everything else it brings along
OF_PEOPLE: Final = frozenset({"Replace", "AskPerson"})  # nothing is sent to the host: a person is asked
VERIFY_SECONDS: Final = 120
PROBATION_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Rung:
    """One try. `steps` are as people wrote them: an action and its values."""

    name: str
    steps: tuple[Json, ...]
    verify_seconds: int = VERIFY_SECONDS
    drain: Json = field(default_factory=dict)

    @property
    def verb(self) -> str:
        """What the permit is asked for."""
        return max((ACTIONS[s["action"]] for s in self.steps), key=HARDNESS.index, default="None")

    @property
    def of_people(self) -> bool:
        """A person does it."""
        return any(s["action"] in OF_PEOPLE for s in self.steps)

    def only_silence(self, sources: Sequence[str]) -> bool:
        """It switches the power or wipes the disks, and nobody speaks for the fault but those whom a cut network would silence as well."""
        return any(s["action"] in MORE_THAN_SILENCE for s in self.steps) and not set(sources) - SILENCE

    @property
    def sources(self) -> int:
        """How many independent sources must say that there is a fault."""
        return 2 if self.verb in TWO_SOURCES else 1


@dataclass(frozen=True, slots=True)
class Ladder:
    """Rungs from the gentlest to the hardest."""

    name: str
    rungs: tuple[Rung, ...]
    probation_seconds: int = PROBATION_SECONDS


def ladder_of(name: str, spec: Json) -> Ladder:
    """From an object's spec, or from what a remediation froze of it."""
    return Ladder(
        name,
        tuple(
            Rung(r["name"], tuple(r["steps"]), r.get("verifySeconds", VERIFY_SECONDS), r.get("drain", {}))
            for r in spec["rungs"]
        ),
        spec.get("probationSeconds", PROBATION_SECONDS),
    )


def task_of(rung: Rung) -> str:
    """What a person is asked to do."""
    said = [s.get("task", "") for s in rung.steps if s["action"] in OF_PEOPLE]
    return " ".join(t for t in said if t) or "Look at the machine."


def operation_spec(rung: Rung, *, machine: str, cluster: str, remediation: str, reason: str, units: list[str]) -> Json:
    """The spec of the Operation of a rung. `units`: those that the fault is about, for steps that name none."""
    steps = [
        {**s, "units": units} if s["action"] == "RestartUnits" and not s.get("units") else dict(s) for s in rung.steps
    ]
    out: Json = {"machine": machine, "verb": "Repair", "owner": f"remediation/{remediation}", "reason": reason[:1000]}
    out |= {"remediation": remediation, "steps": steps}
    if cluster:
        out["clusterName"] = cluster
    return out | ({"drain": rung.drain} if rung.drain else {})
