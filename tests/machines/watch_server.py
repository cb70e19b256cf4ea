"""A small API server for tests of the watcher: nodes, ConfigMaps, events; lists in pages, watches; it can misbehave on order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Json = dict[str, Any]


def node(name: str, *, ready: str = "True", uid: str = "", provider: str = "", **extra: Any) -> Json:
    """A node as kubelets report them; `extra` replaces parts of spec."""
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "uid": uid or f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"kubernetes.io/hostname": name}},
        "spec": {**({"providerID": provider} if provider else {}), **extra},
        "status": {
            "conditions": [
                {"type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory", "message": "kubelet has sufficient memory available", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
                {"type": "Ready", "status": ready, "reason": "KubeletReady" if ready == "True" else "KubeletNotReady", "message": f"ready: {ready}", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
            ],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"bootID": f"boot-{name}", "kubeletVersion": "v1.37.2"},
        },
    }  # fmt: skip


class ApiServer:
    """`hide`: names that lists lack; `fail`: status codes given to the next requests; `seen`: requests by kind, `queries`: all of each."""

    def __init__(self) -> None:
        self.version = 100
        self.objects: dict[str, dict[str, Json]] = {}
        self.log: list[tuple[str, int, str, Json]] = []  # (path, version, type, object)
        self.hide: set[str] = set()
        self.fail: list[int] = []
        self.oldest = 0
        self.page = 500
        self.mute = False  # streams are opened and say nothing
        self.seen: list[str] = []
        self.queries: list[str] = []
        self.changed = asyncio.Condition()
        self._cut = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/version", self._version)
        app.router.add_get("/{path:.*}", self._get)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        server: Any = site._server
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def cut(self) -> None:
        """End all streams."""
        self._cut.set()
        self._cut = asyncio.Event()
        async with self.changed:
            self.changed.notify_all()

    async def put(self, obj: Json, path: str = "/api/v1/nodes") -> None:
        """Create or replace."""
        await self._say(path, "MODIFIED" if obj["metadata"]["name"] in self.objects.get(path, {}) else "ADDED", obj)

    async def delete(self, name: str, path: str = "/api/v1/nodes") -> None:
        await self._say(path, "DELETED", self.objects[path][name])

    async def bookmark(self) -> None:
        await self._say("/api/v1/nodes", "BOOKMARK", {"kind": "Node", "apiVersion": "v1", "metadata": {}})

    async def say(self, line: bytes, path: str = "/api/v1/nodes") -> None:
        """Send a raw line to all streams of a path."""
        self.log.append((path, self.version, "RAW", {"line": line.decode()}))
        async with self.changed:
            self.changed.notify_all()

    async def _say(self, path: str, kind: str, obj: Json) -> None:
        self.version += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        there = self.objects.setdefault(path, {})
        if kind == "DELETED":
            there.pop(obj["metadata"]["name"])
        elif kind != "BOOKMARK":
            there[obj["metadata"]["name"]] = obj
        self.log.append((path, self.version, kind, obj))
        async with self.changed:
            self.changed.notify_all()

    async def forget(self) -> None:
        """Compact: versions so far are too old to watch from."""
        self.version += 1
        self.oldest = self.version

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"gitVersion": "v1.37.2"})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path, watching = request.path, "watch" in request.query
        self.seen.append(f"{'watch' if watching else 'list'} {path}")
        self.queries.append(str(request.rel_url))
        if self.fail:
            code = self.fail.pop(0)
            headers = {"Retry-After": "0"} if code == 429 else {}
            body = {"kind": "Status", "code": code, "reason": "Ordered", "message": f"{code} on order"}
            return web.json_response(body, status=code, headers=headers)
        if watching:
            return await self._watch(request, path)
        return self._list(request, path)

    def _list(self, request: web.Request, path: str) -> web.Response:
        collection, _, single = path.rpartition("/")
        if single in self.objects.get(collection, {}):
            return web.json_response(self.objects[collection][single])
        if path.startswith("/apis/apps/"):  # only ever asked for by name
            body = {"kind": "Status", "code": 404, "reason": "NotFound", "message": f"{single} not found"}
            return web.json_response(body, status=404)
        names = sorted(n for n in self.objects.get(path, {}) if n not in self.hide)
        begin = int(request.query.get("continue", "0"))
        limit = min(self.page, int(request.query.get("limit", "500")))
        meta = {"resourceVersion": str(self.version)}
        if begin + limit < len(names):
            meta["continue"] = str(begin + limit)
        items = [self.objects[path][n] for n in names[begin : begin + limit]]
        return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items})

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        since, cut = int(request.query["resourceVersion"]), self._cut
        if since < self.oldest:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await answer.write(b'{"type":"ERROR","object":' + json.dumps(status).encode() + b"}\n")
            return answer
        at = next((i for i, (_, version, _, _) in enumerate(self.log) if version > since), len(self.log))
        while not cut.is_set():
            for where, _, kind, obj in self.log[at:] if not self.mute else ():
                if where == path:
                    line = (
                        obj["line"].encode()
                        if kind == "RAW"
                        else json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode()
                    )
                    await answer.write(line + b"\n")
            at = len(self.log)
            async with self.changed:
                if at == len(self.log) and not cut.is_set():
                    await self.changed.wait()
        return answer


async def until(check: Callable[[], Awaitable[object]] | Callable[[], object], seconds: float = 20.0) -> Any:
    """Wait until something holds; it is looked at often, and given up after a long time."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"it never came true: {check}")
        await asyncio.sleep(0.02)
