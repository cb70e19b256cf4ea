"""A database and a web process of a test module's own, which may be killed and come back."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from nacl.public import PrivateKey

from fleet.dev.certificates import ensure_certificates
from fleet.dev.services import Postgres, ServiceError
from tests.api.http import BASE, Http, Reply
from tests.servers import ROOT, free_port

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

    def __init__(self, home: Path, data: Path | None = None) -> None:
        self.home = home
        self.postgres = Postgres(
            data=data or home / "pg", sockets=home / "s", settings={"fsync": "off"}, log=home / "pg.log"
        )
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

    def serve(self, **settings: str) -> None:
        command = [sys.executable, "manage.py", "serve", "--http", f"127.0.0.1:{self.http}", "--https", f"127.0.0.1:{self.https}"]  # fmt: skip
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--certfile", str(self.certificate), "--keyfile", str(self.key)],
                cwd=ROOT, env={**self.environment, **settings}, stdout=log, stderr=log,
            )  # fmt: skip
        until(lambda: self.get("/readyz")[0] == 200)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the web process; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def start_database(self) -> None:
        """Start it, again where processes of the killed one have not all gone yet."""

        def started() -> bool:
            try:
                self.postgres.start()
            except ServiceError:
                return False
            return True

        until(started)

    def kill_database(self) -> None:
        assert self.postgres.process is not None
        os.kill(self.postgres.process.pid, signal.SIGKILL)
        self.postgres.process.wait()

    def get(self, path: str) -> tuple[int, Any, str]:
        """(code, body, Retry-After); code 0 = nobody answers."""
        try:
            with Http(f"http://127.0.0.1:{self.http}", {"Authorization": f"Bearer {self.token}"}) as http:
                reply = http("GET", path)
        except OSError:
            return 0, None, ""
        return reply.status, reply.json, reply.headers.get("Retry-After", "")

    def text(self, path: str) -> str:
        with Http(f"http://127.0.0.1:{self.http}", {"Authorization": f"Bearer {self.token}"}) as http:
            return http("GET", path).data.decode()

    def send(self, method: str, path: str, body: Any) -> Reply:
        with Http(f"http://127.0.0.1:{self.http}", {"Authorization": f"Bearer {self.token}"}) as http:
            return http(method, path, body, Content_Type="application/json")

    def make(self, name: str) -> None:
        codes: list[int] = []

        def made() -> bool:
            """As a client does that is told to come again."""
            codes.append(self.send("POST", f"{BASE}/clusters", cluster(name)).status)
            return codes[-1] not in (429, 503)

        until(made)
        assert codes[-1] == 201

    def api(self) -> client.CustomObjectsApi:
        """The official Python client."""
        settings = client.Configuration(host=f"https://127.0.0.1:{self.https}")
        settings.ssl_ca_cert = str(self.ca)
        settings.api_key = {"authorization": f"Bearer {self.token}"}
        return client.CustomObjectsApi(client.ApiClient(settings))


def cluster(name: str) -> Any:
    return {"apiVersion": "fleet.dev/v1", "kind": "Cluster", "metadata": {"name": name}, "spec": {"idc": "a"}}


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
