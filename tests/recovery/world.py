"""A small Fleet with recovery in it: the machines' loop, rules and playbooks without waiting times, turns driven by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet.api.actions import Write, create_object
from fleet.api.rights import SYSTEM
from fleet.control import work
from fleet.control.kinds import API_VERSION, MACHINE, REMEDIATION, Json
from fleet.control.operators import Seat
from fleet.control.threads import in_thread
from recovery.detecting import detect
from recovery.orders import Ordered, order, refuse_tripped
from recovery.reconcile import reconcile_remediations
from simulator.box import Box
from tests.machines.loop import ME, Loop

ALL: Json = {"matchAll": True}
RESTART: Json = {
    "name": "restart-units",
    "steps": [{"action": "Isolate"}, {"action": "RestartUnits"}],
    "verifySeconds": 600,
}
REINSTALL: Json = {"name": "reinstall", "steps": [{"action": "ReinstallPackage"}], "verifySeconds": 600}
ASK: Json = {"name": "ask", "steps": [{"action": "AskPerson", "task": "Look at it."}]}


@dataclass
class World(Loop):
    """Machines and recovery. `later`: seconds by which detection's clock is ahead."""

    later: float = 0.0

    async def rule(self, name: str = "crash", fault: str = "ComponentCrash", **spec: Any) -> None:
        """A rule in force, without hold and clear times unless said."""
        plain: Json = {
            "faultType": fault, "when": [{"condition": "ComponentsHealthy", "status": "False"}], "holdSeconds": 0, "clearSeconds": 0,
            "mode": "Active", "target": ALL, "playbook": "fix",
        }  # fmt: skip
        await self.create("faultrules", "FaultRule", name, plain | spec)

    async def playbook(self, *rungs: Json, name: str = "fix", probation: int = 0) -> None:
        await self.create(
            "playbooks", "Playbook", name, {"rungs": list(rungs or (RESTART, ASK)), "probationSeconds": probation}
        )

    async def agents_say(self, type_: str, status: str, *sources: str) -> None:
        """Agents on the one machine say so, each a source of its own; two where none is named."""
        for source in sources or ("npd", "watchdog"):
            await self.conn.execute(
                "INSERT INTO recovery_evidence (machine_id, type, source, status) SELECT id, %s, %s, %s FROM machine "
                "ON CONFLICT (machine_id, type, source) DO UPDATE SET status = excluded.status",
                [type_, source, status],
            )

    async def create(self, plural: str, kind: str, name: str, spec: Json) -> None:
        obj = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        await in_thread(lambda: create_object(plural, obj, write=Write(by=SYSTEM)))

    async def ids(self) -> list[int]:
        return [row[0] for row in await (await self.conn.execute("SELECT id FROM machine ORDER BY id")).fetchall()]

    async def detect(self) -> int:
        """One look at every machine; how many faults moved."""
        found = await detect(self.conn, await self.ids(), now=datetime.now(UTC) + timedelta(seconds=self.later))
        return found.moved

    async def order(self) -> Ordered:
        """Everything that waits for its turn has it."""
        await self.conn.execute("UPDATE recovery_fault SET due_at = now() WHERE phase = 'Confirmed'")
        ordered = await order(self.conn)
        await refuse_tripped(self.conn)
        return ordered

    async def repair(self) -> None:
        """One pass over all remediations."""
        await self.conn.execute("UPDATE work_item SET due_at = now() WHERE kind = %s AND holder IS NULL", [REMEDIATION])
        claims = await work.claim(self.conn, REMEDIATION, ME)
        await reconcile_remediations(Seat(self.conn, ME), claims)

    async def turn(self, times: int = 1, seconds: float = 5.0) -> None:
        """Machines, detection, orders, remediations: what the loop does by itself."""
        for _ in range(times):
            await self.step(seconds)
            await self.detect()
            await self.order()
            await self.repair()

    async def faults(self, plural: str = "faults") -> list[Json]:
        from fleet.api.storage import ListQuery, storage_for

        return (await in_thread(lambda: storage_for(plural).page(ListQuery()))).objects

    async def fault(self) -> Json:
        """The only one."""
        (found,) = await self.faults()
        return found

    async def remediation(self) -> Json:
        """The only one."""
        (found,) = await self.faults("remediations")
        return found

    async def operations(self) -> list[Json]:
        """Repairs by the Machine-Operator."""
        return [o for o in await self.faults("operations") if o["spec"]["verb"] == "Repair"]

    async def permits(self) -> int:
        """Permits that are out."""
        row = await (await self.conn.execute("SELECT count(*) FROM permit WHERE released_at IS NULL")).fetchone()
        return int(row[0]) if row else 0

    async def events(self, prefix: str = "dev.fleet.") -> list[str]:
        found = await self.conn.execute("SELECT type FROM event WHERE starts_with(type, %s) ORDER BY pos, n", [prefix])
        return [row[0] for row in await found.fetchall()]

    async def box(self, name: str = "m1") -> Box:
        machine = await self.get(name)
        assert machine is not None
        return self.hosts.box(machine["metadata"]["uid"])


def stopped(box: Box, unit: str = "pouch.service") -> None:
    """The unit falls over."""
    box.units[unit].update(active="failed")


__all__ = ["ALL", "ASK", "MACHINE", "REINSTALL", "RESTART", "World", "stopped"]
