"""Condition types of a Machine: name, bit in the packed masks, owner, one sentence. Bits are never reused."""

from __future__ import annotations

from typing import Final

# type: (bit, owner, meaning)
TYPES: Final[dict[str, tuple[int, str, str]]] = {
    "NodeReady": (0, "watcher", "The machine's Kubernetes node reports Ready."),
    "HostHealthy": (1, "machine-operator", "The host answers and the health checks of its packages hold."),
    "Reachable": (2, "machine-operator", "The host answers under its enrolled host key and identity."),
    "VersionsResolved": (3, "machine-operator", "Every version asked for names exactly one package version."),
    "PackagesUpToDate": (4, "machine-operator", "All packages are installed as accepted."),
    "ConfigUpToDate": (5, "machine-operator", "All files, units, sysctls and modules are as accepted."),
    "KernelUpToDate": (6, "machine-operator", "The wanted kernel and boot parameters are running."),
    "UpToDate": (7, "machine-operator", "Everything is as accepted at this generation."),
    "Ready": (8, "machine-operator", "kstatus: the machine is at its final state."),
    "Reconciling": (9, "machine-operator", "kstatus: Fleet is working on the machine or waits to."),
    "Stalled": (10, "machine-operator", "kstatus: nothing more happens without a person or a new spec."),
    "Preflight": (11, "machine-operator", "The host is fit for changes: OS, disk, clock, package lock."),
    "UpdateAvailable": (12, "machine-operator", "A shared layer has a newer set that this machine has not taken."),
    "Held": (13, "machine-operator", "A person's hold or pause keeps Fleet's hands off."),
    "Drifted": (14, "machine-operator", "The host differs from what was accepted."),
    "Verifiable": (15, "machine-operator", "Each artifact has a checksum or a signature."),
    "Decommissioned": (16, "machine-operator", "The machine was taken out of service and cleaned."),
    "RemovalHeld": (17, "machine-operator", "A removal waits for a person's confirmation."),
    "Pinned": (18, "machine-operator", "The machine itself names versions that shared layers do not move."),
    "ChangeAllowed": (19, "machine-operator", "The last permit asked for was granted."),
    "Schedulable": (20, "machine-operator", "The machine's node takes workloads."),
    "GatesHold": (21, "machine-operator", "Every readiness gate of the node holds."),
    "ComponentsHealthy": (22, "machine-operator", "Every unit that shall run does, and what belongs to it is whole."),
    "DiskSpaceLow": (23, "machine-operator", "The file system of /var is almost full."),
    "MemoryLow": (24, "machine-operator", "The host has almost no memory left."),
    "LoadHigh": (25, "machine-operator", "The load is far above what the processors can do."),
    "FilesystemReadOnly": (26, "machine-operator", "The kernel made a file system read-only."),
    "Faultless": (27, "machine-operator", "No confirmed fault of the machine is open."),
}

BIT: Final[dict[str, int]] = {name: bit for name, (bit, _, _) in TYPES.items()}
NEVER: Final = 1 << 62  # a bit that no condition sets: a mask with it is never met
OPERATOR_TYPES: Final[tuple[str, ...]] = tuple(n for n, (_, owner, _) in TYPES.items() if owner == "machine-operator")
OPERATOR_MASK: Final[int] = sum(1 << BIT[n] for n in OPERATOR_TYPES)
