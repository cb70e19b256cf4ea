"""Simulated hosts on the real table, with a clock that only tests move."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
import pytest_asyncio
from django.db import connection

from clusters.kube import Kube
from machines.hosts import Action, Artifact, Facts, StepOrder, StepRef, StepResult, Target, WantedPackage, WantedUnit
from simulator.hosts import SimulatedHosts
from tests.simulator.api_servers import LOOPBACK, ApiServer, real, simulated

T = TypeVar("T")
UID = "22222222-2222-2222-2222-222222222222"  # the seed of the box: what it draws is the same in every run
INSTALLATION = "11111111-1111-1111-1111-111111111111"


def dsn() -> str:
    """The test database as a libpq string."""
    wanted = connection.get_connection_params()
    names = ("dbname", "host", "port", "user", "password")
    return psycopg.conninfo.make_conninfo(**{name: wanted[name] for name in names if wanted.get(name)})


async def connect() -> psycopg.AsyncConnection[tuple[object, ...]]:
    return await psycopg.AsyncConnection.connect(dsn(), autocommit=True)


CRON = (WantedUnit("cron.service", started=True),)


def digest(text: str) -> str:
    """What sha256sum says of it."""
    return hashlib.sha256(text.encode()).hexdigest()


def package(name: str = "pouch", version: str = "1.0", url: str = "", **more: object) -> WantedPackage:
    artifact = Artifact("deb", url or f"simulated:{name}-{version}.deb", sha256="ab" * 32)
    unit = WantedUnit(f"{name}.service", enabled=True, started=True)
    return replace(WantedPackage(name, version, (artifact,), units=(unit,)), **more)  # type: ignore[arg-type]


@dataclass
class Lab:
    """One host and a hand on its clock."""

    hosts: SimulatedHosts
    other: SimulatedHosts
    move: Callable[[float], None]
    now: Callable[[], float]
    target: Target = field(
        default_factory=lambda: Target(
            1, UID, "m1", "10.0.0.1", packages=("pouch",), units=("pouch.service",), serial_number="SN1"
        )
    )

    def order(
        self,
        action: Action,
        step: str = "01-step",
        attempt: int = 1,
        epoch: int = 1,
        incarnation: int = 1,
        operation: str = "op",
    ) -> StepOrder:
        return StepOrder(self.target, StepRef(operation, step, attempt), action, INSTALLATION, incarnation, epoch)

    async def look(self, *polls: StepRef, **more: object) -> Facts:
        return (await self.hosts.observe([replace(self.target, polls=polls, **more)]))[0]  # type: ignore[arg-type]

    async def start(self, action: Action, step: str = "01-step", **more: object) -> StepResult:
        return (await self.hosts.act([self.order(action, step, **more)]))[0]  # type: ignore[arg-type]

    async def do(self, action: Action, step: str = "01-step", **more: object) -> StepResult:
        """Start a step and wait for its end."""
        began = await self.start(action, step, **more)
        if began.state == "Refused":
            return began
        self.move(60)
        return (await self.look(began.ref)).steps[began.ref.folder]

    async def install(self, wanted: WantedPackage, step: str = "01-install", **more: object) -> StepResult:
        """Stage, then install; the first that does not succeed is the answer."""
        action = Action("stage-package", package=wanted, artifact=wanted.artifacts[0])
        staged = await self.do(action, f"{step}-stage", **more)
        return (
            staged
            if staged.state != "Succeeded"
            else await self.do(replace(action, verb="install-package"), step, **more)
        )

    async def stage(self, wanted: WantedPackage, **more: object) -> None:
        await self.do(Action("stage-package", package=wanted, artifact=wanted.artifacts[0]), "00-stage", **more)


@pytest_asyncio.fixture
async def lab(fleet_db: None) -> AsyncIterator[Lab]:
    now = [1_800_000_000.0]

    def move(seconds: float) -> None:
        now[0] += seconds

    hosts, other = (SimulatedHosts(connect, lambda: now[0]) for _ in range(2))
    yield Lab(hosts, other, move, lambda: now[0])
    await hosts.close()
    await other.close()


@pytest.fixture
def pouch() -> WantedPackage:
    return package()


@pytest.fixture(scope="session", params=["simulated", pytest.param("real", marks=pytest.mark.kube)])
def api_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Each of the servers that must be alike; one of each for all tests, which keep to names of their own."""
    folder: Path = tmp_path_factory.mktemp("plane")
    with simulated("--bookmark-seconds", "1") if request.param == "simulated" else real(folder) as made:
        yield made


@pytest.fixture
async def kube(api_server: ApiServer) -> AsyncIterator[Kube]:
    """A client of it."""
    async with Kube(api_server.endpoint, networks=LOOPBACK) as made:
        yield made
    if made.endpoint.server.startswith("https:"):
        await asyncio.sleep(0.3)  # a TLS stream that was left says goodbye first, and aiohttp does not tell when
