"""L3: events from outside: 10,000 a second over HTTP for 30 s, each batch acknowledged or told to come again; what was acknowledged is there once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil

from benchmarks.harness import Run
from benchmarks.world import World, machine_name

RATE, PER_REQUEST, CLIENTS = 10_000, 250, 20
SECONDS = {"S": 5, "M": 30, "L": 30}
_FLOOR_BATCH = 1_000
_PATIENCE = 60.0  # seconds after the last event was due in which all must be acknowledged

_BARE = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(ids)s::text[], %(data)s::text[]) WITH ORDINALITY AS r(id, data, ord)), p AS MATERIALIZED (SELECT fleet_pos(%(n)s) AS base)
INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, source_id, data) SELECT (SELECT base FROM p) + ord - 1, 0, 1, 1, 1, 1, %(type)s, %(source)s, id, data::jsonb FROM r
"""


@dataclass
class _Tally:
    """What the clients saw."""

    acknowledged: int = 0
    told_to_wait: int = 0
    waits: list[float] = field(default_factory=list)  # from the first try to the acknowledgement, seconds


class Measure:
    title = "events of 300 bytes published in batches of 250 by 20 clients: at 10,000/s, and as fast as they are taken; the floor writes them bare"
    target = "10,000/s acknowledged or 429, none lost, none doubled, acknowledged within 1 s (p95), memory flat"

    def prepare(self, world: World) -> None:
        stack = contextlib.ExitStack()
        self._server, self._address = stack.enter_context(_serving())
        self._headers = {"Authorization": f"Bearer {_token()}", "Content-Type": "application/cloudevents-batch+json"}
        self._close = stack.close
        self._events = RATE * SECONDS[world.size]

    def reset(self, world: World, who: str) -> None:
        world.sql("DELETE FROM event WHERE source LIKE '/bench/%%'")
        world.sql("TRUNCATE event_seen, dead_letter")
        self._source = f"/bench/{uuid.uuid4()}"
        self._bodies = [
            _body(self._source, at, world.machines) for at in range(0, self._events, PER_REQUEST)
        ]  # before the clock runs
        world.sql("CHECKPOINT")

    def floor(self, world: World) -> Run:
        """The same rows, set-based and without a door: nothing is checked, resolved or remembered."""

        async def write(conn: Any) -> None:
            for body in _joined(self._bodies):
                values = {
                    "ids": [e["id"] for e in body],
                    "data": [orjson.dumps(e["data"]).decode() for e in body],
                    "n": len(body),
                }
                await conn.execute(_BARE, values | {"type": body[0]["type"], "source": self._source}, prepare=True)

        world.run(write)
        return Run(self._events)

    def ours(self, world: World) -> Run:
        return self._published(world, rate=RATE)

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {"ours, flat out": lambda world: self._published(world, rate=0)}

    def _published(self, world: World, rate: int) -> Run:
        process = psutil.Process(self._server.pid)
        before, cpu = process.memory_info().rss, sum(process.cpu_times()[:2])
        tally = world.run(lambda conn: self._clients(rate))
        waits = sorted(tally.waits)
        figures = {
            "p50": waits[len(waits) // 2] * 1_000, "p95": waits[len(waits) * 95 // 100] * 1_000, "CPU of the server": (sum(process.cpu_times()[:2]) - cpu) * 1_000,
            "count of 429": float(tally.told_to_wait), "bytes grown": float(process.memory_info().rss - before),
        }  # fmt: skip
        return Run(tally.acknowledged, figures=figures)

    async def _clients(self, rate: int) -> _Tally:
        """Open loop at a rate: a batch is due at its time, whatever became of those before. Closed loop at 0."""
        tally, begun = _Tally(), time.perf_counter()
        todo = iter(enumerate(self._bodies))
        connector = aiohttp.TCPConnector(limit=CLIENTS)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers) as session:

            async def client() -> None:
                for number, body in todo:
                    due = begun + number * PER_REQUEST / rate if rate else time.perf_counter()
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    await self._send(session, body, due, tally)

            async with asyncio.timeout((self._events / rate if rate else 0) + _PATIENCE):
                await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return tally

    async def _send(self, session: aiohttp.ClientSession, body: bytes, due: float, tally: _Tally) -> None:
        while True:
            async with session.post(self._address, data=body) as answer:
                content = await answer.read()
            if answer.status == 202:
                told = orjson.loads(content)
                assert told["quarantined"] == 0, told
                tally.acknowledged += told["accepted"]
                tally.waits.append(time.perf_counter() - due)
                return
            assert answer.status == 429, (answer.status, content)
            tally.told_to_wait += 1
            await asyncio.sleep(float(answer.headers["Retry-After"]))

    def check(self, world: World, who: str, run: Run) -> None:
        sql = "SELECT count(*), count(DISTINCT source_id) FROM event WHERE source = %s"
        rows = world.sql(sql, [self._source])[0]
        lost = run.count - rows[1]
        assert rows == (self._events, self._events), f"{who}: {rows} rows (all, distinct) of {self._events} events"
        assert run.count == self._events and not lost, f"{who}: {run.count} acknowledged, {lost} of them lost"

    def figures(self, world: World) -> Mapping[str, float]:
        self.reset(world, "end")
        self._close()
        return {}


def _body(source: str, at: int, machines: int) -> bytes:
    """A batch, each event about another machine."""
    return orjson.dumps([
        {"specversion": "1.0", "id": str(n), "source": source, "type": "com.example.disk.failing", "subject": f"machine/{machine_name(n * 7 % machines)}", "severity": "warning",
         "data": {"reason": "SectorsReallocated", "message": f"Device sda of this machine has reallocated {n} sectors since yesterday.", "device": "sda", "sectors": n}}
        for n in range(at, at + PER_REQUEST)
    ])  # fmt: skip


def _joined(bodies: list[bytes]) -> Iterator[list[Any]]:
    """Batches of the floor's size."""
    each = _FLOOR_BATCH // PER_REQUEST
    for at in range(0, len(bodies), each):
        yield [event for body in bodies[at : at + each] for event in orjson.loads(body)]


def _token() -> str:
    from django.contrib.auth import get_user_model

    from fleet.api.authentication import create_token
    from fleet.api.models import RoleBinding

    user = get_user_model().objects.create_user(username="publisher", password=None)
    RoleBinding.objects.create(user=user, role="operator", cluster="")
    return create_token(user, "benchmark", days=1)


@contextlib.contextmanager
def _serving() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """One web process of Fleet's own, without the bound on requests of one client."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "FLEET_REQUESTS_PER_SECOND": "0"}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "serve", "--http", f"127.0.0.1:{port}"], cwd=root, env=environment
    )
    try:
        _wait(process, f"http://127.0.0.1:{port}/readyz")
        yield process, f"http://127.0.0.1:{port}/api/events"
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2):
            return
        time.sleep(0.1)
    raise RuntimeError("the web process did not get ready")
