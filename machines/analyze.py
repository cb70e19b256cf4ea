"""Facts against the accepted set: what differs, how, and how hard it is on the machine to put it right. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from fleet.control.digests import hex64
from fleet.control.kinds import Json
from machines.desired import verifiable, wanted_units
from machines.hosts import Disruption, Facts, FileFact, PackageFact, UnitFact, WantedUnit
from machines.observe import swapped, sysctl_path
from machines.rows import InventoryRow

DiffKind = Literal[
    "package", "removal", "file", "stale-file", "unit", "sysctl", "stale-sysctl", "module", "stale-module", "boot", "stale-boot",
    "kernel", "health", "database", "node",
]  # fmt: skip
RANK: Final[dict[str, int]] = {"None": 0, "Reload": 1, "Restart": 2, "Drain": 3, "Reboot": 4}
DIFF_LINES: Final = 200  # of a unified diff that people are shown
_NEITHER: Final = frozenset({"static", "indirect", "alias", "generated", "transient"})  # cannot be enabled or disabled
_CONFIG: Final = frozenset({"file", "stale-file", "unit", "sysctl", "stale-sysctl", "module", "stale-module"})
_KERNEL: Final = frozenset({"boot", "stale-boot", "kernel"})


@dataclass(frozen=True, slots=True)
class Diff:
    """One thing that differs. `package` is the one that it belongs to; `text` a unified diff, for files."""

    kind: DiffKind
    name: str
    wanted: str
    seen: str
    disruption: Disruption = "None"
    package: str = ""
    text: str = ""

    @property
    def sentence(self) -> str:
        """For people."""
        return f"{self.kind} {self.name}: wanted {self.wanted or 'none'}, seen {self.seen or 'none'}"

    def json(self) -> Json:
        """As it stands in the plan."""
        out: Json = {
            "kind": self.kind,
            "name": self.name,
            "wanted": self.wanted,
            "seen": self.seen,
            "disruption": self.disruption,
        }
        return out | ({"package": self.package} if self.package else {}) | ({"diff": self.text} if self.text else {})


@dataclass(frozen=True, slots=True)
class Leftover:
    """What the set no longer holds and Fleet once put there. `stale`: path -> sha256 that Fleet wrote."""

    removals: tuple[str, ...] = ()
    stale: Mapping[str, str] = field(default_factory=dict)


def strongest(classes: Sequence[Disruption]) -> Disruption:
    """The hardest of several disruption classes."""
    return max(classes, key=lambda c: RANK[c], default="None")


def compare(body: Json, facts: Facts, inventory: Sequence[InventoryRow], left: Leftover) -> tuple[Diff, ...]:
    """Everything that differs, in the order in which it is shown."""
    rows = {row.package: row for row in inventory}
    out: list[Diff] = []
    if facts.package_audit:
        out.append(Diff("database", "dpkg", "sound", facts.package_audit.splitlines()[0][:200]))
    for entry in body["packages"]:
        out += _package(entry, facts, rows.get(entry["name"]))
    out += [Diff("removal", p, "", rows[p].version, "Restart", p) for p in left.removals if p in rows]
    out += [d for entry in body["files"] if (d := _file(entry, facts.files.get(entry["path"], FileFact())))]
    for path, digest in sorted(left.stale.items()):
        if facts.files.get(path, FileFact()).sha256 == digest:
            out.append(Diff("stale-file", path, "", "left over"))
    for name, (unit, package) in sorted(wanted_units(body).items()):
        out += _unit(unit, package, facts.units.get(name, UnitFact()))
    for key, value in sorted(body["sysctls"].items()):
        seen = " ".join(facts.sysctls.get(key, "").split())
        if seen != value:
            out.append(Diff("sysctl", key, value, seen))
    out += [Diff("module", m, "loaded", "not loaded") for m in body["modules"] if not facts.modules.get(m)]
    words = facts.boot_parameters.split()
    out += [Diff("boot", b, b, "not on the command line", "Reboot") for b in body["bootParameters"] if b not in words]
    return (*out, *_stale_lists(body, facts))


def _stale_lists(body: Json, facts: Facts) -> list[Diff]:
    """Entries of Fleet's own lists on the host that nothing wants any more. What they set stays until the next boot, and is not brought back by it."""
    sysctls = {swapped(sysctl_path(key)) for key in body["sysctls"]}
    wanted: tuple[tuple[DiffKind, tuple[str, ...], set[str]], ...] = (
        ("stale-sysctl", facts.kept_sysctls, sysctls),
        ("stale-module", facts.kept_modules, set(body["modules"])),
        ("stale-boot", facts.kept_boot, set(body["bootParameters"])),
    )
    return [Diff(kind, name, "", "set at boot") for kind, kept, ours in wanted for name in kept if name not in ours]


def installed(entry: Json, fact: PackageFact | None, row: InventoryRow | None) -> bool:
    """Whether the host has that version. What Fleet installed is compared by the artifact's own version; what it found
    there counts when the version is the declared one, with or without the distribution's revision and epoch."""
    if fact is None or fact.state != "installed" or not fact.intact:
        return False
    wanted = entry["version"]
    if row is not None and row.version == wanted and row.host_version:
        return fact.version == row.host_version
    if fact.declared:
        return bool(fact.declared == wanted)
    plain = fact.version.partition(":")[2] or fact.version
    return bool(plain == wanted or (plain.startswith(f"{wanted}-") and "-" not in wanted))


