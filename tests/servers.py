"""Pytest plugin: a real server of the real application over TLS, people with roles, kubectl."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.conf import settings

from fleet.dev.certificates import ensure_certificates, write_kubeconfig

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """Addresses of a running server and its CA."""

    http: str
    https: str
    ca: Path


@pytest.fixture(scope="session")
def server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`manage.py serve` in a process of its own, on the test database."""
    home = tmp_path_factory.mktemp("server")
    ca, certificate, key = ensure_certificates(home)
    http, https = free_port(), free_port()
    url = os.environ["DATABASE_URL"].replace("/fleet?", f"/{settings.DATABASES['default']['NAME']}?")
    environment = {**os.environ, "DATABASE_URL": url, "PYTHONWARNINGS": "default"}
    command = [sys.executable, "manage.py", "serve", "--http", f"127.0.0.1:{http}", "--https", f"127.0.0.1:{https}"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--certfile", str(certificate), "--keyfile", str(key)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        _wait(process, http, home / "log")
        yield Server(f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}", ca)
    finally:
        process.terminate()
        process.wait(20)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server did not get ready: {log.read_text()[-2000:]}")


@dataclass(frozen=True)
class People:
    """Tokens by who: admin, viewer, operator of cluster a, operator of b, stranger (no role)."""

    tokens: dict[str, str]

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[who]}"}


ROLES = {
    "admin": [("admin", "")],
    "viewer": [("viewer", "")],
    "oper-a": [("operator", "a")],
    "oper-b": [("operator", "b")],
    "stranger": [],
}


@pytest.fixture
def people(fleet_db: None) -> People:
    """Users with one role each and a token."""
    from django.contrib.auth import get_user_model

    from fleet.api.authentication import create_token, forget
    from fleet.api.models import RoleBinding

    tokens = {}
    forget()
    for who, bindings in ROLES.items():
        user = get_user_model().objects.create_user(username=who, password=None)
        for role, cluster in bindings:
            RoleBinding.objects.create(user=user, role=role, cluster=cluster)
        tokens[who] = create_token(user, "test", days=1)
    return People(tokens)


@dataclass(frozen=True)
class Kubectl:
    """A kubectl binary with a kubeconfig of its own."""

    binary: str
    kubeconfig: Path
    cache: Path

    def __call__(
        self, *arguments: str, stdin: str | None = None, ok: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.binary, "--kubeconfig", str(self.kubeconfig), "--cache-dir", str(self.cache), *arguments],
            input=stdin, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if ok and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done


def kubectl_binaries() -> list[str]:
    """The kubectl that the development requirements bring, and the machine's own where it has one."""
    found = [str(p) for p in (Path(sys.prefix) / "bin").glob("kubectl*") if os.access(p, os.X_OK)]
    return found + [p for p in ("/usr/bin/kubectl", "/usr/local/bin/kubectl") if os.access(p, os.X_OK)]


@pytest.fixture
def kubectl(server: Server, people: People, tmp_path: Path) -> Kubectl:
    """kubectl as admin, with a cold cache."""
    config = tmp_path / "kubeconfig"
    write_kubeconfig(config, server=server.https, ca=server.ca, token=people.tokens["admin"])
    return Kubectl(kubectl_binaries()[0], config, tmp_path / "cache")


V1 = "fleet.dev/v1"


@pytest.fixture
def small_fleet(people: People) -> list[str]:
    """Names of machines: a1, a2 in cluster a, b1 in cluster b."""
    from fleet.api.actions import Write, create_object
    from fleet.api.rights import SYSTEM

    write = Write(by=SYSTEM)
    for cluster in ("a", "b"):
        create_object(
            "clusters",
            {"apiVersion": V1, "kind": "Cluster", "metadata": {"name": cluster}, "spec": {"idc": "iad1"}},
            write=write,
        )
    for number, (name, cluster) in enumerate((("a1", "a"), ("a2", "a"), ("b1", "b"))):
        spec = {
            "clusterName": cluster,
            "idc": "iad1",
            "ip": f"10.9.0.{number + 1}",
            "serialNumber": f"SN{number}",
            "versions": {"pouch": "1.0"},
        }
        create_object(
            "machines", {"apiVersion": V1, "kind": "Machine", "metadata": {"name": name}, "spec": spec}, write=write
        )
    return ["a1", "a2", "b1"]
