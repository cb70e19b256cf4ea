"""The API while its database or its own process is gone and comes back: refusals that say "come again", nothing lost, no repair by hand."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, watch
from nacl.public import PrivateKey

from fleet.api.management.commands.serve import bind
from fleet.dev.certificates import ensure_certificates, write_kubeconfig
from fleet.dev.services import Postgres
from tests.api.http import BASE, Http
from tests.servers import ROOT, Kubectl, free_port, kubectl_binaries

WAIT_SECONDS = 60.0
_SEED = """
import django; django.setup()
from django.contrib.auth import get_user_model
from fleet.api.authentication import create_token
from fleet.api.models import RoleBinding
user = get_user_model().objects.create_user(username="ana", password=None)
RoleBinding.objects.create(user=user, role="admin", cluster="")
print(create_token(user, "test", days=1))
"""


class World:
    """A database and a web process of one's own, which may be killed and come back at the same addresses."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.postgres = Postgres(data=home / "pg", sockets=home / "s", settings={"fsync": "off"}, log=home / "pg.log")
        self.ca, self.certificate, self.key = ensure_certificates(home)
        self.http, self.https = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}

    def begin(self) -> None:
        self.postgres.start()
        secret = PrivateKey.generate()
        self.environment = {
            **os.environ, "DATABASE_URL": self.postgres.url, "FLEET_REQUESTS_PER_SECOND": "20",
            "FLEET_PUBLIC_KEY": base64.b64encode(bytes(secret.public_key)).decode(), "PYTHONWARNINGS": "default",
        }  # fmt: skip
        self.run("manage.py", "migrate", "--verbosity", "0")
        self.token = self.run("-c", _SEED).strip()
        self.serve()

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self) -> None:
        command = [sys.executable, "manage.py", "serve", "--http", f"127.0.0.1:{self.http}", "--https", f"127.0.0.1:{self.https}"]  # fmt: skip
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--certfile", str(self.certificate), "--keyfile", str(self.key)],
                cwd=ROOT, env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
        until(lambda: self.get("/readyz")[0] == 200)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the web process; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def get(self, path: str) -> tuple[int, Any, str]:
        """(code, body, Retry-After); code 0 = nobody answers."""
        try:
            with Http(f"http://127.0.0.1:{self.http}", {"Authorization": f"Bearer {self.token}"}) as http:
                reply = http("GET", path)
        except OSError:
            return 0, None, ""
        return reply.status, reply.json, reply.headers.get("Retry-After", "")

    def send(self, method: str, path: str, body: Any) -> int:
        with Http(f"http://127.0.0.1:{self.http}", {"Authorization": f"Bearer {self.token}"}) as http:
            return http(method, path, body, Content_Type="application/json").status

    def make(self, name: str) -> None:
        obj = {"apiVersion": "fleet.dev/v1", "kind": "Cluster", "metadata": {"name": name}, "spec": {"idc": "a"}}
        codes: list[int] = []

        def made() -> bool:
            """As a client does that is told to come again."""
            codes.append(self.send("POST", f"{BASE}/clusters", obj))
            return codes[-1] not in (429, 503)

        until(made)
        assert codes[-1] == 201

    def api(self) -> client.CustomObjectsApi:
        """The official Python client."""
        settings = client.Configuration(host=f"https://127.0.0.1:{self.https}")
        settings.ssl_ca_cert = str(self.ca)
        settings.api_key = {"authorization": f"Bearer {self.token}"}
        return client.CustomObjectsApi(client.ApiClient(settings))


