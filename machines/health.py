"""What is wrong with a host that was well: components that do not run, and what it runs out of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fleet.control.conditions import Condition, Status
from machines.analyze import Diff
from machines.hosts import Facts
from machines.rows import FaultRow

DISK_SHARE: Final = 0.05  # of /var that must be free
DISK_BYTES: Final = 256 << 20
MEMORY_SHARE: Final = 0.04  # of memory that must be available
LOAD_PER_CPU: Final = 8.0
# A host goes back over a line only with some room, so that it does not come and go.
ROOM: Final = 1.25
PRESSURES: Final = ("DiskSpaceLow", "MemoryLow", "LoadHigh", "FilesystemReadOnly")
_BROKEN: Final = frozenset({"package", "removal", "database"})


def component_trouble(diffs: Sequence[Diff]) -> tuple[str, str]:
    """(reason, sentence) of what does not run on a host that held its whole set before; ("", "") when all does.

    The reason names what to repair: a package that is not whole comes before its configuration, that before its units.
    """
    down = [d for d in diffs if d.kind == "unit" and ("started" in d.wanted or "not masked" in d.wanted)]
    sick = [d for d in diffs if d.kind == "health"]
    packages = {d.package or d.name for d in (*down, *sick)}
    broken = [d for d in diffs if d.kind in _BROKEN and (d.name in packages or d.kind == "database")] or [
        d for d in diffs if d.kind == "package"
    ]
    if broken:
        return (
            "PackageBroken",
            f"{broken[0].name}: wanted {broken[0].wanted or 'none'}, seen {broken[0].seen or 'none'}.",
        )
    if not down and not sick:
        return "", ""
    changed = [d for d in diffs if d.kind in ("file", "stale-file") and d.package in packages]
    what = ", ".join(d.name for d in (down or sick)[:3])
    if changed:
        return "ConfigurationDiffers", f"{what} does not run, and {changed[0].name} is not as accepted."
    masked = [d for d in down if "not masked" in d.wanted]
    if masked:
        return "UnitMasked", f"{masked[0].name} is masked."
    if down:
        return "UnitNotRunning", f"{what} does not run ({down[0].seen})."
    return "HealthCheckFailed", f"{sick[0].name}: {sick[0].seen}"


def pressures(facts: Facts, before: Sequence[Condition]) -> tuple[Condition, ...]:
    """What the host runs out of, each with True for bad. Sentences say the line, not the figure: that changes each second."""
    if not facts.seen:
        return tuple(Condition(t, "Unknown", "NotSeen", "The host was not seen.") for t in PRESSURES)
    was = {c.type: c.status == "True" for c in before}
    disk, total = facts.disk_free_bytes, facts.disk_total_bytes
    line = max(DISK_BYTES, int(total * DISK_SHARE))
    share = (
        facts.memory_available_bytes / facts.memory_bytes
        if facts.memory_bytes and facts.memory_available_bytes
        else None
    )
    load = facts.load1 / facts.cpus if facts.cpus else None
    return (
        _said("DiskSpaceLow", None if not total else disk < line * _room(was, "DiskSpaceLow"), f"Less than {DISK_SHARE:.0%} of /var is free."),
        _said("MemoryLow", None if share is None else share < MEMORY_SHARE * _room(was, "MemoryLow"), f"Less than {MEMORY_SHARE:.0%} of memory is available."),
        _said("LoadHigh", None if load is None else load > LOAD_PER_CPU / _room(was, "LoadHigh"), f"The load is over {LOAD_PER_CPU:g} a processor."),
        _said("FilesystemReadOnly", bool(facts.read_only), f"{', '.join(facts.read_only[:3])} cannot be written to."),
    )  # fmt: skip


def faultless(fault: FaultRow | None) -> Condition:
    """Whether a confirmed fault of the machine is open: while one is, a closed node stays closed."""
    if fault is None:
        return Condition("Faultless", "True", "NoFault", "No confirmed fault is open.")
    return Condition("Faultless", "False", fault.type, f"{fault.name} is {fault.phase}: {fault.message}"[:400])


def _room(was: dict[str, bool], type_: str) -> float:
    return ROOM if was.get(type_) else 1.0


def _said(type_: str, bad: bool | None, message: str) -> Condition:
    status: Status = "Unknown" if bad is None else "True" if bad else "False"
    return Condition(
        type_,
        status,
        "NotReported" if bad is None else type_ if bad else "Enough" if type_ != "FilesystemReadOnly" else "Writable",
        message if bad else "",
    )
