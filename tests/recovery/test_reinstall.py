"""The rung that installs a host's system anew: asked for once, followed to its end, and what was accepted is put there again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from fleet.safety import switch
from simulator.box import Box
from tests.machines.world_of_one import running
from tests.recovery.world import ASK, World

RUNG: Json = {"name": "reinstall", "steps": [{"action": "Isolate"}, {"action": "Drain"}, {"action": "Reinstall"}], "verifySeconds": 600}  # fmt: skip
BROKEN: list[Json] = [{"condition": "RootFilesystemCorrupt"}]
ENDS = 45  # turns of five seconds in which an installation and everything after it have ended


class Disk(World):
    """One machine whose file system two agents complain about."""

    async def complained(self, *rungs: Json) -> Box:
        await self.playbook(*(rungs or (RUNG, ASK)))
        await self.rule("corrupt", "FilesystemCorrupt", category="Hardware", severity="error", when=BROKEN)
        box = await running(self)
        await self.say("True")
        await self.detect()
        return box

    async def say(self, status: str, *sources: str) -> None:
        for source in sources or ("npd", "watchdog"):
            await self.conn.execute(
                "INSERT INTO recovery_evidence (machine_id, type, source, status) SELECT id, 'RootFilesystemCorrupt', %s, %s FROM machine "
                "ON CONFLICT (machine_id, type, source) DO UPDATE SET status = excluded.status",
                [source, status],
            )

    async def well(self) -> None:
        """The agents of the new system find nothing."""
        await self.say("False")

    async def until_asked(self) -> None:
        for _ in range(20):
            if self.provisioners.asked:
                return
            await self.turn()
        raise AssertionError((await self.operations())[0]["status"])

    async def end(self) -> tuple[str, str]:
        """Phases of the fault and of its remediation."""
        return (await self.fault())["status"]["phase"], (await self.remediation())["status"]["phase"]

    async def steps(self) -> list[tuple[str, str]]:
        (operation,) = await self.operations()
        return [(s["verb"], s["reason"]) for s in operation["status"]["steps"]]


@pytest.fixture
def disk(conn: Connection) -> Disk:
    return Disk(conn)


async def test_a_host_is_installed_anew_and_holds_what_was_accepted_again(disk: Disk) -> None:
    box = await disk.complained()
    before, marker = box.boot_id, box.marker
    await disk.until_asked()
    await disk.turn(3)
    assert (box.packages.get("pouch"), box.marker, box.epoch) == (None, "", -1)  # nothing of Fleet is there
    await disk.well()
    await disk.turn(ENDS)
    assert await disk.end() == ("Resolved", "Succeeded"), await disk.remediation()
    assert await disk.steps() == [
        ("permit", "Granted"), ("isolate", "NotANode"), ("drain", "NotANode"), ("collect-evidence", "Done"), ("reinstall", "Reinstalled"),
        ("provision", "Planned"), ("stage-package", "Done"), ("install-package", "Done"), ("write-files", "Done"), ("set-units", "Done"),
        ("health-check", "Done"), ("post-check", "Verified"),
    ]  # fmt: skip
    assert len(disk.provisioners.asked) == box.installs == 1
    assert (box.boot_id != before, box.marker) == (True, marker)
    assert box.packages["pouch"]["declared"] == "1.0"
    await disk.turn(20)
    assert await disk.phase() == "Running"
    assert await disk.permits() == 0
    assert (await disk.operations())[0]["status"]["verb"] == "Reinstall"
