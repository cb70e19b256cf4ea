"""Phases, and the faults that Fleet knows by itself: type, category, severity, one sentence, and the playbook that a declared one gets. Pure."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Category = Literal["Hardware", "Resource", "Component"]
# Phases of a fault, and of a remediation.
OPEN: Final = "Open"
SUSPECTED: Final = "Suspected"
CONFIRMED: Final = "Confirmed"
RECOVERING: Final = "Recovering"
NEEDS_PERSON: Final = "NeedsPerson"
RESOLVED: Final = "Resolved"
LIVE: Final = (OPEN, SUSPECTED, CONFIRMED, RECOVERING, NEEDS_PERSON)
WAITING: Final = "Waiting"
REPAIRING: Final = "Repairing"
VERIFYING: Final = "Verifying"
PROBATION: Final = "Probation"
SUCCEEDED: Final = "Succeeded"
ESCALATED: Final = "Escalated"
CANCELLED: Final = "Cancelled"
ENDED: Final = (SUCCEEDED, ESCALATED, CANCELLED)
RULES: Final = "recovery-rules"  # how often rules were changed, in the table of slots
SEVERITIES: Final = ("normal", "warning", "error")


class FaultType(NamedTuple):
    """What a type means where nobody says otherwise."""

    category: Category
    severity: int
    meaning: str
    playbook: str


TYPES: Final[dict[str, FaultType]] = {
    "PowerFailure": FaultType("Hardware", 2, "The machine has no power, or its supply fails.", "power"),
    "DiskFailure": FaultType("Hardware", 2, "A disk fails or is about to.", "hardware"),
    "FilesystemReadOnly": FaultType("Hardware", 2, "The kernel made a file system read-only.", "filesystem"),
    "MemoryFailure": FaultType("Hardware", 2, "Memory has errors that cannot be corrected.", "hardware"),
    "MotherboardFailure": FaultType("Hardware", 2, "Board, processor, fan or sensor reports a failure.", "hardware"),
    "NicFailure": FaultType("Hardware", 2, "A network card or its link fails.", "hardware"),
    "HostUnreachable": FaultType("Hardware", 2, "Neither its host nor its node answers.", "power"),
    "LoadHigh": FaultType("Resource", 1, "The load is far above what its processors can do.", "pressure"),
    "MemoryPressure": FaultType("Resource", 1, "Memory runs out.", "pressure"),
    "DiskPressure": FaultType("Resource", 1, "A disk runs full.", "disk-space"),
    "ComponentCrash": FaultType("Component", 1, "A unit that shall run does not.", "component"),
    "ConfigurationError": FaultType("Component", 1, "A component does not work with the configuration it has.", "configuration"),
    "PackageBroken": FaultType("Component", 1, "A package is missing or half installed.", "package"),
    "NotResponding": FaultType("Component", 1, "A component runs and does not answer.", "component"),
    "KernelFault": FaultType("Component", 2, "The kernel reports a deadlock or a fault of its own.", "reboot"),
}  # fmt: skip
