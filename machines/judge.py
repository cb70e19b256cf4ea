"""What one look at a machine means: identity, fitness, differences, what should be done and what stands against it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from fleet.control.conditions import find
from fleet.control.kinds import Json
from machines.accepting import Chosen, leftover
from machines.analyze import Diff, Leftover, compare, diff_hash, removal_hash, unverifiable
from machines.carriers import brake
from machines.catalog import Catalog
from machines.desired import by_name
from machines.health import component_trouble
from machines.hosts import Facts
from machines.models import OwnerClass
from machines.plan import Plan, converge
from machines.reinstall import empty, reinstalled, underway
from machines.rows import Row

MIN_FREE_BYTES: Final = 256 << 20
MAX_CLOCK_SECONDS: Final = 30.0
RECOVERY_FIRST_SECONDS: Final = 20.0
FAMILIES: Final = ("debian", "rhel")
# Vendors' words for "no serial number"; containers show none.
PLACEHOLDERS: Final = frozenset(
    {
        "",
        "none",
        "notspecified",
        "tobefilledbyo.e.m.",
        "systemserialnumber",
        "default",
        "0",
        "0123456789",
        "notapplicable",
        "unknown",
    }
)
CONFIRM_REMOVAL: Final = "fleet.dev/confirm-removal"
ACCEPT_DIFF: Final = "fleet.dev/accept-diff"
TAKE_OVER: Final = "fleet.dev/take-over"
ABANDON: Final = "fleet.dev/abandon"
KUBELET: Final = "kubelet"  # the package that makes a machine of a cluster a node


@dataclass(frozen=True, slots=True)
class Around:
    """What a pass knows besides the machine itself."""

    installation: str
    catalog: Catalog
    now: datetime
    held: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # machine -> (reason, sentence)
    joins: frozenset[int] = frozenset()  # clusters of Fleet's own making whose view can be believed


@dataclass(frozen=True, slots=True)
class Memory:
    """What Fleet remembers of a machine from pass to pass, kept beside its facts."""

    met: int = 0  # the set that the host was last seen to hold
    adopted: bool = False  # found with declared things on it; a person has not accepted the difference yet
    stalled: tuple[str, str] = ("", "")  # (reason, sentence): needs a person or a new set
    stalled_at: int = 0  # the set that it stalled at
    failures: int = 0  # Operations that failed in a row
    failed: tuple[str, str] = ("", "")  # the last failure

    @classmethod
    def read(cls, facts: Json) -> Memory:
        """As stored beside the facts."""
        kept = facts.get("memory", {})
        return cls(
            int(kept.get("met", "0")), bool(kept.get("adopted")), tuple(kept.get("stalled", ("", ""))), int(kept.get("stalledAt", "0")),
            int(kept.get("failures", 0)), tuple(kept.get("failed", ("", ""))),
        )  # fmt: skip

    def json(self) -> Json:
        """Large numbers as text: JavaScript reads this too."""
        return {
            "met": str(self.met), "adopted": self.adopted, "stalled": list(self.stalled), "stalledAt": str(self.stalled_at),
            "failures": self.failures, "failed": list(self.failed),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome. `plan` is what Fleet would do, `blocked` why it does not begin it (reason, sentence)."""

    chosen: Chosen
    facts: Facts
    memory: Memory
    identity: tuple[str, str] = ("", "")
    preflight: tuple[str, str] = ("", "")
    diffs: tuple[Diff, ...] = ()
    held_removals: tuple[str, ...] = ()
    plan: Plan | None = None
    why: str = ""  # change | repair
    blocked: tuple[str, str] = ("", "")
    halt: tuple[str, str] = ("", "")
    brake: tuple[str, str] = ("", "")  # why nobody but a person may begin the plan now
    trouble: tuple[str, str] = ("", "")  # what of a host that was well does not run
    words_used: tuple[str, ...] = ()  # annotations to be taken away

    @property
    def seen(self) -> bool:
        """The host answered and is the right one."""
        return self.facts.seen and not self.identity[0]

    @property
    def met(self) -> bool:
        """The facts are what the accepted set says, and that set is what the spec means."""
        return self.seen and self.chosen.body is not None and self.chosen.problem is None and not self.diffs

    @property
    def healthy(self) -> bool:
        """The host answers and every health check of what is installed holds."""
        return self.seen and not any(d.kind == "health" for d in self.diffs)


