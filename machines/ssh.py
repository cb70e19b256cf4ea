"""`Hosts` over SSH: one command a host and pass, on kept connections, all hosts of a batch side by side."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shlex
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import asyncssh

from machines import fence, observe, observed
from machines.fence import clean
from machines.hosts import Facts, StepOrder, StepResult, Target
from machines.scripts import render
from machines.ssh_connect import Allowed, HostError, connect, connection_key, explain, where
from machines.ssh_pool import Pool

logger = logging.getLogger(__name__)
T = TypeVar("T")

OUTPUT_LIMIT: Final[int] = 8 * 1024 * 1024  # bytes of one answer; a host that sends more is cut off
ERROR_LIMIT: Final[int] = 256 * 1024
DEFAULT_LIMIT: Final[int] = 50  # connections per idc
INLINE_BYTES: Final[int] = 64 * 1024  # of a script; sshd's window is 2 MiB
EXCHANGES: Final[int] = 32  # key exchanges at a time, of all idcs: each takes some 10 ms of this process


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. A pass ends with its deadline whatever single hosts do."""

    pass_seconds: float = 20
    connect_seconds: float = 6
    open_seconds: float = 4  # until a kept connection has proved that it still lives
    command_seconds: float = 15
    idle_seconds: float = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What one command gave, with Fleet's clock around it (Unix seconds)."""

    stdout: bytes
    stderr: str
    exit_status: int | None
    sent: float
    received: float


