"""Opens one SSH connection under the rules: enrolled host keys only, allowed addresses only, no file of this machine read."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Final

import asyncssh

from machines.fence import clean
from machines.hosts import Login, Target

# Cheapest of what every sshd of the last ten years speaks: one X25519 exchange and AES-GCM done by the processor.
# Hosts without them still connect: the rest of the list follows.
KEX: Final = [
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "diffie-hellman-group14-sha256",
]
CIPHERS: Final = [
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
]
MACS: Final = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"]
CA_MARK: Final = "@cert-authority "  # an enrolled key may be the idc's host CA, as known_hosts writes it

Allowed = Callable[[str], str | None]


class HostError(Exception):
    """A host that cannot be used now: `reason` is one of `host_reasons.CONNECTION`, `message` names address and cause."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, clean(message)


def connection_key(target: Target) -> str:
    """What a kept connection is good for: the same address, login and trusted keys."""
    login = target.login or Login()
    parts = [target.address, str(target.port), login.username, login.private_key, login.passphrase, login.password]
    return hashlib.sha256(
        "\0".join([*(part or "" for part in parts), *target.host_keys]).encode("utf-8", "replace")
    ).hexdigest()


@lru_cache(maxsize=65536)
def public_key(text: str) -> asyncssh.SSHKey:
    """A host key parsed once; ValueError when it is none."""
    return asyncssh.import_public_key(text)


@lru_cache(maxsize=256)
def private_key(text: str, passphrase: str | None) -> asyncssh.SSHKey:
    """A login's key parsed once: with a passphrase its derivation alone takes longer than a whole connection."""
    return asyncssh.import_private_key(text, passphrase)


def trusted_keys(target: Target) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
    """Host keys, host CAs and revoked keys as asyncssh takes them. Never empty: nothing enrolled is a HostError."""
    keys: list[asyncssh.SSHKey] = []
    authorities: list[asyncssh.SSHKey] = []
    for line in target.host_keys:
        authority = line.startswith(CA_MARK)
        try:
            (authorities if authority else keys).append(public_key(line.removeprefix(CA_MARK).strip()))
        except (ValueError, asyncssh.Error) as error:
            raise HostError(
                "HostKeyNotEnrolled", f"{where(target)}: an enrolled host key is not readable: {error}"
            ) from None
    if not keys and not authorities:
        raise HostError("HostKeyNotEnrolled", f"No host key is enrolled for {where(target)}; nothing was sent.")
    return keys, authorities, []


def where(target: Target) -> str:
    """Address and port for messages."""
    return target.address if target.port == 22 else f"{target.address} port {target.port}"


async def address_of(target: Target, allowed: Allowed) -> str:
    """The IP address to connect to. A name is resolved here and the result pinned, so that DNS cannot change its answer."""
    try:
        found = [str(ipaddress.ip_address(target.address))]
    except ValueError:
        try:
            rows = await asyncio.get_running_loop().getaddrinfo(target.address, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise HostError("AddressUnknown", f"{target.address!r} does not resolve: {error}") from None
        found = [str(row[4][0]) for row in rows]
    for address in found:
        refusal = allowed(address)
        if refusal:
            raise HostError("AddressRefused", f"{where(target)}: {refusal}")
    return found[0]


async def _dial(address: str, port: int) -> socket.socket:
    """A TCP connection. Many hosts are dialled side by side: waiting for them costs nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(made, (address, port))
    except BaseException:
        made.close()
        raise
    return made


async def connect(
    target: Target, allowed: Allowed, seconds: float, turn: asyncio.Semaphore
) -> asyncssh.SSHClientConnection:
    """A fresh connection; HostError with its reason otherwise.

    `turn` bounds how many keys are exchanged side by side: that is this process's own work, and without a bound a batch of
    hundreds would run into the time limit that is meant for the host. The limit counts for the dial, and from the turn on.
    """
    login = target.login
    if login is None or not (login.private_key or login.password):
        raise HostError("NoCredential", f"No login is known for {where(target)}.")
    known_hosts = trusted_keys(target)
    try:
        keys = [private_key(login.private_key, login.passphrase)] if login.private_key else None
    except (ValueError, asyncssh.Error) as error:
        raise HostError("CredentialInvalid", f"The private key for {where(target)} cannot be read: {error}") from None
    address = await address_of(target, allowed)
    try:
        async with asyncio.timeout(seconds):
            dialled = await _dial(address, target.port)
        async with _turn(dialled, turn), asyncio.timeout(seconds):
            return await asyncssh.connect(
                sock=dialled,
                username=login.username,
                password=login.password,
                client_keys=keys,
                known_hosts=known_hosts,
                config=None,
                agent_path=None,
                gss_host=None,
                x509_trusted_certs=None,
                x509_trusted_cert_paths=(),
                preferred_auth=["publickey", "password"]
                if keys and login.password
                else ["publickey" if keys else "password"],
                kex_algs=KEX,
                encryption_algs=CIPHERS,
                mac_algs=MACS,
                compression_algs=["none"],
                connect_timeout=seconds,
                login_timeout=seconds,
                keepalive_interval=30,
                keepalive_count_max=2,
            )
    except (OSError, asyncssh.Error, ValueError) as error:
        raise explain(target, error, seconds) from None


@contextlib.asynccontextmanager
async def _turn(dialled: socket.socket, turn: asyncio.Semaphore) -> AsyncIterator[None]:
    """Wait for the turn; a socket that never became a connection is closed."""
    try:
        async with turn:
            yield
    except BaseException:
        dialled.close()
        raise


def explain(target: Target, error: Exception, seconds: float) -> HostError:
    """The reason and the sentence for an exception of a connection."""
    place = where(target)
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return HostError("Timeout", f"{place} did not answer within {seconds:.0f} s.")
    if isinstance(error, asyncssh.HostKeyNotVerifiable) or (
        isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in text.lower()
    ):
        return HostError("HostKeyMismatch", f"{place} shows another host key than the enrolled one; nothing was sent.")
    if isinstance(error, asyncssh.PermissionDenied):
        username = target.login.username if target.login else "?"
        return HostError("AuthenticationFailed", f"{place} refuses the login of user {username}: {text}")
    if isinstance(error, ConnectionRefusedError):
        return HostError("ConnectionRefused", f"Nothing listens at {place}.")
    if isinstance(error, asyncssh.ConnectionLost | ConnectionResetError | BrokenPipeError):
        return HostError("Disconnected", f"{place} ended the connection: {text}")
    if isinstance(error, OSError):
        if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL):
            return HostError("NoRoute", f"There is no route to {place}: {error.strerror or text}")
        if error.errno == errno.ETIMEDOUT:
            return HostError("Timeout", f"{place} did not answer: {error.strerror or text}")
        return HostError("Disconnected", f"{place}: {text}")
    return HostError("ProtocolError", f"{place} does not speak SSH as Fleet does: {text}")