def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds; the limit only ends a test that would never end."""
    end = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    home = Path(tempfile.mkdtemp(prefix="fleet-test-"))
    home.chmod(0o755)  # PostgreSQL runs as another user
    made = World(home)
    try:
        made.begin()
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.stop()
        made.postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


def test_a_killed_database_is_503_with_a_time_to_come_again_and_then_all_is_well_by_itself(world: World) -> None:
    world.make("before")
    assert world.postgres.process is not None
    answers: list[tuple[int, Any, str]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.1):
            answers.append(world.get(f"{BASE}/clusters/before"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        os.kill(world.postgres.process.pid, signal.SIGKILL)
        world.postgres.process.wait()
        until(lambda: any(code == 503 for code, _, _ in answers))
        world.postgres.start()
        marker = len(answers)
        until(lambda: any(code == 200 for code, _, _ in answers[marker:]))
    finally:
        done.set()
        asking.join()
    assert {code for code, _, _ in answers} <= {200, 503, 429}
    away = [(body, after) for code, body, after in answers if code == 503]
    assert all(body["reason"] == "ServiceUnavailable" and int(after) > 0 for body, after in away)
    assert all("Traceback" not in json.dumps(body) and "psycopg" not in json.dumps(body) for body, _ in away)
    world.make("after")


def test_who_asks_too_much_is_told_when_to_come_again_and_kubectl_still_gets_its_answer(
    world: World, tmp_path: Path
) -> None:
    config = tmp_path / "kubeconfig"
    write_kubeconfig(config, server=f"https://127.0.0.1:{world.https}", ca=world.ca, token=world.token)
    kubectl = Kubectl(kubectl_binaries()[0], config, tmp_path / "cache")
    refused = [answer for answer in (world.get(f"{BASE}/clusters") for _ in range(400)) if answer[0] == 429]
    assert refused and all(int(after) >= 1 and body["reason"] == "TooManyRequests" for _, body, after in refused)
    assert "clusters" in kubectl("api-resources").stdout


def test_a_watch_goes_on_where_it_was_over_a_restart_of_the_server(world: World) -> None:
    until(lambda: world.get(f"{BASE}/clusters")[0] == 200)
    api = world.api()
    start = api.list_cluster_custom_object("fleet.dev", "v1", "clusters")["metadata"]["resourceVersion"]
    seen: list[str] = []
    stream = watch.Watch()
    ended = threading.Event()

    def follow() -> None:
        """As client-go's reflector does: again from the last version whenever the stream ends."""
        version = start
        while not ended.is_set():
            try:
                for event in stream.stream(
                    api.list_cluster_custom_object, "fleet.dev", "v1", "clusters", resource_version=version, timeout_seconds=30
                ):  # fmt: skip
                    version = event["object"]["metadata"]["resourceVersion"]
                    seen.append(f"{event['type']} {event['object']['metadata']['name']}")
            except Exception as error:  # whatever the client makes of a server that is gone
                assert not isinstance(error, client.ApiException) or error.status in (429, 503), error
                ended.wait(0.2)

    following = threading.Thread(target=follow)
    following.start()
    try:
        world.make("one")
        until(lambda: seen == ["ADDED one"])
        world.stop(signal.SIGKILL)
        world.serve()
        world.make("two")
        until(lambda: len(seen) >= 2)
    finally:
        ended.set()
        stream.stop()
        world.make("three")  # ends a stream that waits
        following.join(WAIT_SECONDS)
    assert seen[:2] == ["ADDED one", "ADDED two"]


def test_a_server_that_is_asked_to_end_ends_well_and_leaves_no_trace_in_its_log(world: World) -> None:
    code = world.stop()
    assert code == 0
    assert "Traceback" not in (world.home / "server.log").read_text().split("ready")[-1]
    world.serve()


def test_a_port_in_use_is_one_sentence(world: World) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "serve", "--http", f"127.0.0.1:{world.http}"],
        cwd=ROOT, env=world.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"cannot listen on 127.0.0.1:{world.http}" in done.stderr
    assert "Traceback" not in done.stderr


async def test_an_answer_in_two_parts_does_not_wait_for_the_clients_acknowledgement() -> None:
    """Nagle's delay is off on accepted connections: it costs 40 ms an answer on every kept connection."""
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = bind("127.0.0.1:0")
    async with await asyncio.start_server(accept, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await seen
        writer.close()
        await writer.wait_closed()
