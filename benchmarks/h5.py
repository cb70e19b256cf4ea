"""H5: looking at hosts over SSH: first contact, and the pass that finds nothing to do, against bare asyncssh on the same wire.

The hosts are one light SSH server in a process of its own, reached under many loopback addresses; its CPU is not counted. It answers
every command with what a Debian host really answered, under the nonce of the question.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from multiprocessing.connection import Connection
from typing import Any

import asyncssh

from benchmarks.harness import Run
from benchmarks.world import World
from machines.hosts import Facts, Login, Target
from machines.ssh import SshHosts

HOSTS = {"S": 60, "M": 400, "L": 1_000}
_NONCE = re.compile(rb"[0-9a-f]{24}")
# The shape of an answer; @@NONCE marks its sections (see machines.observe).
_BARE = b"debian 6.1.0-26-amd64\n" * 60


def _serve(pipe: Connection, key: str) -> None:
    """The server's process: counts commands, answers the observe script by running it once and remembering the answer."""
    asyncio.run(_run(pipe, key))


async def _run(pipe: Connection, key: str) -> None:
    counted = 0
    answers: dict[bytes, bytes] = {}

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal counted
        counted += 1
        script = await process.stdin.read()
        nonce = _NONCE.search(script)
        if nonce is None:
            process.stdout.write(_BARE)
        else:
            shape = script.replace(nonce[0], b"NONCE")
            if shape not in answers:
                answers[shape] = await _really(shape)
            process.stdout.write(answers[shape].replace(b"NONCE", nonce[0]))
        process.exit(0)

    server = await asyncssh.create_server(
        Server, "0.0.0.0", 0, server_host_keys=[asyncssh.import_private_key(key)], process_factory=answer, encoding=None
    )
    pipe.send(server.sockets[0].getsockname()[1])
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, pipe.recv):
        pipe.send(counted)
    server.close()


async def _really(script: bytes) -> bytes:
    """What this machine answers to the script."""
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-s",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await shell.communicate(script)
    return out


class Measure:
    title = "SSH: look at every host; first contact and the pass that finds nothing to do"
    target = "first contact at most 1.5x floor CPU, steady check at most 1.3x exec floor; one command per host"

    def prepare(self, world: World) -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        text = key.export_private_key().decode()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, text), daemon=True)
        self._process.start()
        self._pipe, self._port = ours, ours.recv()
        self._line = key.export_public_key().decode().strip()
        self._known = asyncssh.import_known_hosts(f"* {self._line}\n")
        self._count = HOSTS[world.size]
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        login = Login("root", private_key=self._key.export_private_key().decode())
        self._targets = [
            Target(key=n, uid=f"u{n}", name=f"h{n}", address=self._address(n), port=self._port, login=login, host_keys=(self._line,), packages=("dpkg",), files=("/etc/hostname", "/etc/fstab"))
            for n in range(self._count)
        ]  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._hosts = SshHosts(allowed=lambda address: None, limit_of=lambda idc: 5_000)
        self._kept: list[asyncssh.SSHClientConnection] = []
        self._steady: dict[str, list[float]] = {"floor": [], "ours": []}

    def _address(self, number: int) -> str:
        return f"127.1.{number // 250}.{number % 250 + 1}"

    def reset(self, world: World, who: str) -> None:
        """Nobody is connected; the server's count starts again."""
        self._loop.run_until_complete(self._disconnect())
        self._pipe.send(True)
        self._before = int(self._pipe.recv())

    async def _disconnect(self) -> None:
        await self._hosts.close()
        for connection in self._kept:
            connection.close()
        self._kept = []

    def _timed(
        self, who: str, first: Callable[[], Coroutine[Any, Any, Any]], again: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Run:
        result = self._loop.run_until_complete(first())
        cpu = time.process_time()
        result = self._loop.run_until_complete(again())
        steady = (time.process_time() - cpu) / self._count * 1_000
        return Run(count=self._count, result=result, figures={"steady_cpu_ms_per_host": steady})

    def floor(self, world: World) -> Run:
        """asyncssh with the same algorithms: connect and one command; then one command on the kept connection."""

        async def connect(number: int) -> bytes:
            connection = await asyncssh.connect(
                self._address(number), self._port, username="root", known_hosts=self._known, client_keys=[self._key], config=None, agent_path=None,
                kex_algs=["curve25519-sha256"], encryption_algs=["aes128-gcm@openssh.com"], server_host_key_algs=["ssh-ed25519"], compression_algs=["none"],
            )  # fmt: skip
            self._kept.append(connection)
            return await command(connection)

        async def command(connection: asyncssh.SSHClientConnection) -> bytes:
            done = await connection.run("sh -s", input=b"true\n", encoding=None)
            assert isinstance(done.stdout, bytes)
            return done.stdout

        async def first() -> list[bytes]:
            return list(await asyncio.gather(*(connect(n) for n in range(self._count))))

        async def again() -> list[bytes]:
            return list(await asyncio.gather(*(command(c) for c in self._kept)))

        return self._timed("floor", first, again)

    def ours(self, world: World) -> Run:
        """The ssh driver: connect, look, read the facts; then the same on kept connections."""

        async def look() -> list[Facts]:
            return await self._hosts.observe(self._targets)

        return self._timed("ours", look, look)

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {}

    def check(self, world: World, who: str, run: Run) -> None:
        """Every host answered, and was asked exactly once a pass."""
        self._pipe.send(True)
        asked = int(self._pipe.recv()) - self._before
        assert asked == 2 * self._count, f"{asked} commands for {self._count} hosts in two passes"
        assert len(run.result) == self._count
        if who == "ours":
            wrong = [f.reason for f in run.result if not f.seen or "dpkg" not in f.packages]
            assert not wrong, wrong[:3]
        else:
            assert all(text == _BARE for text in run.result)

    def figures(self, world: World) -> Mapping[str, float]:
        """Nothing besides; the server ends here."""
        self._loop.run_until_complete(self._disconnect())
        self._pipe.send(False)
        self._process.join(5)
        return {}
