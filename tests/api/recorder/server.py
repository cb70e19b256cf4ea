"""A kube-apiserver with its etcd on loopback, for as long as a `with` block lasts."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.api.recorder.kinds import KINDS, definition
from tests.api.recorder.probe import BASE, Reply

_TOKEN = "recorder"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Reference:
    """Speaks to the running apiserver."""

    def __init__(self, port: int, certificate: Path) -> None:
        self._port = port
        # The apiserver signs its certificate itself, for its service name; only that very certificate is trusted.
        self._context = ssl.create_default_context(cafile=str(certificate))
        self._context.check_hostname = False

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """One request over a connection of its own."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=30)
        try:
            sent = {"Accept": "application/json", "User-Agent": "recorder/1", "Authorization": f"Bearer {_TOKEN}"}
            connection.request(method, path, body or None, {**sent, **headers})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        kind = response.headers.get("Content-Type", "")
        parsed: Any = json.loads(data) if kind.startswith("application/json") else data.decode()
        return Reply(response.status, parsed, tuple(response.headers.get_all("Warning") or ()), kind)


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def reference(assets: Path) -> Iterator[Reference]:
    """Start etcd and the apiserver (in that order; stopped in the other), install the kinds, wait until they are served."""
    with tempfile.TemporaryDirectory(prefix="fleet-recorder-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        client, peer, secure = _free_port(), _free_port(), _free_port()
        urls = [f"http://127.0.0.1:{port}" for port in (client, peer)]
        etcd = [
            str(assets / "etcd"), "--data-dir", str(home / "etcd"), "--unsafe-no-fsync", "--listen-client-urls", urls[0],
            "--advertise-client-urls", urls[0], "--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1],
            "--initial-cluster", f"default={urls[1]}",
        ]  # fmt: skip
        stack.enter_context(_process(etcd, home / "etcd.log"))
        command = [str(assets / "kube-apiserver"), *_flags(home, urls[0], secure)]
        server = stack.enter_context(_process(command, home / "apiserver.log"))
        certificate = home / "certs" / "apiserver.crt"
        _wait(server, certificate, secure, home / "apiserver.log")
        out = Reference(secure, certificate)
        for kind in KINDS:
            body = json.dumps(definition(kind)).encode()
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            reply = out.send("POST", path, {"Content-Type": "application/json"}, body)
            if reply.code != 201:
                raise RuntimeError(f"the definition of {kind.kind} was refused: {reply.body}")
        _until_served(out)
        yield out


def _flags(home: Path, etcd: str, port: int) -> list[str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (home / "sa.key").write_bytes(private)
    (home / "sa.key").chmod(0o600)
    (home / "tokens").write_text(f'{_TOKEN},recorder,1,"system:masters"\n')
    return [
        f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={home / 'certs'}",
        f"--token-auth-file={home / 'tokens'}", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://recorder", f"--service-account-key-file={home / 'sa.key'}",
        f"--service-account-signing-key-file={home / 'sa.key'}", "--advertise-address=127.0.0.1",
        "--enable-priority-and-fairness=false", "--endpoint-reconciler-type=none",
    ]  # fmt: skip


def _wait(process: subprocess.Popen[bytes], certificate: Path, port: int, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"kube-apiserver ended: {log.read_text()[-3000:]}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if certificate.exists() and Reference(port, certificate).send("GET", "/readyz", {}, b"").code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"kube-apiserver did not get ready: {log.read_text()[-3000:]}")


def _until_served(server: Reference) -> None:
    """Kinds are served a moment after their definition; their OpenAPI, which applies need, a moment later."""
    for _ in range(300):
        answer = server.send("GET", "/openapi/v3", {}, b"")
        documents = json.loads(answer.body)["paths"] if isinstance(answer.body, str) else answer.body.get("paths", {})
        served = all(server.send("GET", f"{BASE}/{kind.plural}", {}, b"").code == 200 for kind in KINDS)
        if served and BASE.lstrip("/") in documents:
            return
        time.sleep(0.1)
    raise RuntimeError("the kinds were not served within 30 seconds")