def identity_of(row: Row, facts: Facts, installation: str) -> tuple[str, str]:
    """(reason, sentence) when another host stands behind the address."""
    own = f"{installation} {row.uid}"
    if facts.marker and facts.marker != own:
        theirs, _, uid = facts.marker.partition(" ")
        if uid and uid == row.annotations.get(TAKE_OVER) and theirs == installation:
            return "", ""
        whose = f"installation {theirs}" if theirs != installation else f"machine {uid}"
        return "IdentityMismatch", f"The host at {row.spec.get('ip')} belongs to {whose}; nothing is done to it."
    declared, seen = row.spec.get("serialNumber", ""), facts.serial_number
    if declared and _real(seen) and seen.strip() != declared.strip():
        return (
            "IdentityMismatch",
            f"The host at {row.spec.get('ip')} has serial number {seen}, not {declared}; nothing is done to it.",
        )
    return "", ""


def _real(serial: str) -> bool:
    return "".join(serial.lower().split()) not in PLACEHOLDERS


def preflight(facts: Facts) -> tuple[str, str]:
    """(reason, sentence) why the host is not fit for a change, or nothing."""
    if facts.os_family not in FAMILIES:
        return (
            "OsUnsupported",
            f"{facts.os_id or 'This system'} {facts.os_version} is neither of Debian's nor of Red Hat's family.",
        )
    if facts.architecture not in ("amd64", "arm64"):
        return (
            "ArchitectureUnsupported",
            f"Fleet knows no packages for {facts.architecture or 'an unknown architecture'}.",
        )
    if facts.disk_total_bytes and facts.disk_free_bytes < MIN_FREE_BYTES:
        return (
            "DiskFull",
            f"/var has {facts.disk_free_bytes >> 20} MiB free; a change needs {MIN_FREE_BYTES >> 20} MiB.",
        )
    if abs(facts.clock_offset_seconds) > MAX_CLOCK_SECONDS:
        return (
            "ClockOff",
            f"The host's clock is off by {facts.clock_offset_seconds:.0f} s: certificates and logs would lie.",
        )
    if facts.package_lock_holder:
        return "PackageLockHeld", f"{facts.package_lock_holder} holds the package lock; it is waited for, never killed."
    return "", ""


def adopted_at_sight(row: Row, body: Json, facts: Facts) -> bool:
    """No marker, never worked on, and a declared package or file is already there: somebody else set this host up."""
    if facts.marker or row.inventory or row.operation is not None:
        return False
    there = any(
        p["name"] in facts.packages and facts.packages[p["name"]].state == "installed" for p in body["packages"]
    )
    return there or any((f := facts.files.get(e["path"])) is not None and f.exists for e in body["files"])


def judge(row: Row, chosen: Chosen, facts: Facts, around: Around) -> Judgement:
    """Everything that follows from one look."""
    memory = Memory.read(row.last_facts)
    halt = _halt(row, around)
    if not facts.seen:
        return Judgement(chosen, facts, memory, halt=halt)
    identity = identity_of(row, facts, around.installation)
    fit = preflight(facts)
    if identity[0]:
        return Judgement(chosen, facts, memory, identity, fit, halt=halt)
    if row.deleted_at is not None:
        return Judgement(chosen, facts, memory, identity, fit, why="decommission", halt=halt)
    if chosen.body is None:
        return Judgement(chosen, facts, memory, identity, fit, halt=halt)
    memory = _sight(row, chosen, facts, memory)
    row, memory = _as_installed_anew(row, facts, memory)
    left, held = _removals(row, chosen.body, leftover(row, chosen.body, chosen.layers))
    diffs = (*compare(chosen.body, facts, row.inventory, left), *_not_joined(row, chosen.body, around))
    used: list[str] = [CONFIRM_REMOVAL] if CONFIRM_REMOVAL in row.annotations and not (left.removals or held) else []
    if memory.adopted and (not diffs or row.annotations.get(ACCEPT_DIFF) == diff_hash(diffs)):
        memory = replace(memory, adopted=False)
    if ACCEPT_DIFF in row.annotations and not memory.adopted:
        used.append(ACCEPT_DIFF)
    if TAKE_OVER in row.annotations and facts.marker == f"{around.installation} {row.uid}":
        used.append(TAKE_OVER)
    possible = doable(diffs, chosen.body)
    plan = converge(possible, chosen.body) if possible else None
    why = ("repair" if memory.met == chosen.hash else "change") if diffs else ""
    blocked = _blocked(row, chosen, memory, why) if plan else ("", "")
    trouble = component_trouble(diffs) if why == "repair" else ("", "")
    braked = brake(row, plan.disruption, around.catalog) if plan else ("", "")
    braked = braked if braked[0] else left_to_recovery(row, trouble, around.now)
    return Judgement(
        chosen, facts, memory, identity, fit, diffs, held, plan, why, blocked, halt, braked, trouble, tuple(used)
    )