def _package(entry: Json, facts: Facts, row: InventoryRow | None) -> list[Diff]:
    name, fact = entry["name"], facts.packages.get(entry["name"])
    if not installed(entry, fact, row):
        if fact is None or fact.state == "config-files":
            seen = ""
        else:
            shown = fact.declared or fact.version
            seen = (
                shown
                if fact.state == "installed" and fact.intact
                else f"{shown} ({fact.state if fact.intact else 'changed'})"
            )
        disruption: Disruption = "Reboot" if entry["kind"] == "KernelPatch" else entry["disruption"]
        return [Diff("package", name, entry["version"], seen, disruption, name)]
    if entry["kind"] == "KernelPatch" and not runs_kernel(entry, facts.kernel):
        return [Diff("kernel", name, entry["version"], facts.kernel, "Reboot", name)]
    code, line = facts.health.get(name, (0, ""))
    if entry["healthCheck"] and code != 0:
        return [Diff("health", name, "healthy", f"exit code {code}: {line}"[:300], "Restart", name)]
    return []


def runs_kernel(entry: Json, release: str) -> bool:
    """Whether `uname -r` is the package's kernel: Debian names the release in the package, rpm in the version."""
    if not release:
        return False
    return release.startswith(entry["version"]) or entry["name"].endswith(f"-{release}")


def _file(entry: Json, fact: FileFact) -> Diff | None:
    wanted = {"mode": entry["mode"], "owner": entry["owner"]}
    seen = {"mode": fact.mode.rjust(4, "0"), "owner": fact.owner}
    if fact.exists and fact.sha256 == entry["sha256"] and wanted == seen:
        return None
    disruption = strongest([_of_change(word) for word in entry["onChange"]])
    if not fact.exists:
        return Diff(
            "file", entry["path"], _short(entry["sha256"]), "", disruption, entry["package"], unified(entry, "")
        )
    if fact.sha256 == entry["sha256"]:
        what = ", ".join(f"{k} {v}" for k, v in seen.items() if v != wanted[k])
        want = ", ".join(f"{k} {v}" for k, v in wanted.items() if v != seen[k])
        return Diff("file", entry["path"], want, what, "None", entry["package"])
    text = unified(entry, fact.content) if fact.content is not None else ""
    return Diff("file", entry["path"], _short(entry["sha256"]), _short(fact.sha256), disruption, entry["package"], text)


def _of_change(word: str) -> Disruption:
    return "Restart" if word.startswith("restart:") else "Reload"


def _short(digest: str) -> str:
    return f"sha256 {digest[:12]}"


def unified(entry: Json, seen: str) -> str:
    """From what is on the host to what shall be there; at most 200 lines."""
    lines = list(
        difflib.unified_diff(
            seen.splitlines(),
            entry["content"].splitlines(),
            f"{entry['path']} on the host",
            f"{entry['path']} wanted",
            lineterm="",
        )
    )
    more = [f"… {len(lines) - DIFF_LINES} lines more"] if len(lines) > DIFF_LINES else []
    return "\n".join(lines[:DIFF_LINES] + more)


def _unit(unit: WantedUnit, package: str, fact: UnitFact) -> list[Diff]:
    out: list[tuple[str, str, Disruption]] = []
    masked = fact.load_state == "masked" or fact.enabled == "masked"
    if unit.masked is not None and masked != unit.masked:
        out.append(("masked" if unit.masked else "not masked", "masked" if masked else "not masked", "Restart"))
    if unit.enabled is not None and not unit.masked and fact.enabled not in _NEITHER and _enabled(fact) != unit.enabled:
        out.append(("enabled" if unit.enabled else "disabled", fact.enabled or "not found", "None"))
    running = fact.active in ("active", "activating", "reloading")
    if unit.started is not None and running != (unit.started and not unit.masked):
        out.append(
            (
                "started" if unit.started else "stopped",
                fact.active or "not found",
                "None" if unit.started else "Restart",
            )
        )
    if not out:
        return []
    wanted, seen = ", ".join(w for w, _, _ in out), ", ".join(s for _, s, _ in out)
    return [Diff("unit", unit.name, wanted, seen, strongest([d for _, _, d in out]), package)]


def _enabled(fact: UnitFact) -> bool:
    return fact.enabled in ("enabled", "enabled-runtime")


def diff_hash(diffs: Sequence[Diff]) -> str:
    """What a person names who accepts exactly this difference."""
    return hex64([[d.kind, d.name, d.wanted, d.seen] for d in diffs])


def removal_hash(removals: Sequence[str]) -> str:
    """What a person names who confirms exactly these removals."""
    return hex64(sorted(removals))


def packages_met(diffs: Sequence[Diff]) -> bool:
    """No package differs and none is left over."""
    return not any(d.kind in ("package", "removal", "database") for d in diffs)


def config_met(diffs: Sequence[Diff]) -> bool:
    """No file, unit, sysctl or module differs."""
    return not any(d.kind in _CONFIG for d in diffs)


def kernel_met(diffs: Sequence[Diff]) -> bool:
    """Kernel and boot parameters are those wanted."""
    return not any(d.kind in _KERNEL for d in diffs)


def unverifiable(body: Json) -> list[str]:
    """Packages that are never installed: an artifact without checksum and key."""
    return [p["name"] for p in body["packages"] if not verifiable(p)]
