"""What the observe script says and how it is read: quirks of real hosts are data in `quirks/`."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machines import observe, observed
from machines.hosts import Facts, StepRef, StepResult, Target
from tests.machines.sandbox import Sandbox

QUIRKS = sorted(Path(__file__).with_name("quirks").glob("*.json"))


def target(**wanted: Any) -> Target:
    polls = tuple(StepRef(*ref) for ref in wanted.pop("polls", ()))
    checks = {name: tuple(argv) for name, argv in wanted.pop("health_checks", {}).items()}
    lists: dict[str, Any] = {name: tuple(values) for name, values in wanted.items()}
    return Target(key=7, uid="uid-1", name="m1", address="192.0.2.1", polls=polls, health_checks=checks, **lists)


def plain(value: Any) -> Any:
    if isinstance(value, StepResult):
        return [value.state, value.reason, value.message, value.output]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def read(asked: Target, text: str, sent: float = 0.0, received: float = 0.0) -> Facts:
    return observed.facts_from(asked, "N", text.encode(), sent, received)


@pytest.mark.parametrize("path", QUIRKS, ids=lambda path: path.stem)
def test_a_quirk_is_read_as_it_should(path: Path) -> None:
    quirk = json.loads(path.read_text())
    facts = read(target(**quirk["target"]), "\n".join(quirk["answer"]))
    assert facts.seen
    assert {name: plain(getattr(facts, name)) for name in quirk["facts"]} == quirk["facts"]


@pytest.mark.parametrize(
    "text",
    [
        "To be filled by O.E.M.", "to be filled by o.e.m", "Default string", "Not Specified", "None", "N/A", "0", "00000000",
        "System Serial Number", "xxxxxxx", "............", "123456789", "", "   ",
    ],
)  # fmt: skip
def test_a_placeholder_is_not_a_serial_number(text: str) -> None:
    assert observed.serial(text) == ""


@pytest.mark.parametrize("text", ["PF1ABCDE", "7X-0001", "CN747510BH0331", "VMware-56 4d 0a", "0C1"])
def test_a_serial_number_is_kept(text: str) -> None:
    assert observed.serial(text) == text


@pytest.mark.parametrize(
    ("host", "sent", "received", "offset"),
    [
        ((1000.0, 1000.1), 1000.0, 1000.1, 0.0),
        ((1060.0, 1060.1), 1000.0, 1000.1, 60.0),
        ((940.0, 940.1), 1000.0, 1000.1, -60.0),
        ((1001.0, 1001.1), 1000.0, 1004.1, 0.0),
        ((1010.0, 1010.0), 1000.0, 1002.0, 8.0),
    ],
    ids=["right", "ahead", "behind", "slow path hides a second", "doubt is taken off"],
)
def test_the_clock_allows_for_the_round_trip(
    host: tuple[float, float], sent: float, received: float, offset: float
) -> None:
    text = f"@@N clock\n{host[0]:.9f}\n@@N clock-after\n{host[1]:.9f}\n@@N end\n"
    assert read(target(), text, sent, received).clock_offset_seconds == pytest.approx(offset, abs=0.002)


@pytest.mark.parametrize("raw", [b"", b"\x00" * 50, b"Last login: today\n", b"@@N os\nID=debian\n", b"\xff\xfe@@N end"])
def test_an_answer_without_its_end_is_garbled(raw: bytes) -> None:
    facts = observed.facts_from(target(), "N", raw, 0, 0)
    assert (facts.reason, facts.seen) == ("Garbled", False)
    assert "192.0.2.1" in facts.message


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=400),
    st.sampled_from(["os", "files", "units", "deb", "content", "poll 0", "health", "sysctls", "clock"]),
)
def test_hostile_bytes_never_raise_and_leave_no_nul(junk: bytes, section: str) -> None:
    asked = target(
        packages=["a"], files=["/a"], units=["a"], sysctls=["a"], with_content_of=["/a"], health_checks={"a": ["x"]},
        polls=[["o", "s", 1]],
    )  # fmt: skip
    raw = b"@@N " + section.encode() + b"\n" + junk + b"\n@@N end\n"
    facts = observed.facts_from(asked, "N", raw, 0, 0)
    text = json.dumps(plain(facts), default=plain, ensure_ascii=False)
    assert "\x00" not in text and "\\u0000" not in text
    text.encode()


def test_a_huge_field_is_cut() -> None:
    facts = read(target(), "@@N audit\n" + "x" * 1_000_000 + "\n@@N end\n")
    assert len(facts.package_audit) == 4096


@pytest.mark.parametrize("bad", ["a;b", "$(touch /tmp/x)", "a b", "--opt", "a\nb", "`id`", "a|b", "a'b", ""])
@pytest.mark.parametrize("field", ["packages", "units", "sysctls", "modules"])
def test_names_that_are_not_plain_are_refused(field: str, bad: str) -> None:
    with pytest.raises(ValueError, match=field):
        observe.script(target(**{field: [bad]}), "N")


@pytest.mark.parametrize("bad", ["relative", "/a\nb", "/a\x00b", "--help", ""])
def test_paths_that_are_not_absolute_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="files"):
        observe.script(target(files=[bad]), "N")


def test_the_real_script_sees_this_machine(tmp_path: Path) -> None:
    host = Sandbox(tmp_path / "host")
    odd = tmp_path / "it's $(touch canary) `id`.conf"
    odd.write_text("text\n")
    asked = target(
        files=[str(odd), str(tmp_path / "nope"), str(tmp_path)],
        with_content_of=[str(odd)],
        sysctls=["kernel.pid_max", "kernel.nonesuch"],
        health_checks={"good": ["true"], "bad": ["sh", "-c", "echo it is; exit 3"], "odd": ["echo", "$(touch canary)"]},
        polls=[["op", "step", 1]],
    )
    done = host.sh(f"cd {tmp_path} || exit 9\n" + observe.script(asked, "N"))
    facts = observed.facts_from(asked, "N", done.stdout.encode(), 0, 0)
    assert facts.seen, done.stderr
    assert facts.kernel == os.uname().release
    assert facts.memory_bytes > 0 and facts.disk_total_bytes > 0 and facts.boot_id
    assert (facts.files[str(odd)].content, facts.files[str(odd)].mode) == (
        "text\n",
        f"{odd.stat().st_mode & 0o7777:04o}",
    )
    assert facts.files[str(tmp_path)].sha256 == "not-a-file"
    assert not facts.files[str(tmp_path / "nope")].exists
    assert set(facts.sysctls) == {"kernel.pid_max"}
    assert facts.health == {"good": (0, ""), "bad": (3, "it is"), "odd": (0, "$(touch canary)")}
    assert facts.steps["op/step-1"].reason == "NoSuchStep"
    assert not host.state.exists()
    assert not list(tmp_path.glob("**/canary"))


def test_fleets_own_lists_on_the_host_are_read(tmp_path: Path) -> None:
    host = Sandbox(tmp_path / "host")
    root = tmp_path / "host"
    lists = {
        "etc/sysctl.d/90-fleet.conf": "# Written by Fleet.\nnet/ipv4/ip_forward = 1\nnet/ipv4/conf/eth0.1/forwarding = 1\n",
        "etc/modules-load.d/fleet.conf": "# Written by Fleet.\nbr_netfilter\noverlay\n",
        "var/lib/fleet/boot-parameters": "nosmt isolcpus=1,2\n",
    }
    for path, text in lists.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    asked = target()
    done = host.sh(observe.script(asked, "N"))
    facts = observed.facts_from(asked, "N", done.stdout.encode(), 0, 0)
    assert facts.kept_sysctls == ("net.ipv4.conf.eth0/1.forwarding", "net.ipv4.ip_forward")
    assert facts.kept_modules == ("br_netfilter", "overlay")
    assert facts.kept_boot == ("isolcpus=1,2", "nosmt")


def test_a_health_check_that_leaves_a_daemon_does_not_hold_the_pass(tmp_path: Path) -> None:
    host = Sandbox(tmp_path / "host")
    asked = target(health_checks={"daemon": ["sh", "-c", "sleep 20 & echo started"]})
    done = host.sh(observe.script(asked, "N"))
    facts = observed.facts_from(asked, "N", done.stdout.encode(), 0, 0)
    assert facts.health == {"daemon": (0, "started")}
