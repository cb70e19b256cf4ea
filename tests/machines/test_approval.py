"""Two persons for what has root everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.api.actions import Write, create_object, patch_object
from fleet.api.approval import APPROVE
from fleet.api.errors import ApiError
from fleet.api.rights import Actor
from fleet.control.db import Connection
from fleet.control.kinds import API_VERSION, Json
from fleet.control.threads import in_thread
from tests.machines.loop import Loop, package

ANA = Actor("ana", 1, (("admin", ""),))
BEN = Actor("ben", 2, (("admin", ""),))


@pytest.fixture
def loop(conn: Connection, settings: Any) -> Loop:
    settings.FLEET_REQUIRE_APPROVAL = True
    return Loop(conn)


def write(by: Actor) -> Json:
    return create_object("machinepackageversions", {"apiVersion": API_VERSION, **package()}, write=Write(by=by))


def approve(by: Actor, word: str) -> Json:
    def change(live: Json) -> Json:
        live["metadata"]["annotations"] = {APPROVE: word}
        return live

    return patch_object("machinepackageversions", "pouch-1.0", change, write=Write(by=by))


async def test_a_version_is_used_once_another_person_approved_its_hash(loop: Loop) -> None:
    made = await in_thread(lambda: write(ANA))
    await loop.machine(versions={"pouch": "1.0"})
    await loop.run(3)
    assert (await loop.condition("VersionsResolved"))[:2] == ("False", "NotApproved")
    approved = await in_thread(lambda: approve(BEN, made["status"]["hash"]))
    assert approved["status"]["approvedBy"] == "ben"
    assert APPROVE not in approved["metadata"].get("annotations", {})
    await loop.run(20)
    assert await loop.phase() == "Running"


@pytest.mark.parametrize(
    ("by", "right", "code"), [(ANA, True, 403), (BEN, False, 409)], ids=["the author", "another hash"]
)
def test_a_word_that_does_not_count_is_refused(fleet_db: None, by: Actor, right: bool, code: int) -> None:
    made = write(ANA)
    word = made["status"]["hash"] if right else "0" * 16
    with pytest.raises(ApiError) as refused:
        approve(by, word)
    assert refused.value.code == code
