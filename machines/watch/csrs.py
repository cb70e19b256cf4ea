"""Certificate requests of kubelets: followed, looked at against what Fleet knows, approved or left with the reason told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, LiteralString

import msgspec
import psycopg
from django.db.utils import Error as DjangoError
from msgspec import Struct, field

from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.status import Part, Told, write_parts
from fleet.api.storage import storage_for
from fleet.control import clock
from fleet.control.db import Connection
from fleet.control.threads import in_thread
from fleet.events.publish import WARNING
from machines import csr, join
from machines.watch.leases import Lease
from machines.watch.pace import Pace
from machines.watch.reflect import ORDINARY, Reflector, Times, decoded
from machines.watch.seen import ListMeta, Meta

log = logging.getLogger("fleet.watch")

PATH: Final = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
AGAIN_SECONDS: Final = 5.0  # what could not be answered is looked at again
TRIES: Final = 3  # of one approval whose request moved meanwhile
_MOST: Final = 2_000  # requests that wait; who floods the API server gets no more memory than that
_KNOWN: Final[LiteralString] = """
SELECT t.node, t.expires_at, t.used_at IS NOT NULL, m.id IS NOT NULL, coalesce(m.ip, ''), n.name IS NOT NULL,
  EXISTS (SELECT FROM machines_operation o WHERE o.machine_id = m.id AND o.started_at IS NOT NULL AND o.ended_at IS NULL), (SELECT stopped FROM ledger WHERE id = 1),
  EXISTS (SELECT FROM shard s WHERE s.cluster_id = %(c)s AND s.epoch = %(epoch)s AND s.holder = %(me)s)
FROM (SELECT 1) one LEFT JOIN join_token t ON t.id = %(token)s AND t.cluster_id = %(c)s
  LEFT JOIN machine m ON m.name = %(node)s AND m.cluster_id = %(c)s AND m.deleted_at IS NULL LEFT JOIN node n ON n.cluster_id = %(c)s AND n.name = %(node)s
