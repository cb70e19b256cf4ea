"""Facts against the accepted set."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from fleet.control.kinds import Json
from machines.analyze import (
    Leftover,
    compare,
    config_met,
    diff_hash,
    installed,
    kernel_met,
    removal_hash,
    runs_kernel,
    strongest,
)
from machines.hosts import Facts, FileFact, PackageFact, UnitFact
from machines.judge import identity_of, preflight
from machines.plan import converge
from machines.resolve import resolve
from machines.rows import InventoryRow
from tests.machines.sets import UID, catalog, config, facts, pouch_set, version, wish

NOTHING = Leftover()
PATH = "/etc/pouch.conf"


def row(package: str = "pouch", number: str = "1.0", host: str = "", previous: str = "") -> InventoryRow:
    return InventoryRow(package, number, "deb", host, previous, datetime(2026, 1, 1, tzinfo=UTC))


def changed(body: Json, part: str, name: str, value: Any) -> Facts:
    seen = facts(body)
    change: dict[str, Any] = {part: {**getattr(seen, part), name: value}}
    return replace(seen, **change)


def test_a_host_that_holds_the_set_differs_in_nothing() -> None:
    body = pouch_set()
    assert compare(body, facts(body), (), NOTHING) == ()


@pytest.mark.parametrize(
    ("part", "name", "value", "kind", "disruption"),
    [
        pytest.param("packages", "pouch", PackageFact("0.9"), "package", "Restart", id="another version"),
        pytest.param("packages", "pouch", PackageFact("1.0", "half-installed", "1.0"), "package", "Restart", id="half installed"),
        pytest.param("packages", "pouch", PackageFact("1.0", "config-files", "1.0"), "package", "Restart", id="removed, not purged"),
        pytest.param("packages", "pouch", PackageFact("1.0", "installed", "1.0", intact=False), "package", "Restart", id="a tarball changed by hand"),
        pytest.param("files", PATH, FileFact("0" * 64, "0644", "root:root", "a\n"), "file", "Restart", id="content"),
        pytest.param("files", PATH, FileFact(), "file", "Restart", id="file gone"),
        pytest.param("units", "pouch.service", UnitFact("loaded", "enabled", "failed"), "unit", "None", id="unit failed"),
        pytest.param("units", "pouch.service", UnitFact("masked", "masked", "inactive"), "unit", "Restart", id="unit masked"),
        pytest.param("units", "pouch.service", UnitFact("loaded", "disabled", "active"), "unit", "None", id="unit disabled"),
        pytest.param("units", "pouch.service", UnitFact(), "unit", "None", id="unit not there"),
        pytest.param("health", "pouch", (1, "no answer"), "health", "Restart", id="sick"),
    ],
)  # fmt: skip
def test_each_difference_is_seen_with_how_hard_it_is_to_put_right(
    part: str, name: str, value: Any, kind: str, disruption: str
) -> None:
    body = pouch_set()
    (diff,) = compare(body, changed(body, part, name, value), (), NOTHING)
    assert (diff.kind, diff.name, diff.disruption) == (kind, name, disruption)


@pytest.mark.parametrize(
    "fact",
    [
        pytest.param(UnitFact("loaded", "static", "active"), id="static units cannot be enabled"),
        pytest.param(UnitFact("loaded", "enabled", "activating"), id="a unit that starts is started"),
        pytest.param(UnitFact("loaded", "enabled-runtime", "active"), id="enabled until the next boot"),
    ],
)
def test_a_unit_that_is_as_good_as_wanted_is_no_difference(fact: UnitFact) -> None:
    body = pouch_set()
    assert compare(body, changed(body, "units", "pouch.service", fact), (), NOTHING) == ()


def test_owner_and_mode_are_put_right_without_a_restart() -> None:
    body = pouch_set()
    digest = body["files"][0]["sha256"]
    (diff,) = compare(body, changed(body, "files", PATH, FileFact(digest, "0666", "nobody:root")), (), NOTHING)
    assert (diff.wanted, diff.seen, diff.disruption) == (
        "mode 0644, owner root:root",
        "mode 0666, owner nobody:root",
        "None",
    )


def test_a_changed_file_is_shown_as_a_unified_diff() -> None:
    body = pouch_set()
    (diff,) = compare(
        body, changed(body, "files", PATH, FileFact("0" * 64, "0644", "root:root", "a\nx\n")), (), NOTHING
    )
    assert diff.text.splitlines()[2:] == ["@@ -1,2 +1,2 @@", " a", "-x", "+b"]


@pytest.mark.parametrize(
    ("fact", "inventory", "holds"),
    [
        pytest.param(
            PackageFact("1.0-1~deb12u1", declared="1.0"), row(host="1.0-1~deb12u1"), True, id="as Fleet installed it"
        ),
        pytest.param(PackageFact("1.0-2", declared="1.0"), row(host="1.0-1"), False, id="replaced by another revision"),
        pytest.param(PackageFact("1.0-1"), None, True, id="found with a revision"),
        pytest.param(PackageFact("1:1.0-1"), None, True, id="found with an epoch"),
        pytest.param(PackageFact("1.0.1"), None, False, id="found with another version"),
        pytest.param(PackageFact("1.0-9", declared="0.9"), None, False, id="installed as another version"),
        pytest.param(None, row(), False, id="gone"),
    ],
)
def test_a_package_counts_as_installed_by_the_version_of_its_own_control_file(
    fact: PackageFact | None, inventory: InventoryRow | None, holds: bool
) -> None:
    assert installed(pouch_set()["packages"][0], fact, inventory) is holds


def test_kernel_boot_parameters_sysctls_and_modules_are_looked_at() -> None:
    kernel = version(
        "linux-image-6.12.0-9-amd64", "6.12.9-1", kind="KernelPatch", configMaps=[{"name": "c", "value": "v1"}]
    )
    more = config("c", sysctls={"net.core.somaxconn": 1024}, modules=["br_netfilter"], bootParameters=["nosmt"])
    body = resolve(wish({kernel.package: "6.12.9-1"}), catalog(kernel, more)).body
    seen = facts(body, sysctls={"net.core.somaxconn": "128"}, modules={}, boot_parameters="ro")
    found = compare(body, seen, (), NOTHING)
    assert [d.kind for d in found] == ["kernel", "sysctl", "module", "boot"]
    assert strongest([d.disruption for d in found]) == "Reboot"
    plan = converge(found, body)
    assert [s.verb for s in plan.steps] == ["permit", "pre-check", "drain", "load-modules", "set-sysctls", "set-boot-parameters", "reboot", "post-check"]  # fmt: skip


def test_what_left_the_set_is_taken_off_fleets_own_lists_on_the_host() -> None:
    kept = config("c", sysctls={"net.core.somaxconn": 1024}, modules=["br_netfilter"], bootParameters=["nosmt"])
    pouch = version("pouch", "1.0", configMaps=[{"name": "c", "value": "v1"}])
    body = resolve(wish({"pouch": "1.0"}), catalog(pouch, kept)).body
    seen = replace(
        facts(body, sysctls={"net.core.somaxconn": "1024"}, modules={"br_netfilter": True}, boot_parameters="nosmt"),
        kept_sysctls=("net.core.somaxconn", "net.ipv4.conf.eth0/1.forwarding"),
        kept_modules=("br_netfilter", "zram"),
        kept_boot=("isolcpus=1", "nosmt"),
    )
    found = [d for d in compare(body, seen, (), NOTHING) if d.kind.startswith("stale")]
    assert [(d.kind, d.name) for d in found] == [
        ("stale-sysctl", "net.ipv4.conf.eth0/1.forwarding"), ("stale-module", "zram"), ("stale-boot", "isolcpus=1"),
    ]  # fmt: skip
    assert strongest([d.disruption for d in found]) == "None"
    plan = converge(found, body)
    assert [(s.verb, s.items) for s in plan.steps if s.verb not in ("permit", "pre-check", "post-check")] == [
        ("load-modules", ("br_netfilter",)), ("set-sysctls", ("net.core.somaxconn",)), ("set-boot-parameters", ("nosmt",)),
    ]  # fmt: skip
    assert not config_met(found) and not kernel_met(found)


@pytest.mark.parametrize(
    ("name", "number", "release", "runs"),
    [
        ("linux-image-6.1.0-25-amd64", "6.1.106-3", "6.1.0-25-amd64", True),
        ("linux-image-6.1.0-26-amd64", "6.1.112-1", "6.1.0-25-amd64", False),
        ("kernel", "5.14.0-503.el9", "5.14.0-503.el9.x86_64", True),
        ("kernel", "5.14.0-503.el9", "", False),
    ],
)
def test_the_running_kernel_is_known_by_its_package(name: str, number: str, release: str, runs: bool) -> None:
    assert runs_kernel({"name": name, "version": number}, release) is runs


def test_steps_stand_in_their_order_and_the_disruption_is_known_before() -> None:
    body = pouch_set()
    seen = facts(body, packages={}, files={}, units={})
    plan = converge(compare(body, seen, (), NOTHING), body)
    assert [s.verb for s in plan.steps] == ["stage-package", "permit", "pre-check", "install-package", "write-files", "set-units", "health-check", "post-check"]  # fmt: skip
    assert (plan.disruption, plan.verb) == ("Restart", "Restart")


def test_a_removal_is_a_destructive_verb() -> None:
    body = pouch_set()
    plan = converge(compare(body, facts(body), (row("old"),), Leftover(("old",))), body)
    assert plan.verb == "Remove"
    assert "remove-package" in [s.verb for s in plan.steps]


def test_a_file_left_over_is_removed_only_as_long_as_it_is_what_fleet_wrote() -> None:
    body = pouch_set()
    left = Leftover((), {"/etc/old": "f" * 64})
    assert [d.kind for d in compare(body, changed(body, "files", "/etc/old", FileFact("f" * 64)), (), left)] == [
        "stale-file"
    ]
    assert compare(body, changed(body, "files", "/etc/old", FileFact("e" * 64)), (), left) == ()


def test_a_person_accepts_exactly_one_difference() -> None:
    body = pouch_set()
    one = compare(body, changed(body, "files", PATH, FileFact("0" * 64, "0644", "root:root")), (), NOTHING)
    other = compare(body, changed(body, "files", PATH, FileFact("1" * 64, "0644", "root:root")), (), NOTHING)
    assert diff_hash(one) != diff_hash(other)
    assert removal_hash(["a", "b"]) == removal_hash(["b", "a"]) != removal_hash(["a"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"os_family": "other", "os_id": "alpine"}, "OsUnsupported"),
        ({"architecture": "riscv64"}, "ArchitectureUnsupported"),
        ({"disk_total_bytes": 1 << 40, "disk_free_bytes": 1 << 20}, "DiskFull"),
        ({"clock_offset_seconds": -90.0}, "ClockOff"),
        ({"package_lock_holder": "apt (pid 1)"}, "PackageLockHeld"),
    ],
)
def test_a_host_that_is_not_fit_says_why(change: Json, reason: str) -> None:
    assert preflight(facts(pouch_set(), **change))[0] == reason


class _Machine:
    """The part of a row that identity looks at."""

    uid = UID

    def __init__(self, serial: str = "", **words: str) -> None:
        self.spec = {"ip": "10.0.0.1", "serialNumber": serial}
        self.annotations = {f"fleet.dev/{k.replace('_', '-')}": v for k, v in words.items()}


@pytest.mark.parametrize(
    ("machine", "marker", "serial", "right"),
    [
        pytest.param(_Machine(), "", "", True, id="a bare host"),
        pytest.param(_Machine(), f"inst {UID}", "", True, id="its own marker"),
        pytest.param(_Machine(), f"other {UID}", "", False, id="another installation"),
        pytest.param(_Machine(), "inst another", "", False, id="another machine"),
        pytest.param(_Machine(take_over="another"), "inst another", "", True, id="taken over by an approver's word"),
        pytest.param(
            _Machine(take_over="another"), "other another", "", False, id="no word takes over another installation"
        ),
        pytest.param(_Machine("S1"), "", "S1", True, id="the declared serial number"),
        pytest.param(_Machine("S1"), "", "S2", False, id="another serial number"),
        pytest.param(_Machine("S1"), "", "To Be Filled By O.E.M.", True, id="a vendor's placeholder tells nothing"),
        pytest.param(_Machine(), "", "S2", True, id="none is declared"),
    ],
)
def test_the_right_host_stands_behind_the_address(machine: Any, marker: str, serial: str, right: bool) -> None:
    seen = facts(pouch_set(), marker=marker, serial_number=serial)
    assert (identity_of(machine, seen, "inst")[0] == "") is right
