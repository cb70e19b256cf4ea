"""The HTTP face: paths to verbs, misbehaviour before and after, streams. One event loop, plain HTTP, anybody may."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import orjson
from aiohttp import web

from fleet.api.errors import ApiError
from simulator.kube import discovery
from simulator.kube.admin import Admin
from simulator.kube.cluster import SimulatedCluster
from simulator.kube.faults import Fault
from simulator.kube.refusals import (
    RETRY,
    Refusal,
    bad_request,
    expired,
    expired_page,
    method_not_allowed,
    no_such_path,
    ordered,
)
from simulator.kube.resources import BY_PATH, PODS, Json
from simulator.kube.selection import Lens, page, selection_of
from simulator.kube.store import Forgotten
from simulator.kube.streams import BOOKMARK_SECONDS, Stream, error_line, wish_of
from simulator.kube.verbs import Answer, Options, Place, decoded

log = logging.getLogger("simulator.kube")

TICK_SECONDS: Final = 0.25
_GZIP_BYTES: Final = 128 << 10  # shorter answers are sent as they are, as kube-apiserver does
_GZIP_LEVEL: Final = 1
_LARGEST: Final = 3 << 20
_VERBS: Final = {"GET": ("get", "list"), "POST": ("", "create"), "PUT": ("update", ""), "PATCH": ("patch", "")}


class KubeServer:
    """One simulated API server. `ticking`: let time do its work; without it who holds the cluster calls `tick`. `bookmarks`: seconds between two of a stream."""

    def __init__(self, cluster: SimulatedCluster, *, ticking: bool = True, bookmarks: float = BOOKMARK_SECONDS) -> None:
        self.cluster = cluster
        self.url = ""
        self._ticking = ticking
        self._bookmarks = bookmarks
        self._runner: web.AppRunner | None = None
        self._cut = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.streams = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; the address is in `url`."""
        app = web.Application(client_max_size=_LARGEST)
        Admin(self).routes(app.router)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        listening: Any = site._server
        self.url = f"http://{host}:{listening.sockets[0].getsockname()[1]}"
        if self._ticking:
            self._task = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """End all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def cut(self) -> None:
        """Cut all streams in the middle."""
        self._cut.set()
        self._cut = asyncio.Event()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self.cluster.tick()
            except Exception:  # the others go on; the next tick tries again
                log.exception("a tick of the simulated cluster broke off")

    # -- requests ---------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            plain = discovery.answer(request.path, self.cluster.version)
            if plain is not None and request.method == "GET":
                await self._meet(self._meeting("get", request))
                return web.Response(body=plain[0], content_type=plain[1])
            place = _place(request.path)
            return await self._resource(request, place)
        except web.HTTPRequestEntityTooLarge:
            text = f"Request entity too large: limit is {_LARGEST}"
            return _refused(Refusal(413, "RequestEntityTooLarge", text))
        except (TypeError, AttributeError, KeyError, ValueError) as error:  # a body of another shape than its kind's
            log.warning("%s %s cannot be read", request.method, request.path, exc_info=error)
            return _refused(bad_request(f"the object cannot be read: {type(error).__name__}: {error}"))
        except ApiError as error:
            return _refused(error)

    def _meeting(self, verb: str, request: web.Request) -> list[Fault]:
        cluster = self.cluster
        return cluster.faults.meeting(verb, request.path, cluster.clock() - cluster.started)

    async def _meet(self, faults: Sequence[Fault]) -> None:
        """What happens before an answer: waiting, for ever perhaps, or a refusal."""
        for fault in faults:
            if fault.what == "slow":
                await asyncio.sleep(self.cluster.faults.draw(fault.seconds / 2, fault.seconds))
            elif fault.what == "hang":
                await self._cut.wait()
                raise ordered(504, 0)
            elif fault.what == "refuse":
                raise ordered(fault.code, fault.retry)

    async def _resource(self, request: web.Request, place: Place) -> web.StreamResponse:
        verb = _verb(request, place)
        faults = self._meeting("page" if verb == "list" and request.query.get("continue") else verb, request)
        await self._meet(faults)
        if verb == "watch":
            return await self._watch(request, place, faults)
        if verb in ("get", "list"):
            answer = self._read(request, place, faults)
        else:
            answer = self._write(request, place, verb, await request.read())
        if any(f.what == "cut" for f in faults):
            return await self._broken(request, answer)
        return self._sent(request, answer)

    def _read(self, request: web.Request, place: Place, faults: Sequence[Fault]) -> Answer:
        store, query = self.cluster.store, request.query
        stale = next((f.revision for f in faults if f.what == "stale"), None)
        collection = store.of(place.resource)
        if place.name:
            try:
                past = collection.before(stale) if stale is not None else None
            except Forgotten:
                past = None
            return self.cluster.api.get(place, past)
        selection = selection_of(place.resource, place.namespace, query)
        if query.get("continue") and any(f.what == "expired" for f in faults):
            raise expired_page(query["continue"])
        hiding = [f for f in faults if f.what in ("empty", "lacking")]
        seed = self.cluster.faults.seed
        hidden = (lambda key: any(f.hides(key, seed) for f in hiding)) if hiding else None
        if stale is not None and stale < collection.forgotten:
            stale = None
        return Answer(200, page(collection, selection, query, store.revision, Lens(stale, hidden)))

    def _write(self, request: web.Request, place: Place, verb: str, body: bytes) -> Answer:
        api, options = self.cluster.api, _options(request)
        if verb == "evict":
            return self.cluster.budgets.evict(place, body, options)
        if verb == "create":
            return api.create(place, decoded(body), options)
        if verb == "update":
            return api.replace(place, decoded(body), options)
        if verb == "patch":
            return api.patch(place, body, request.content_type, options)
        wanted: Json = decoded(body) if body else {}
        grace = request.query.get("gracePeriodSeconds")
        if grace is not None and "gracePeriodSeconds" not in wanted:
            wanted["gracePeriodSeconds"] = int(grace)
        if place.name:
            return api.delete(place, wanted, options)
        return self._delete_all(request, place, wanted, options)

    def _delete_all(self, request: web.Request, place: Place, wanted: Json, options: Options) -> Answer:
        """DELETE of a collection: what the selector meant, as it was."""
        selection = selection_of(place.resource, place.namespace, request.query)
        listed = page(self.cluster.store.of(place.resource), selection, {}, self.cluster.store.revision)
        for each in orjson.loads(listed)["items"]:
            meta = each["metadata"]
            target = Place(place.resource, meta.get("namespace", ""), meta["name"])
            with contextlib.suppress(ApiError):  # gone meanwhile, or not to be had
                self.cluster.api.delete(target, wanted, options)
        return Answer(200, listed)

    # -- answers ----------------------------------------------------------------------------------------------------

    def _sent(self, request: web.Request, answer: Answer) -> web.Response:
        body, headers = answer.body, {"Content-Type": "application/json"}
        if len(body) > _GZIP_BYTES and "gzip" in request.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = gzip.compress(body, _GZIP_LEVEL, mtime=0), "gzip"
        return web.Response(status=answer.code, body=body, headers=headers)

    async def _broken(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        """Half of the answer, then nothing: the connection is cut."""
        half = answer.body[: len(answer.body) // 2]
        response = web.StreamResponse(status=answer.code, headers={"Content-Type": "application/json"})
        response.content_length = len(answer.body)
        await response.prepare(request)
        await response.write(half)
        _abort(request)
        return response

    async def _watch(self, request: web.Request, place: Place, faults: Sequence[Fault]) -> web.StreamResponse:
        selection = selection_of(place.resource, place.namespace, request.query)
        if place.name:  # /api/v1/watch-style: one object by its path
            raise method_not_allowed()
        wish = wish_of(request.query)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        kinds = {f.what for f in faults}
        stream = Stream(self.cluster.store, self.cluster.store.of(place.resource), selection, wish, self._bookmarks)
        self.streams += 1
        cut = asyncio.ensure_future(self._cut.wait())
        sending = asyncio.ensure_future(self._send(response, stream.lines(), kinds))
        try:
            await asyncio.wait((cut, sending), return_when=asyncio.FIRST_COMPLETED)
            if cut.done() or "cut" in kinds:
                _abort(request)
            elif sending.exception() is None:
                await response.write_eof()
        except ConnectionError:
            pass  # who has heard enough hangs up
        finally:
            self.streams -= 1
            cut.cancel()
            sending.cancel()
            await asyncio.wait((cut, sending))
        return response

    async def _send(self, response: web.StreamResponse, lines: AsyncIterator[bytes], kinds: set[str]) -> None:
        if "mute" in kinds:
            await asyncio.Event().wait()
        if "expired" in kinds:
            await response.write(error_line(expired("watch").status()))
            return
        with contextlib.suppress(ConnectionError):
            async for line in lines:
                if "cut" in kinds:
                    await response.write(line[: len(line) // 2])
                    return
                await response.write(line)


def _refused(error: ApiError) -> web.Response:
    headers = {k: v for k, v in error.headers.items() if k == RETRY}
    body = orjson.dumps(error.status())
    return web.Response(status=error.code, body=body, headers=headers, content_type="application/json")


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _place(path: str) -> Place:
    """What a path means; 404 where it means nothing."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise no_such_path()
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and (rest[2] not in ("status", "finalize") or len(rest) > 3):
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0]))
    name, subresource = (rest[1] if len(rest) > 1 else ""), "/".join(rest[2:])
    if resource is None or (namespace and not resource.namespaced) or (name and resource.namespaced and not namespace):
        raise no_such_path()
    known = ("status",) if resource.status else ()
    if subresource and subresource not in (*known, *(("eviction",) if resource is PODS else ())):
        raise no_such_path()
    return Place(resource, namespace, name, subresource)


def _verb(request: web.Request, place: Place) -> str:
    """The verb of a request; 405 where there is none."""
    method = request.method
    if place.subresource == "eviction":
        if method == "POST":
            return "evict"
        raise method_not_allowed()
    if method == "GET":
        watching = request.query.get("watch") in ("true", "1")
        return "watch" if watching else "get" if place.name else "list"
    verb = "delete" if method == "DELETE" else _VERBS.get(method, ("", ""))[0 if place.name else 1]
    if not verb or (verb == "create" and place.resource.namespaced and not place.namespace):
        raise method_not_allowed()
    return verb


def _options(request: web.Request) -> Options:
    given = request.query.get("fieldManager", "")
    agent = request.headers.get("User-Agent", "").partition("/")[0] or "unknown"
    flags = request.query
    return Options(given or agent, flags.get("dryRun") == "All", flags.get("force") == "true", bool(given))