"""
_USED: Final[LiteralString] = "UPDATE join_token SET used_at = now() WHERE id = %s AND used_at IS NULL"


class _Answer(Struct, frozen=True):
    type: str = ""


class _Status(Struct, frozen=True):
    conditions: tuple[_Answer, ...] = ()


class _Spec(Struct, frozen=True):
    request: str | None = ""  # null in a bookmark
    signer: str = field(default="", name="signerName")
    usages: tuple[str, ...] = ()
    user: str = field(default="", name="username")


class _Csr(Struct, frozen=True):
    metadata: Meta
    spec: _Spec = field(default_factory=_Spec)
    status: _Status = field(default_factory=_Status)


class _Page(Struct, frozen=True):
    metadata: ListMeta
    items: list[_Csr] | None = None


class _Line(Struct, frozen=True):
    type: str
    object: _Csr


_page: Final = msgspec.json.Decoder(_Page).decode
_line: Final = msgspec.json.Decoder(_Line).decode
Borrow = Callable[[Callable[[Connection], Awaitable[object]]], Awaitable[object]]


class CsrStream(Reflector):
    """Requests of kubelets that nobody has answered, by name."""

    def __init__(self, kube: Kube, *, times: Times = ORDINARY, pace: Pace | None = None) -> None:
        super().__init__(kube, PATH, times=times, pace=pace)
        self.waiting: dict[str, csr.Request] = {}
        self.told: dict[str, str] = {}  # why a request is left alone, as it was told last
        self.news = asyncio.Event()

    async def read_all(self) -> str:
        """All of them."""
        self.waiting.clear()
        version = ""
        async for page in self.pages(lambda body: decoded(_page, body), lambda page: page.metadata.go_on):
            for each in page.items or ():
                self._take(each)
            version = version or page.metadata.version
        self.told = {n: why for n, why in self.told.items() if n in self.waiting}
        return version

    def line(self, line: bytes) -> str:
        """One that is new, answered or gone."""
        try:
            found = _line(line)
        except msgspec.DecodeError as error:
            log.warning("%s: a certificate request cannot be read: %s", self.kube.endpoint.server, error)
            return ""
        if found.type in ("ADDED", "MODIFIED"):
            self._take(found.object)
        elif found.type == "DELETED":
            self.waiting.pop(found.object.metadata.name, None)
            self.told.pop(found.object.metadata.name, None)
        return found.object.metadata.version

    def _take(self, found: _Csr) -> None:
        name, spec = found.metadata.name, found.spec
        if found.status.conditions or spec.signer not in csr.SIGNERS:
            self.waiting.pop(name, None)
        elif len(self.waiting) < _MOST:
            self.waiting[name] = csr.Request(name, spec.user, spec.signer, spec.usages, spec.request or "")
            self.news.set()


class Approver:
    """Answers what a CsrStream holds, under the lease of the cluster."""

    def __init__(self, kube: Kube, lease: Lease, borrow: Borrow, stream: CsrStream) -> None:
        self._kube = kube
        self._lease = lease
        self._borrow = borrow
        self._stream = stream

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):  # then it is time to look again at what waits
                await asyncio.wait_for(self._stream.news.wait(), AGAIN_SECONDS)
            self._stream.news.clear()
            for request in list(self._stream.waiting.values()):
                try:
                    await self._answer(request)
                except (
                    KubeUnreachable,
                    KubeError,
                    psycopg.Error,
                    DjangoError,
                    OSError,
                ) as error:  # it waits, and is looked at again
                    log.warning("cluster %d: %s was not approved: %s", self._lease.cluster_id, request.name, error)

    async def _answer(self, request: csr.Request) -> None:
        asked = csr.read(request)
        if asked is None:
            await self._leave(request, "it cannot be read, or its signature does not hold")
            return
        known, stopped, held = await self._known(request, csr.node_of(request, asked))
        if not held:
            return  # another watcher answers
        why = csr.refusal(request, asked, known, clock.now())
        if not why and stopped:
            why = "the kill switch is on"
        if why:
            await self._leave(request, why)
            return
        token = request.user.removeprefix(csr.TOKEN_USER) if request.user.startswith(csr.TOKEN_USER) else ""
        if token:  # used from here on, whatever becomes of the answer: it works once
            await self._run(lambda conn: conn.execute(_USED, [token]))
        await self._approve(request.name)
        self._stream.waiting.pop(request.name, None)
        if token:
            await self._kube.delete(join.secret_path(token))

    async def _known(self, request: csr.Request, node: str) -> tuple[csr.Known, bool, bool]:
        token = request.user.removeprefix(csr.TOKEN_USER)
        values = {
            "c": self._lease.cluster_id,
            "epoch": self._lease.epoch,
            "me": self._lease.holder,
            "token": token,
            "node": node,
        }

        async def read(conn: Connection) -> Any:
            return await (await conn.execute(_KNOWN, values, prepare=True)).fetchone()

        row: Any = await self._run(read)
        of, expires, used, machine, ip, live, joining, stopped, held = row
        given = csr.Token(of, expires, used) if of is not None else None
        return csr.Known(given, ip, machine, live, joining), bool(stopped), bool(held)

    async def _run(self, job: Callable[[Connection], Awaitable[Any]]) -> Any:
        return await self._borrow(job)

    async def _approve(self, name: str) -> None:
        path = f"{PATH}/{name}"
        said = {
            "type": "Approved",
            "status": "True",
            "reason": "FleetApproved",
            "message": "It is this machine's kubelet.",
        }
        for left in reversed(range(TRIES)):
            live = await self._kube.find(path)
            if live is None or live.get("status", {}).get("conditions"):
                return
            live.setdefault("status", {})["conditions"] = [said]
            try:
                await self._kube.send("PUT", f"{path}/approval", body=live)
            except KubeError as error:
                if error.code != 409 or not left:
                    raise
                continue  # somebody wrote it meanwhile: look again
            log.info("cluster %d: the certificate request %s is approved", self._lease.cluster_id, name)
            return

    async def _leave(self, request: csr.Request, why: str) -> None:
        """Not approved, not denied: others may answer it. Told once for each reason."""
        if self._stream.told.get(request.name) == why:
            return
        self._stream.told[request.name] = why
        text = f"The certificate request {request.name} of {request.user} is not approved: {why}."[:900]
        part = {self._lease.cluster_id: Part(told=(Told("csr-left", "NotApproved", text, WARNING),))}
        await in_thread(lambda: write_parts(storage_for("clusters"), part))
