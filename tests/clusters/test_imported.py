"""Imported clusters: looked at by a kubeconfig, over TLS, never touched."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from clusters import access, pki
from clusters import tasks as _tasks  # registers the operator
from clusters.models import Cluster
from fleet.api.actions import Write, create_object, patch_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control import db, work, worker
from fleet.control.kinds import API_VERSION, CLUSTER, Json
from fleet.control.threads import in_thread

assert _tasks
BY = Write(by=SYSTEM)
FILES = pki.ensure(pki.Names("127.0.0.1", "https://127.0.0.1", "10.96.0.0/12"), {}, datetime.now(UTC)).all


@dataclass
class Server:
    """An API server of others. `code`: what it answers."""

    url: str = ""
    code: int = 200
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if self.code != 200:
            body = {"kind": "Status", "code": self.code, "reason": "Forbidden", "message": "nodes is forbidden"}
            return web.json_response(body, status=self.code)
        return web.json_response(
            {"gitVersion": "v1.36.3"} if request.path == "/version" else {"items": [], "metadata": {}}
        )


@pytest.fixture
async def server(tmp_path: Path, settings: Any, fleet_db: None) -> AsyncIterator[Server]:
    settings.FLEET_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    chain = tmp_path / "chain.pem"
    await in_thread(lambda: chain.write_text(FILES["apiserver.crt"] + FILES["apiserver.key"]))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=FILES["ca.crt"])
    context.load_cert_chain(chain)
    context.verify_mode = ssl.CERT_REQUIRED
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    listening: Any = site._server
    made.url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield made
    await runner.cleanup()


def credential(url: str, *, clusters: tuple[str, ...] = ("*",), authority: str = FILES["ca.crt"], **spec: Any) -> None:
    text = pki.kubeconfig(url, authority, FILES["admin.crt"], FILES["admin.key"])
    wanted = {"type": "kubeconfig", "data": {"kubeconfig": text}, "clusters": list(clusters), **spec}
    create_object(
        "credentials",
        {"apiVersion": API_VERSION, "kind": "Credential", "metadata": {"name": "way"}, "spec": wanted},
        write=BY,
    )


def cluster() -> None:
    spec = {"provider": "Imported", "kubeconfigCredential": "way"}
    create_object(
        "clusters", {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "c1"}, "spec": spec}, write=BY
    )


async def turn() -> Json:
    await in_thread(lambda: work.wake(CLUSTER, list(Cluster.objects.values_list("id", flat=True))))
    await worker.run_once(kinds=[CLUSTER])
    found = await in_thread(lambda: storage_for("clusters").read("c1"))
    assert found is not None
    status: Json = found.obj["status"]
    return status | {"by": {c["type"]: (c["status"], c["reason"], c["message"]) for c in status["conditions"]}}


async def known() -> int:
    conn = await db.connect()
    try:
        return len(await access.endpoints(conn))
    finally:
        await conn.close()


async def test_an_imported_cluster_is_reached_and_its_way_is_kept_for_the_watcher(server: Server) -> None:
    await in_thread(lambda: credential(server.url))
    await in_thread(cluster)
    status = await turn()
    assert (status["phase"], status["kubernetesVersion"], status["endpoint"]) == ("Running", "1.36.3", server.url)
    assert status["by"]["APIServerReachable"][0] == "True"
    assert status["by"]["CertificatesValid"][:2] == ("True", "Valid")
    assert await known() == 1
    assert {a.split()[0] for a in server.asked} == {"GET"}


async def test_one_that_stops_answering_is_degraded_and_comes_back(server: Server) -> None:
    await in_thread(lambda: credential(server.url))
    await in_thread(cluster)
    await turn()
    server.code = 503
    status = await turn()
    assert status["phase"] == "Degraded"
    assert status["by"]["APIServerReachable"][:2] == ("False", "NotReady")
    server.code = 200
    assert (await turn())["phase"] == "Running"


async def test_an_identity_that_is_refused_is_said(server: Server) -> None:
    server.code = 403
    await in_thread(lambda: credential(server.url))
    await in_thread(cluster)
    status = await turn()
    assert status["by"]["Ready"] == (
        "False",
        "Refused",
        "the API server refuses the identity of the kubeconfig: nodes is forbidden",
    )
    assert await known() == 0


async def test_a_wrong_authority_is_not_trusted(server: Server) -> None:
    other = pki.ensure(pki.Names("127.0.0.1", "https://127.0.0.1", "10.96.0.0/12"), {}, datetime.now(UTC)).all["ca.crt"]
    await in_thread(lambda: credential(server.url, authority=other))
    await in_thread(cluster)
    status = await turn()
    assert status["by"]["Ready"][1] == "NotAnswering"
    assert "certificate verify failed" in status["by"]["Ready"][2].lower()
    assert server.asked == []


async def test_a_credential_goes_only_to_its_networks(server: Server) -> None:
    await in_thread(lambda: credential(server.url, networks=["10.0.0.0/8"]))
    await in_thread(cluster)
    status = await turn()
    assert status["by"]["Ready"][1] == "CredentialRefused"
    assert server.asked == []


async def test_the_credential_of_a_cluster_is_there_is_a_kubeconfig_and_is_for_it(server: Server) -> None:
    with pytest.raises(ApiError, match="there is no such Credential"):
        await in_thread(cluster)
    await in_thread(lambda: credential(server.url, clusters=("other",)))
    with pytest.raises(ApiError, match="is not for cluster c1"):
        await in_thread(cluster)


async def test_a_kubeconfig_to_a_forbidden_address_or_with_a_program_is_refused_when_it_is_written(
    server: Server,
) -> None:
    with pytest.raises(ApiError, match="loopback, link-local, metadata"):
        await in_thread(lambda: credential("https://169.254.169.254"))
    await in_thread(lambda: credential(server.url))

    def change(live: Json) -> Json:
        live["spec"]["data"] = {"kubeconfig": "kind: Config\ncurrent-context: c"}
        return live

    with pytest.raises(ApiError, match="has no entry"):
        await in_thread(lambda: patch_object("credentials", "way", change, write=BY))
