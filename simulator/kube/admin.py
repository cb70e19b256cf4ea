"""The admin path `/-/`: state, faults, kubelets, workloads, compaction. JSON in and out; for who runs the simulation, not part of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from fleet.api.errors import ApiError
from simulator.kube.faults import FAULTS, FaultError, from_json, script
from simulator.kube.kubelets import MODES
from simulator.kube.resources import Json

if TYPE_CHECKING:
    from simulator.kube.server import KubeServer

_TURN: Final = 100  # nodes changed before others get their turn
Handler = Callable[[Json], Awaitable[Any]]


class Admin:
    """Orders to one server."""

    def __init__(self, server: KubeServer) -> None:
        self._server = server
        self._cluster = server.cluster

    def routes(self, router: web.UrlDispatcher) -> None:
        """GET and POST `/-/state`, POST `/-/<order>`, DELETE `/-/faults` and `/-/faults/<id>`."""
        router.add_get("/-/state", self._state)
        router.add_get("/-/faults", self._faults)
        router.add_delete("/-/faults", self._clear)
        router.add_delete("/-/faults/{id}", self._clear)
        orders: dict[str, Handler] = {
            "faults": self._fault, "script": self._script, "compact": self._compact, "cut": self._cut_all, "nodes": self._nodes,
            "kubelets": self._kubelets, "storm": self._storm, "workloads": self._workload, "tick": self._tick,
        }  # fmt: skip
        for name, handler in orders.items():
            router.add_post(f"/-/{name}", _order(handler))

    async def _state(self, request: web.Request) -> web.Response:
        memory = memory_bytes()
        store = self._cluster.store
        modes = {mode or "Well": 0 for mode in MODES}
        for name in self._cluster.kubelets.names:
            modes[self._cluster.kubelets.mode(name) or "Well"] += 1
        told = {
            "revision": store.revision, "streams": self._server.streams, "kubelets": modes, "rssBytes": memory["Rss"], "pssBytes": memory["Pss"],
            "collections": {p: {"objects": n, "bytes": b, "history": len(store.collections[p].log)} for p, n, b in store.sizes()},
            "faults": self._cluster.faults.show(),
        }  # fmt: skip
        return _json(told)

    async def _faults(self, request: web.Request) -> web.Response:
        return _json({"active": self._cluster.faults.show(), "known": FAULTS})

    async def _clear(self, request: web.Request) -> web.Response:
        number = request.match_info.get("id")
        return _json({"cleared": self._cluster.faults.clear(int(number) if number else None)})

    async def _fault(self, order: Json) -> Any:
        return {"id": self._cluster.order(from_json(order)).id}

    async def _script(self, order: Json) -> Any:
        begin = self._cluster.clock() - self._cluster.started
        drawn = script(int(order.get("seed", 0)), float(order.get("seconds", 600)), float(order.get("every", 30)))
        for fault in drawn:
            fault.begin += begin
            fault.until = None if fault.until is None else fault.until + begin
            self._cluster.order(fault)
        return {"faults": len(drawn)}

    async def _compact(self, order: Json) -> Any:
        self._cluster.store.compact()
        return {"revision": self._cluster.store.revision}

    async def _cut_all(self, order: Json) -> Any:
        self._server.cut()
        return {}

    async def _nodes(self, order: Json) -> Any:
        """`names`, or `count` with `prefix` and `first`; `provider` with `{name}`, `labels`."""
        names = order.get("names")
        if names is None:
            first = int(order.get("first", 0))
            names = node_names(int(order["count"]), str(order.get("prefix", "node-")), first)
        return {"added": await add_nodes(self._server, names, str(order.get("provider", "")), order.get("labels"))}

    async def _kubelets(self, order: Json) -> Any:
        """`names` and `mode`: make these kubelets so."""
        await set_mode(self._server, order["names"], str(order.get("mode", "")))
        return {"changed": len(order["names"])}

    async def _storm(self, order: Json) -> Any:
        """`share` of all kubelets, the first by name, become `mode`."""
        names = sorted(self._cluster.kubelets.names)
        names = names[: round(len(names) * float(order.get("share", 1.0)))]
        await set_mode(self._server, names, str(order.get("mode", "NotReady")))
        return {"changed": len(names), "revision": self._cluster.store.revision}

    async def _workload(self, order: Json) -> Any:
        made = self._cluster.workloads.add(
            str(order.get("namespace", "default")), order["name"], int(order["replicas"]),
            grace_seconds=int(order.get("graceSeconds", 30)), budget=order.get("budget"),
        )  # fmt: skip
        return {"pods": len(made.pods)}

    async def _tick(self, order: Json) -> Any:
        self._cluster.tick()
        return {"revision": self._cluster.store.revision}


def node_names(count: int, prefix: str = "node-", first: int = 0) -> list[str]:
    """Names with their numbers."""
    return [f"{prefix}{number:07}" for number in range(first, first + count)]


async def add_nodes(server: KubeServer, names: Sequence[str], provider: str = "", labels: Json | None = None) -> int:
    """Give nodes kubelets, some at a time; how many were made."""
    added = 0
    for at in range(0, len(names), _TURN):
        added += server.cluster.kubelets.add(names[at : at + _TURN], provider=provider, labels=labels)
        await asyncio.sleep(0)
    return added


async def set_mode(server: KubeServer, names: Sequence[str], mode: str) -> None:
    """Make kubelets so, some at a time."""
    for number, name in enumerate(names):
        server.cluster.kubelets.fail(name, mode)
        if number % _TURN == _TURN - 1:
            await asyncio.sleep(0)


def memory_bytes() -> dict[str, int]:
    """What the kernel says of this process: Rss and Pss among others, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}


def _json(told: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(told), status=status, content_type="application/json")


def _order(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        try:
            body = await request.read()
            return _json(await handler(orjson.loads(body) if body else {}))
        except (FaultError, ValueError, KeyError, TypeError) as error:
            return _json({"error": str(error) if not isinstance(error, KeyError) else f"{error} is missing"}, 400)
        except ApiError as error:
            return _json(error.status(), error.code)

    return answer
