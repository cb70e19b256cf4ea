"""One machine whose disk is to hold a new system, for tests of the rung that reinstalls."""

from __future__ import annotations

from fleet.control.kinds import Json
from simulator.box import Box
from tests.machines.world_of_one import running
from tests.recovery.world import ASK, World

RUNG: Json = {"name": "reinstall", "steps": [{"action": "Isolate"}, {"action": "Drain"}, {"action": "Reinstall"}], "verifySeconds": 600}  # fmt: skip
BROKEN: list[Json] = [{"condition": "RootFilesystemCorrupt"}]
ENDS = 90  # turns of five seconds in which an installation and everything after it have ended; half as many, give or take ten, are taken


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
        await self.agents_say("RootFilesystemCorrupt", status, *sources)

    async def well(self) -> None:
        """The agents of the new system find nothing."""
        await self.say("False")

    async def until_asked(self) -> None:
        for _ in range(20):
            if self.provisioners.asked:
                return
            await self.turn()
        raise AssertionError((await self.operations())[0]["status"])

    async def until_ended(self) -> tuple[str, str]:
        """Turns until the remediation has ended, or for as long as it may take; phases as of `end`."""
        for _ in range(ENDS):
            await self.turn()
            if (await self.end())[1] in ("Succeeded", "Escalated", "Cancelled"):
                break
        return await self.end()

    async def end(self) -> tuple[str, str]:
        """Phases of the fault and of its remediation."""
        return (await self.fault())["status"]["phase"], (await self.remediation())["status"]["phase"]

    async def steps(self) -> list[tuple[str, str]]:
        (operation,) = await self.operations()
        return [(s["verb"], s["reason"]) for s in operation["status"]["steps"]]
