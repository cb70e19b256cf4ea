"""The web process ends, is killed, refuses for a while: who asks is told when to come again, and what was begun is finished."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest
import urllib3
from kubernetes import client, watch

from fleet.api.management.commands.serve import bind
from fleet.dev.certificates import write_kubeconfig
from tests.api.http import BASE
from tests.api.world import WAIT_SECONDS, World, cluster, until, world
from tests.servers import ROOT, Kubectl, kubectl_binaries

__all__ = ["world"]


@pytest.fixture
def kubectl(world: World, tmp_path: Path) -> Kubectl:
    config = tmp_path / "kubeconfig"
    write_kubeconfig(config, server=f"https://127.0.0.1:{world.https}", ca=world.ca, token=world.token)
    return Kubectl(kubectl_binaries()[0], config, tmp_path / "cache")


def test_who_asks_too_much_is_told_when_to_come_again_and_kubectl_comes_again_by_itself(
    world: World, kubectl: Kubectl
) -> None:
    world.stop()
    world.serve(FLEET_REQUESTS_PER_SECOND="0.5")
    told: list[str] = []

    def refused_once() -> bool:
        """kubectl begins while nothing is left; were it so slow that there is something again, it tries anew."""
        until(lambda: world.get(f"{BASE}/clusters")[0] == 429)
        told.append(kubectl("get", "--raw", f"{BASE}/clusters", "-v=6").stderr)
        return "429 Too Many Requests" in told[-1]

    try:
        code, body, after = next(a for a in iter(lambda: world.get(f"{BASE}/clusters"), None) if a[0] != 200)
        assert (code, body["reason"], int(after) >= 1) == (429, "TooManyRequests", True)
        until(refused_once)
        assert "200 OK" in told[-1].split("429 Too Many Requests")[-1]
    finally:
        world.stop()
        world.serve()


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


def test_a_request_in_flight_is_answered_in_full_before_the_process_ends(world: World) -> None:
    body = json.dumps(cluster("in-flight")).encode()
    head = (
        f"POST {BASE}/clusters HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {world.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    assert world.process is not None
    with socket.create_connection(("127.0.0.1", world.http), WAIT_SECONDS) as client:
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")  # it waits for the body
        world.process.send_signal(signal.SIGTERM)
        until(lambda: world.get("/readyz")[0] == 0)
        client.sendall(body)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["metadata"]["name"]) == (201, "in-flight")
    assert world.process.wait(WAIT_SECONDS) == 0
    world.serve()
    assert world.get(f"{BASE}/clusters/in-flight")[0] == 200


@pytest.mark.parametrize("path", [f"{BASE}/clusters", "/api/v1/events"])
def test_a_watch_ends_in_good_order_with_its_position_when_the_server_is_asked_to_end(world: World, path: str) -> None:
    address = f"http://127.0.0.1:{world.http}{path}?watch=1&allowWatchBookmarks=true"
    start = world.get(path)[1]["metadata"]["resourceVersion"]
    headers = {"Authorization": f"Bearer {world.token}"}
    with urllib3.PoolManager() as pool:
        response = pool.request(
            "GET", f"{address}&resourceVersion={start}", headers=headers, preload_content=False, retries=False
        )
        assert response.status == 200
        assert world.stop() == 0
        lines = b"".join(response.stream()).splitlines()  # a stream that is cut raises
    world.serve()
    last = json.loads(lines[-1])
    assert (last["type"], int(last["object"]["metadata"]["resourceVersion"]) >= int(start)) == ("BOOKMARK", True)


@pytest.mark.parametrize("binary", kubectl_binaries())
def test_kubectl_follows_to_the_last_line_and_waits_on_over_a_restart(
    world: World, kubectl: Kubectl, binary: str
) -> None:
    """`get -w` follows one stream: it ends without a word when the server does; begun again, it tells what came meanwhile. `wait` comes again by itself."""
    name = f"watched-{kubectl_binaries().index(binary)}"
    world.make(name)
    command = [binary, "--kubeconfig", str(kubectl.kubeconfig), "--cache-dir", str(kubectl.cache)]
    follow = [*command, "get", "clusters", "-w", f"--field-selector=metadata.name={name}", "-o", "jsonpath={.metadata.labels.step}/"]  # fmt: skip
    wait = [*command, "wait", f"cluster/{name}", "--for=jsonpath={.metadata.labels.step}=3", "--timeout=120s", "-v=6"]
    following = subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    waiting = subprocess.Popen(wait, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert following.stdout is not None and waiting.stderr is not None
        read_until(following.stdout, "/")
        for line in waiting.stderr:
            if "watch=true" in line and "200 OK" in line:
                break
        kubectl("label", "cluster", name, "step=1")
        read_until(following.stdout, "1/")
        world.stop()
        assert following.wait(WAIT_SECONDS) == 0
        assert following.communicate() == ("", "")
        world.serve()
        kubectl("label", "cluster", name, "step=2", "--overwrite")
        following = subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert following.stdout is not None
        read_until(following.stdout, "2/")
        kubectl("label", "cluster", name, "step=3", "--overwrite")
        read_until(following.stdout, "3/")
        assert "condition met" in waiting.communicate(timeout=WAIT_SECONDS)[0]
    finally:
        for each in (following, waiting):
            each.kill()
            each.communicate()


def read_until(stream: IO[str], end: str) -> None:
    """Character by character: the form has no newlines. The next must end the text that is read."""
    text = ""
    while not text.endswith(end):
        text += stream.read(1) or pytest.fail(f"the stream ended after {text!r}")


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
