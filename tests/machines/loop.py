"""A small Fleet around the reconciler: objects made as people make them, passes driven by hand, a clock that only tests move."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet.api.actions import Write, change_object, create_object, delete_object
from fleet.api.rights import SYSTEM
from fleet.control import work
from fleet.control.db import Connection
from fleet.control.kinds import API_VERSION, MACHINE, Json
from fleet.control.threads import in_thread
from machines import hot
from machines.nodes import Clusters, KeptClusters
from machines.reconcile import Context, no_fault, reconcile
from tests.fakes.bmcs import FakeBmcs
from tests.fakes.hosts import FakeHosts
from tests.fakes.provisioners import FakeProvisioners

INSTALLATION = "11111111-1111-1111-1111-111111111111"
ME = 1


def package(name: str = "pouch", version: str = "1.0", **spec: Any) -> Json:
    """A package version with a unit and a health check."""
    url = spec.pop("url", f"simulated:{name}-{version}.deb")
    plain: Json = {
        "packageName": name,
        "version": version,
        "config": {"deb": url, "sha256": "ab" * 32},
        "units": [{"name": f"{name}.service", "enabled": True, "started": True}],
        "healthCheck": {"command": ["true"]},
    }
    return {"kind": "MachinePackageVersion", "metadata": {"name": f"{name}-{version}"}, "spec": plain | spec}


def config(
    name: str = "pouch-config", version: str = "v1", content: str = "idc={{ machine.idc }}\n", **spec: Any
) -> Json:
    """A configuration version with one file."""
    files = [{"path": f"/etc/{name}.conf", "content": content}]
    return {
        "kind": "MachineConfigVersion",
        "metadata": {"name": f"{name}-{version}"},
        "spec": {"configName": name, "version": version, "files": files, **spec},
    }


PLURALS = {
    "Machine": "machines",
    "MachinePackageVersion": "machinepackageversions",
    "MachineConfigVersion": "machineconfigversions",
    "MachineClass": "machineclasses",
    "Cluster": "clusters",
    "ClusterPackageVersion": "clusterpackageversions",
    "Idc": "idcs",
    "Operation": "operations",
    "Hold": "holds",
    "ReadinessRule": "readinessrules",
    "SafetyPolicy": "safetypolicies",
}


@dataclass
class Loop:
    """The reconciler and its world."""

    conn: Connection
    hosts: FakeHosts = field(default_factory=FakeHosts)
    point: Callable[[int], Awaitable[None]] = no_fault
    moment: datetime = field(default_factory=lambda: datetime.now(UTC))
    clusters: Clusters = field(default_factory=KeptClusters)
    bmcs: FakeBmcs = field(init=False)
    provisioners: FakeProvisioners = field(init=False)
    with_provisioner: bool = True  # the driver of the machines has one

    def __post_init__(self) -> None:
        self.bmcs = FakeBmcs(self.hosts)
        self.provisioners = FakeProvisioners(self.hosts)

    async def make(self, *objects: Json) -> None:
        """Create objects as people do."""
        for obj in objects:
            full = {"apiVersion": API_VERSION, **obj}
            await in_thread(lambda full=full: create_object(PLURALS[full["kind"]], full, write=Write(by=SYSTEM)))  # type: ignore[misc]

    async def machine(self, name: str = "m1", **spec: Any) -> None:
        """Create a machine on the fake driver."""
        number = len(self.hosts.boxes) + sum(map(ord, name)) % 200
        plain = {"idc": "a", "ip": f"10.0.0.{number}", "driver": {"type": "simulated"}}
        await self.make({"kind": "Machine", "metadata": {"name": name}, "spec": plain | spec})

    async def edit(self, plural: str, name: str, **spec: Any) -> None:
        """Change spec fields; None takes a field away."""

        def change(live: Json) -> Json:
            live["spec"] = {k: v for k, v in {**live["spec"], **spec}.items() if v is not None}
            return live

        await in_thread(lambda: change_object(plural, name, change, write=Write(by=SYSTEM), verb="update"))

    async def annotate(self, name: str, **words: str) -> None:
        """Set fleet.dev/… annotations of a machine; `_` stands for `-`."""

        def change(live: Json) -> Json:
            more = {f"fleet.dev/{k.replace('_', '-')}": v for k, v in words.items()}
            live["metadata"]["annotations"] = {**live["metadata"].get("annotations", {}), **more}
            return live

        await in_thread(lambda: change_object("machines", name, change, write=Write(by=SYSTEM), verb="update"))

    async def delete(self, name: str) -> None:
        await in_thread(lambda: delete_object("machines", name, write=Write(by=SYSTEM)))

    async def get(self, name: str = "m1", plural: str = "machines") -> Json | None:
        """The object as the API shows it."""
        from fleet.api.storage import storage_for

        stored = await in_thread(lambda: storage_for(plural).read(name))
        return stored.obj if stored else None

    async def phase(self, name: str = "m1") -> str:
        found = await self.get(name)
        return str(found["status"]["phase"]) if found else ""

    async def condition(self, type_: str, name: str = "m1") -> tuple[str, str, str]:
        found = await self.get(name)
        each: Json = next((c for c in (found or {}).get("status", {}).get("conditions", []) if c["type"] == type_), {})
        return each.get("status", "Unknown"), each.get("reason", ""), each.get("message", "")

    async def step(self, seconds: float = 5.0) -> int:
        """Everything is due; one pass over it; then time goes on. How many machines were in the pass."""
        await self.conn.execute("UPDATE work_item SET due_at = now() WHERE kind = 1 AND holder IS NULL")
        claims = await work.claim(self.conn, MACHINE, ME)
        rows = await hot.load(self.conn, claims)
        context = Context(
            self.conn, ME, {"simulated": self.hosts}, INSTALLATION, 1, clock=lambda: self.moment, point=self.point,
            clusters=self.clusters, bmcs_by_driver={"simulated": self.bmcs},
            provisioners_by_driver={"simulated": self.provisioners} if self.with_provisioner else {},
        )  # fmt: skip
        await reconcile(rows, context)
        self.hosts.now += seconds
        self.moment += timedelta(seconds=seconds)
        return len(rows)

    async def run(self, passes: int = 40, seconds: float = 5.0) -> list[str]:
        """Passes until nothing moves any more; the phases of m1 on the way."""
        seen: list[str] = []
        for _ in range(passes):
            await self.step(seconds)
            phase = await self.phase()
            if not seen or seen[-1] != phase:
                seen.append(phase)
        return seen