def left_to_recovery(row: Row, trouble: tuple[str, str], now: datetime) -> tuple[str, str]:
    """What fell over may get up by itself, and recovery comes first, under its breaker; later it is put right as any other difference."""
    if not trouble[0]:
        return "", ""
    if row.fault is not None and row.fault.mine:
        return (
            "LeftToRecovery",
            f"Fault {row.fault.name} ({row.fault.type}) is {row.fault.phase}: recovery repairs this, or a person.",
        )
    known = find(row.conditions, "ComponentsHealthy")
    since = known.since if known is not None and known.status == "False" and known.since is not None else now
    if (now - since).total_seconds() >= RECOVERY_FIRST_SECONDS:
        return "", ""
    return "LeftToRecovery", f"{trouble[1]} It may come back by itself, or recovery takes it over."


def _sight(row: Row, chosen: Chosen, facts: Facts, memory: Memory) -> Memory:
    """What the first look, a new set or a person's word changes in what Fleet remembers."""
    if "memory" not in row.last_facts and chosen.body is not None and adopted_at_sight(row, chosen.body, facts):
        memory = replace(memory, adopted=True)
    asked = (
        row.operation is not None
        and row.operation.owner_class == OwnerClass.PERSON
        and row.operation.started_at is None
    )
    if memory.stalled[0] and (memory.stalled_at != chosen.hash or asked):
        memory = replace(memory, stalled=("", ""), stalled_at=0, failures=0, failed=("", ""))
    return memory


def _as_installed_anew(row: Row, facts: Facts, memory: Memory) -> tuple[Row, Memory]:
    """A host that an open Operation has installed anew never held its set: what is missing there is no damage and no drift.

    Until that Operation has told it to the inventory, nothing of what Fleet put on the old disk counts.
    """
    status = row.operation.status if row.operation is not None else {}
    if not underway(status):
        return row, memory
    if reinstalled(status):
        return row, replace(memory, met=0)
    if empty(status.get("bootIdBefore", ""), facts):
        return replace(row, inventory=()), replace(memory, met=0)
    return row, memory


def _removals(row: Row, body: Json, left: Leftover) -> tuple[Leftover, tuple[str, ...]]:
    """(what may be removed, what waits for a person): one package may go, several at once or the last one are asked for."""
    if len(left.removals) <= 1 and (body["packages"] or not left.removals):
        return left, ()
    if row.annotations.get(CONFIRM_REMOVAL) == removal_hash(left.removals):
        return left, ()
    return Leftover(), left.removals  # their files stay as long as they do


def _halt(row: Row, around: Around) -> tuple[str, str]:
    if row.spec.get("paused") or row.paused:
        return "Paused", "spec.paused keeps Fleet's hands off."
    cluster = around.catalog.clusters.get(row.cluster_id)
    if cluster is not None and cluster.spec.get("paused"):
        return "Paused", f"Cluster {cluster.name} is paused."
    return around.held.get(row.id, ("", ""))


def _blocked(row: Row, chosen: Chosen, memory: Memory, why: str) -> tuple[str, str]:
    """Why the plan is not begun, apart from holds and permits."""
    if chosen.problem is not None and why == "change":
        return chosen.problem
    if memory.stalled[0]:
        return memory.stalled
    if memory.adopted:
        return (
            "Adopted",
            "The host was set up by somebody else: nothing is changed until a person accepts the first difference.",
        )
    if why == "repair" and row.spec.get("driftPolicy") == "Report":
        return "ReportOnly", "spec.driftPolicy is Report: the difference is shown and left alone."
    return "", ""


def _not_joined(row: Row, body: Json, around: Around) -> tuple[Diff, ...]:
    """A machine with a kubelet whose cluster has no node of it; where the view cannot be believed nothing follows."""
    if row.node is not None or row.cluster_id not in around.joins or KUBELET not in by_name(body):
        return ()
    return (not_joined(row.name),)


def not_joined(machine: str) -> Diff:
    """The cluster has no node of the machine."""
    return Diff("node", machine, "joined", "not joined", "None", KUBELET)


def doable(diffs: Sequence[Diff], body: Json) -> list[Diff]:
    """Without what belongs to a package that cannot be installed: an artifact without checksum and key never is."""
    bare = set(unverifiable(body)) & {d.name for d in diffs if d.kind == "package"}
    return [d for d in diffs if d.package not in bare]