class SshHosts:
    """The adapter of `hosts.Hosts` for real machines. Belongs to one event loop.

    `allowed` gives a sentence for an address that may not be connected to, else None; `limit_of` the most connections of
    an idc at once.
    """

    def __init__(
        self,
        *,
        allowed: Allowed,
        limit_of: Callable[[str], int] = lambda idc: DEFAULT_LIMIT,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._allowed, self._limit_of, self._limits, self._clock = allowed, limit_of, limits, clock
        self._pools: dict[str, Pool] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._exchanging = asyncio.Semaphore(EXCHANGES)
        asyncssh.set_log_level(logging.WARNING)  # its INFO lines cost more than the exchange of keys

    async def observe(self, targets: Sequence[Target]) -> list[Facts]:
        """See `Hosts.observe`."""
        deadline = asyncio.get_running_loop().time() + self._limits.pass_seconds

        async def look(target: Target) -> Facts:
            nonce = secrets.token_hex(12)
            script = observe.script(target, nonce)
            answer = await self._ask(target, script, deadline)
            self._must_begin(target, answer, f"@@{nonce} ")
            return observed.facts_from(target, nonce, answer.stdout, answer.sent, answer.received)

        return list(await asyncio.gather(*(_guarded(t, look(t), partial(Facts, t.key)) for t in targets)))

    async def act(self, orders: Sequence[StepOrder]) -> list[StepResult]:
        """See `Hosts.act`. A host that was not reached, or was lost in the middle, is Unknown: poll or start again."""
        deadline = asyncio.get_running_loop().time() + self._limits.pass_seconds

        async def start(order: StepOrder) -> StepResult:
            nonce = secrets.token_hex(12)
            try:
                script = fence.start_script(order, render(order.action), nonce)
            except ValueError as error:
                return StepResult(order.ref, "Refused", "InvalidAction", clean(str(error)))
            answer = await self._ask(order.target, script, deadline)
            self._must_begin(order.target, answer, f"@@{nonce} ")
            sections = observed.split(answer.stdout.decode("utf-8", errors="replace"), nonce)
            if "end" not in sections:
                raise HostError("Garbled", f"the answer of {where(order.target)} is cut short")
            return fence.parse_answer(order.ref, sections.get("step", []))

        return list(
            await asyncio.gather(*(_guarded(o.target, start(o), partial(StepResult, o.ref, "Unknown")) for o in orders))
        )

    async def close(self) -> None:
        """Close all kept connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    async def _ask(self, target: Target, script: str, deadline: float) -> Answer:
        """One command on a kept or fresh connection, before the deadline of the pass; HostError otherwise."""
        pool = self._pool(target.idc)
        in_turn = False

        async def open_connection() -> asyncssh.SSHClientConnection:
            nonlocal in_turn
            in_turn = True
            return await connect(target, self._allowed, self._limits.connect_seconds, self._exchanging)

        try:
            async with asyncio.timeout_at(deadline):
                for _ in range(2):
                    async with pool.lease(connection_key(target), open_connection) as lease:
                        in_turn = True
                        process = await self._open(target, lease.connection, lease.fresh)
                        if process is not None:
                            return await self._run(target, process, script)
                        lease.keep = False  # a kept connection that was dead: once more with a fresh one
        except TimeoutError:
            if not in_turn:
                message = f"{where(target)} was not looked at: all {self._limit_of(target.idc)} connections of idc {target.idc!r} were in use."
                raise HostError("Throttled", message) from None
            raise HostError(
                "Timeout", f"{where(target)} did not answer within {self._limits.pass_seconds:.0f} s."
            ) from None
        except (OSError, asyncssh.Error) as error:
            raise explain(target, error, self._limits.command_seconds) from None
        raise HostError("Disconnected", f"{where(target)} ends each connection before it takes a command.")

    async def _open(
        self, target: Target, connection: asyncssh.SSHClientConnection, fresh: bool
    ) -> asyncssh.SSHClientProcess[bytes] | None:
        """A shell that reads its script from stdin; None when a kept connection turns out to be dead."""
        try:
            async with asyncio.timeout(self._limits.connect_seconds if fresh else self._limits.open_seconds):
                return await connection.create_process(command_line(shell_argv(target)), encoding=None)
        except TimeoutError:
            if fresh:
                raise HostError("Timeout", f"{where(target)} took the connection but opens no session.") from None
        except (OSError, asyncssh.Error) as error:
            if fresh:
                raise explain(target, error, self._limits.open_seconds) from None
        return None

    async def _run(self, target: Target, process: asyncssh.SSHClientProcess[bytes], script: str) -> Answer:
        sent = self._clock()
        try:
            async with asyncio.timeout(self._limits.command_seconds):
                stdout, stderr = await _talk(process, script.encode())
                await process.wait_closed()
        except TimeoutError:
            message = f"{where(target)} did not finish the command within {self._limits.command_seconds:.0f} s."
            raise HostError("Timeout", message) from None
        except OverflowError:  # the connection goes with it: the rest is not waited for
            raise HostError("Garbled", f"{where(target)} answered with more than {OUTPUT_LIMIT} bytes.") from None
        if process.exit_status is None:
            raise HostError("Disconnected", f"{where(target)} was lost in the middle of the command.")
        text = stderr.decode("utf-8", errors="replace")
        return Answer(stdout, text, process.exit_status, sent, self._clock())

    def _must_begin(self, target: Target, answer: Answer, mark: str) -> None:
        """Without our mark the script did not run: sudo, a broken shell, or a forced command."""
        if mark.encode() in answer.stdout:
            return
        words = clean(" ".join(answer.stderr.split())[-400:])
        user = target.login.username if target.login else "?"
        if "sudo" in words and user != "root":
            raise HostError("SudoRefused", f"{where(target)}: user {user} may not run sudo without a password: {words}")
        raise HostError("Garbled", f"{where(target)} did not run the script (code {answer.exit_status}): {words}")

    def _pool(self, idc: str) -> Pool:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        if idc not in self._pools:
            self._pools[idc] = Pool(lambda: self._limit_of(idc), self._limits.idle_seconds)
        return self._pools[idc]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(30.0, self._limits.idle_seconds))
            for pool in self._pools.values():
                pool.drop_expired()


def shell_argv(target: Target) -> list[str]:
    """The one command ever run: a shell as root whose script comes by stdin."""
    if target.login is None or target.login.username == "root":
        return ["/bin/sh", "-s"]
    return ["sudo", "-n", "--", "/bin/sh", "-s"]


def command_line(argv: Sequence[str]) -> str:
    """The only place where words become a command line."""
    return shlex.join(argv)


async def _guarded(target: Target, work: Awaitable[T], failed: Callable[[str, str], T]) -> T:
    """One host's outcome; whatever goes wrong with it becomes a reason, never an exception of the batch."""
    try:
        return await work
    except HostError as error:
        return failed(error.reason, error.message)
    except ValueError as error:
        return failed("InvalidTarget", f"{where(target)}: {clean(str(error))}")
    except Exception as error:
        logger.exception("a host of a batch failed in an unforeseen way", extra={"machine": target.name})
        return failed("ProtocolError", f"{where(target)}: {type(error).__name__}: {clean(str(error))}")


async def _talk(process: asyncssh.SSHClientProcess[bytes], data: bytes) -> tuple[bytes, bytes]:
    """The script in, both outputs out. What fits into the channel's window goes without tasks of its own: they cost as much as the rest of a look."""
    if len(data) > INLINE_BYTES:
        _, stdout, stderr = await asyncio.gather(
            _feed(process, data), _read(process.stdout, OUTPUT_LIMIT), _read(process.stderr, ERROR_LIMIT)
        )
        return stdout, stderr
    with contextlib.suppress(OSError, asyncssh.Error):
        process.stdin.write(data)
        process.stdin.write_eof()
    return await _read(process.stdout, OUTPUT_LIMIT), await _read(process.stderr, ERROR_LIMIT)


async def _feed(process: asyncssh.SSHClientProcess[bytes], data: bytes) -> None:
    """The script by stdin. A host that closes its end early is judged by what it answered."""
    with contextlib.suppress(OSError, asyncssh.Error):
        process.stdin.write(data)
        await process.stdin.drain()
        process.stdin.write_eof()


async def _read(reader: asyncssh.SSHReader[bytes], limit: int) -> bytes:
    """All that comes, if it is not more than the limit; OverflowError otherwise."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await reader.read(65536):
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise OverflowError
    return b"".join(chunks)
