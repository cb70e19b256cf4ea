"""The Redfish adapter against a controller that speaks TLS: what it tells, what it does once, and whom it does not believe."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from lab import bmc
from lab.host import Host
from machines.bmc import PARTS, BmcAccess, BmcError
from machines.redfish import RedfishBmcs


@dataclass
class Box:
    """A host that has power or has none."""

    folder: Path
    name: str = "h1"
    on: bool = True

    def is_on(self) -> bool:
        return self.on

    def power_on(self) -> None:
        self.on = True

    def power_cut(self) -> None:
        self.on = False


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
def controller(box: Box) -> Iterator[bmc.Controller]:
    with bmc.Controller(cast(Host, box), "127.0.0.1", serial_number="SN1") as made:
        yield made


@pytest.fixture
async def bmcs() -> AsyncIterator[RedfishBmcs]:
    made = RedfishBmcs(lambda address: None)
    yield made
    await made.close()


def access(controller: bmc.Controller, **more: Any) -> BmcAccess:
    plain = {"username": bmc.USER, "password": bmc.PASSWORD, "ca": controller.certificate, "serial_number": "SN1"}
    return BmcAccess("uid", "m1", "127.0.0.1", **{"port": controller.port, **plain, **more})


async def test_power_is_seen_and_switched(bmcs: RedfishBmcs, controller: bmc.Controller, box: Box) -> None:
    one = bmcs.bmc(access(controller))
    assert await one.power_state() == "On"
    await one.power_off()
    assert (await one.power_state(), box.on) == ("Off", False)
    await one.power_on()
    assert (await one.power_state(), box.on) == ("On", True)
    assert controller.resets == ["ForceOff", "On"]


@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_is_critical_is_told_and_no_other(
    bmcs: RedfishBmcs, controller: bmc.Controller, part: str
) -> None:
    controller.break_part(part)
    health = await bmcs.bmc(access(controller)).health()
    assert {p: health.parts[p].well for p in PARTS} == {p: p != part for p in PARTS}
    assert health.parts[part].message.startswith("Critical: ")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"ca": ""}, "BmcCertificate"),
        ({"password": "wrong"}, "BmcAccessDenied"),
        ({"serial_number": "SN2"}, "IdentityMismatch"),
        ({"port": 1}, "BmcUnreachable"),
    ],
    ids=["its certificate is signed by nobody known", "the password is wrong", "it is another machine's", "nobody there"],
)  # fmt: skip
async def test_who_is_not_to_be_believed_or_not_there_is_asked_for_nothing(
    bmcs: RedfishBmcs, controller: bmc.Controller, more: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BmcError) as caught:
        await bmcs.bmc(access(controller, **more)).power_off()
    assert (caught.value.reason, caught.value.sent) == (reason, False)
    assert controller.resets == []


async def test_certificates_are_looked_at_unless_it_is_said_in_so_many_words(
    bmcs: RedfishBmcs, controller: bmc.Controller
) -> None:
    assert await bmcs.bmc(access(controller, ca="", insecure=True)).power_state() == "On"


async def test_addresses_that_fleet_does_not_connect_to_get_no_packet(controller: bmc.Controller) -> None:
    guarded = RedfishBmcs(lambda address: f"{address} is a loopback address")
    with pytest.raises(BmcError, match="BmcNotAllowed"):
        await guarded.bmc(access(controller)).power_state()
    await guarded.close()


async def test_a_controller_cannot_send_fleet_elsewhere(
    bmcs: RedfishBmcs, controller: bmc.Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.settimeout(0.2)
        there = f"https://127.0.0.1:{elsewhere.getsockname()[1]}/redfish/v1/Systems"
        monkeypatch.setitem(
            bmc._RESOURCES, bmc.ROOT, lambda b: {"Id": "x", "Name": "x", "Systems": {"@odata.id": there}}
        )
        with pytest.raises(BmcError):
            await bmcs.bmc(access(controller)).power_state()
        with pytest.raises(TimeoutError):
            elsewhere.accept()


async def test_a_reset_that_is_refused_is_sent_once(
    bmcs: RedfishBmcs, controller: bmc.Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuses(type_: str) -> bool:
        asked.append(type_)
        return False

    monkeypatch.setattr(controller, "reset", refuses)
    with pytest.raises(BmcError) as caught:
        await bmcs.bmc(access(controller)).power_off()
    assert (asked, caught.value.sent) == (["ForceOff"], True)


async def test_a_controller_that_says_nothing_of_use_leaves_everything_open(
    bmcs: RedfishBmcs, controller: bmc.Controller
) -> None:
    controller.silence()
    with pytest.raises(BmcError, match="BmcRefused"):
        await bmcs.bmc(access(controller)).health()


async def test_many_are_asked_side_by_side(bmcs: RedfishBmcs, controller: bmc.Controller) -> None:
    asked = (bmcs.bmc(access(controller)).power_state() for _ in range(20))
    assert await asyncio.gather(*asked) == ["On"] * 20
