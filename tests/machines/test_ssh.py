"""`SshHosts` against an SSH server of this process that behaves, hangs, lies and breaks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import asyncssh
import pytest

from machines.hosts import Action, Facts, Login, StepOrder, StepRef, Target, WantedPackage
from machines.ssh import Limits, SshHosts, command_line
from machines.ssh_connect import explain
from tests.machines.sandbox import Sandbox

USER_KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER_KEY = asyncssh.generate_private_key("ssh-ed25519")
QUICK = Limits(pass_seconds=6, connect_seconds=2, open_seconds=1, command_seconds=4)


@lru_cache  # each export has other random bytes in it, and would be another login
def pem(key: asyncssh.SSHKey) -> str:
    return key.export_private_key().decode()


def line(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


class Host:
    """A machine whose shell runs in a sandbox folder; `mode` says how it misbehaves."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.mode, self.connections = sandbox, "good", 0
        self.commands: list[str | None] = []
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.open: list[asyncssh.SSHServerConnection] = []
        self.all_closed = asyncio.Event()
        self.peak = 0

    async def start(self, port: int = 0) -> None:
        host = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                host.connections += 1
                self.connection = conn
                host.open.append(conn)
                host.peak = max(host.peak, len(host.open))

            def connection_lost(self, exc: Exception | None) -> None:
                host.open.remove(self.connection)
                host.all_closed.set()

            def begin_auth(self, username: str) -> bool:
                return True

            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                return password == "secret"

            def public_key_auth_supported(self) -> bool:
                return True

            def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
                return key == USER_KEY.convert_to_public()

        keys = [self.key]
        self.server = await asyncssh.create_server(
            Server, "127.0.0.1", port, server_host_keys=keys, process_factory=self.serve, encoding=None
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        for connection in list(self.open):
            connection.abort()
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.commands.append(process.command)
        script = b""
        with contextlib.suppress(asyncssh.Error):
            script = await process.stdin.read()
        if self.mode == "hang":
            await asyncio.sleep(30)
        elif self.mode == "sudo":
            process.stderr.write(b"sudo: a password is required\n")
            process.exit(1)
        elif self.mode == "motd":
            process.stdout.write(b"This account is closed.\n")
            process.exit(1)
        elif self.mode == "flood":
            with contextlib.suppress(asyncssh.Error, OSError):
                for _ in range(200):
                    process.stdout.write(b"x" * 65536)
                    await process.stdout.drain()
        else:
            await self.run(process, script)

    async def run(self, process: asyncssh.SSHServerProcess[bytes], script: bytes) -> None:
        shell = await asyncio.create_subprocess_exec(
            "/bin/sh", "-s", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=self.sandbox.environment
        )
        output, _ = await shell.communicate(script)
        if self.mode == "drop":
            process.stdout.write(output[: len(output) // 2])
            process.channel.get_connection().abort()
            return
        process.stdout.write(output)
        process.exit(shell.returncode or 0)

    def target(self, **more: object) -> Target:
        known = Target(
            key=1, uid="uid-1", name="m1", address="127.0.0.1", port=self.port, idc="ea",
            login=Login(private_key=pem(USER_KEY)), host_keys=(line(self.key),),
        )  # fmt: skip
        return replace(known, **more)  # type: ignore[arg-type]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    machine = Host(Sandbox(tmp_path / "host"))
    await machine.start()
    yield machine
    await machine.stop()
    machine.sandbox.kill_units()


@pytest.fixture
async def hosts() -> AsyncIterator[SshHosts]:
    driver = SshHosts(allowed=lambda address: None, limits=QUICK)
    yield driver
    await driver.close()


async def see(hosts: SshHosts, target: Target) -> Facts:
    return (await hosts.observe([target]))[0]


async def test_a_host_is_seen_by_one_command_on_a_kept_connection(host: Host, hosts: SshHosts) -> None:
    facts = [await see(hosts, host.target()) for _ in range(3)]
    assert all(fact.seen and fact.boot_id for fact in facts)
    assert (host.connections, len(host.commands)) == (1, 3)
    assert set(host.commands) == {"/bin/sh -s"}


async def test_another_user_goes_through_sudo(host: Host, hosts: SshHosts) -> None:
    facts = await see(hosts, host.target(login=Login("fleet", private_key=pem(USER_KEY))))
    assert facts.seen
    assert host.commands == ["sudo -n -- /bin/sh -s"]


async def test_a_password_enters_too(host: Host, hosts: SshHosts) -> None:
    assert (await see(hosts, host.target(login=Login(password="secret")))).seen


NO_CONTACT = {
    "no key enrolled": (lambda t: replace(t, host_keys=()), "HostKeyNotEnrolled"),
    "an unreadable key": (lambda t: replace(t, host_keys=("ssh-ed25519 nonsense",)), "HostKeyNotEnrolled"),
    "no login": (lambda t: replace(t, login=None), "NoCredential"),
    "an empty login": (lambda t: replace(t, login=Login()), "NoCredential"),
    "an unreadable private key": (lambda t: replace(t, login=Login(private_key="nonsense")), "CredentialInvalid"),
    "a name that may not reach a shell": (lambda t: replace(t, units=("a;b",)), "InvalidTarget"),
    "a name that does not resolve": (lambda t: replace(t, address="no.such.host.invalid"), "AddressUnknown"),
}


@pytest.mark.parametrize("change,reason", NO_CONTACT.values(), ids=NO_CONTACT)
async def test_nothing_is_sent_to_a_host_with(
    host: Host, hosts: SshHosts, change: Callable[[Target], Target], reason: str
) -> None:
    facts = await see(hosts, change(host.target()))
    assert (facts.reason, host.connections) == (reason, 0)
    assert facts.message


async def test_an_address_that_is_not_allowed_is_not_connected_to(host: Host) -> None:
    hosts = SshHosts(allowed=lambda address: f"{address} is loopback" if address.startswith("127.") else None)
    for address in ("127.0.0.1", "localhost"):
        facts = await see(hosts, host.target(address=address))
        assert facts.reason == "AddressRefused"
        assert "is loopback" in facts.message
    assert host.connections == 0
    await hosts.close()


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"], ids=["same kind", "other kind"])
async def test_a_swapped_host_key_is_refused_and_gets_no_command(host: Host, hosts: SshHosts, kind: str) -> None:
    enrolled = host.target()
    assert (await see(hosts, enrolled)).seen
    await host.stop()
    host.key = asyncssh.generate_private_key(kind)
    await host.start(host.port)
    commands = len(host.commands)
    facts = await see(hosts, enrolled)
    assert (facts.reason, len(host.commands)) == ("HostKeyMismatch", commands)
    assert "127.0.0.1" in facts.message
    assert (await see(hosts, host.target())).seen


async def test_a_login_that_is_refused_says_so(host: Host, hosts: SshHosts) -> None:
    facts = await see(hosts, host.target(login=Login(private_key=pem(OTHER_KEY))))
    assert facts.reason == "AuthenticationFailed"
    assert f"127.0.0.1 port {host.port} refuses the login of user root" in facts.message


async def test_a_closed_port_is_refused(host: Host, hosts: SshHosts) -> None:
    await host.stop()
    assert (await see(hosts, host.target())).reason == "ConnectionRefused"
    await host.start(host.port)


async def test_a_port_that_is_silent_times_out(host: Host, hosts: SshHosts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        facts = await see(hosts, host.target(port=silent.getsockname()[1]))
    assert facts.reason == "Timeout"
    assert "did not answer within" in facts.message


async def test_a_port_that_speaks_something_else_is_named(host: Host, hosts: SshHosts) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2000)
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    facts = await see(hosts, host.target(port=server.sockets[0].getsockname()[1]))
    assert facts.reason in ("ProtocolError", "Disconnected")
    server.close()
    await server.wait_closed()


MODES = {
    "hang": ("hang", "Timeout"),
    "a sudo that asks": ("sudo", "SudoRefused"),
    "a forced command": ("motd", "Garbled"),
    "a flood": ("flood", "Garbled"),
    "a drop in the middle": ("drop", "Disconnected"),
}


@pytest.mark.parametrize("mode,reason", MODES.values(), ids=MODES)
async def test_a_host_that_misbehaves_gets_its_reason(host: Host, hosts: SshHosts, mode: str, reason: str) -> None:
    host.mode = mode
    facts = await see(hosts, host.target(login=Login("fleet", private_key=pem(USER_KEY))))
    assert facts.reason == reason
    assert "127.0.0.1" in facts.message
    host.mode = "good"
    assert (await see(hosts, host.target(login=Login("fleet", private_key=pem(USER_KEY))))).seen


async def test_one_host_that_hangs_spoils_nobody(host: Host, hosts: SshHosts, tmp_path: Path) -> None:
    bad = Host(Sandbox(tmp_path / "bad"))
    await bad.start()
    bad.mode = "hang"
    targets = [host.target(), bad.target(), host.target(host_keys=()), host.target()]
    seen = await hosts.observe([replace(t, key=number) for number, t in enumerate(targets)])
    assert [facts.key for facts in seen] == [0, 1, 2, 3]
    assert [facts.reason for facts in seen] == ["", "Timeout", "HostKeyNotEnrolled", ""]
    await bad.stop()


async def test_a_kept_connection_that_died_is_opened_again(host: Host, hosts: SshHosts) -> None:
    assert (await see(hosts, host.target())).seen
    await host.stop()
    await host.start(host.port)
    assert (await see(hosts, host.target())).seen
    assert host.connections == 2


async def test_a_changed_login_does_not_use_the_old_connection(host: Host, hosts: SshHosts) -> None:
    assert (await see(hosts, host.target())).seen
    assert (await see(hosts, host.target(login=Login(private_key=pem(OTHER_KEY))))).reason == "AuthenticationFailed"


async def test_an_idc_has_no_more_connections_than_its_limit(host: Host) -> None:
    hosts = SshHosts(allowed=lambda address: None, limit_of=lambda idc: 2, limits=QUICK)
    logins = [Login(f"user{number}", private_key=pem(USER_KEY)) for number in range(7)]
    seen = await hosts.observe([host.target(login=login) for login in logins])
    assert all(facts.seen for facts in seen)
    assert host.peak <= 4  # of each of the two the server may see the end a moment after its successor begins
    await hosts.close()


async def test_a_host_without_a_turn_is_throttled_and_not_called_unreachable(host: Host) -> None:
    limits = replace(QUICK, pass_seconds=1.5, command_seconds=5)
    hosts = SshHosts(allowed=lambda address: None, limit_of=lambda idc: 1, limits=limits)
    host.mode = "hang"
    seen = await hosts.observe([host.target(), host.target()])
    assert [facts.reason for facts in seen] == ["Timeout", "Throttled"]
    await hosts.close()


async def test_idle_connections_are_closed(host: Host) -> None:
    hosts = SshHosts(allowed=lambda address: None, limits=replace(QUICK, idle_seconds=0.05))
    assert (await see(hosts, host.target())).seen
    async with asyncio.timeout(5):
        await host.all_closed.wait()
    await hosts.close()


def order(host: Host, *check: str, epoch: int = 1, operation: str = "op-1") -> StepOrder:
    package = WantedPackage("x", "1", (), health_check=check, health_timeout_seconds=20)
    action = Action("health-check", package=package)
    return StepOrder(host.target(), StepRef(operation, "01-check"), action, "inst-1", 1, epoch)


async def finished(hosts: SshHosts, begun: StepOrder) -> str:
    async with asyncio.timeout(20):
        while True:
            facts = await see(hosts, replace(begun.target, polls=(begun.ref,)))
            if facts.steps[begun.ref.folder].state != "Running":
                return facts.steps[begun.ref.folder].state
            await asyncio.sleep(0.05)


async def test_a_short_step_comes_back_with_its_end(host: Host, hosts: SshHosts) -> None:
    [result] = await hosts.act([order(host, "echo", "all is well")])
    assert (result.state, result.message) == ("Succeeded", "all is well")


async def test_a_long_step_is_started_and_polled(host: Host, hosts: SshHosts) -> None:
    long = order(host, "sleep", "3")
    assert [r.state for r in await hosts.act([long])] == ["Running"]
    assert await finished(hosts, long) == "Succeeded"


async def test_a_connection_lost_in_the_middle_loses_nothing(host: Host, hosts: SshHosts) -> None:
    counted = order(host, "sh", "-c", 'echo x >>"$FLEET_ROOT/effects"')
    host.mode = "drop"
    [lost] = await hosts.act([counted])
    assert (lost.state, lost.reason) == ("Unknown", "Disconnected")
    host.mode = "good"
    [again] = await hosts.act([counted])
    assert again.state in ("Running", "Succeeded")
    assert await finished(hosts, counted) == "Succeeded"
    assert (host.sandbox.root / "effects").read_text() == "x\n"


async def test_an_old_epoch_is_refused_by_the_host(host: Host, hosts: SshHosts) -> None:
    await hosts.act([order(host, "true", epoch=2)])
    [result] = await hosts.act([order(host, "true", epoch=1, operation="op-2")])
    assert (result.state, result.reason) == ("Refused", "StaleEpoch")


async def test_an_action_that_may_not_reach_a_shell_is_refused_here(host: Host, hosts: SshHosts) -> None:
    bad = replace(order(host, "true"), action=Action("restart-units", names=("a;b",)))
    [result] = await hosts.act([bad])
    assert (result.state, result.reason, host.connections) == ("Refused", "InvalidAction", 0)
    assert "names[0]" in result.message


async def test_an_unreachable_host_leaves_the_step_unknown(host: Host, hosts: SshHosts) -> None:
    await host.stop()
    [result] = await hosts.act([order(host, "true")])
    assert (result.state, result.reason) == ("Unknown", "ConnectionRefused")
    await host.start(host.port)


async def test_a_host_key_signed_by_the_enrolled_authority_is_trusted(tmp_path: Path, hosts: SshHosts) -> None:
    authority = asyncssh.generate_private_key("ssh-ed25519")
    machine = Host(Sandbox(tmp_path / "host"))
    certificate = authority.generate_host_certificate(machine.key, "m1", principals=["127.0.0.1"])
    machine.key = (machine.key, certificate)  # type: ignore[assignment]
    await machine.start()
    target = Target(
        1, "uid-1", "m1", "127.0.0.1", port=machine.port, login=Login(private_key=pem(USER_KEY)),
        host_keys=("@cert-authority " + line(authority),),
    )  # fmt: skip
    assert (await see(hosts, target)).seen
    assert (
        await see(hosts, replace(target, host_keys=("@cert-authority " + line(OTHER_KEY),)))
    ).reason == "HostKeyMismatch"
    await machine.stop()


def test_secrets_are_in_no_repr() -> None:
    shown = repr(Login(private_key="KEY", passphrase="PHRASE", password="WORD"))
    assert not any(secret in shown for secret in ("KEY", "PHRASE", "WORD"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(113, "No route to host"), "NoRoute"),
        (OSError(101, "Network is unreachable"), "NoRoute"),
        (OSError(110, "Connection timed out"), "Timeout"),
        (ConnectionResetError(104, "reset"), "Disconnected"),
        (asyncssh.ProtocolError("x"), "ProtocolError"),
        (asyncssh.KeyExchangeFailed("No matching server host key algorithm found"), "HostKeyMismatch"),
        (asyncssh.KeyExchangeFailed("No matching key exchange algorithm found"), "ProtocolError"),
    ],
)
def test_an_error_has_a_reason_and_names_the_address(error: Exception, reason: str) -> None:
    told = explain(Target(1, "u", "m", "192.0.2.7"), error, 6)
    assert (told.reason, "192.0.2.7" in told.message) == (reason, True)


def test_a_command_line_is_quoted() -> None:
    assert command_line(["echo", "$(id)", "a b"]) == "echo '$(id)' 'a b'"
