"""What every machine of the lab can do, however it is made: be entered by ssh, rebooted, cut off, stopped."""

from __future__ import annotations

import abc
import shlex
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.cgroups import ControlGroup
from lab.command import run
from lab.keys import SshKey, make_ssh_key
from lab.network import Slot
from lab.requirements import LabError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a machine stands: its lab's slot, its number there, its name, the lab's own key."""

    slot: Slot
    index: int
    name: str
    user_key: SshKey

    @property
    def folder(self) -> Path:
        """The machine's own folder."""
        return self.slot.folder / self.name

    @property
    def address(self) -> str:
        """The machine's address on the bridge."""
        return self.slot.address(self.index)


class Host(abc.ABC):
    """A machine. `host_key` is the line 'ssh-ed25519 AAAA...' that it shows at present."""

    kind: str = ""
    boot_seconds: float = 60
    port: int = 22

    def __init__(self, place: Place) -> None:
        self.place = place
        self.name = place.name
        self.address = place.address
        self.group = ControlGroup(f"{place.slot.number}/m{place.index}")
        self.folder = place.folder
        self.folder.mkdir()
        self._key = make_ssh_key(self.folder / "host_key")
        self.host_key = self._key.public_line

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.address}>"

    @abc.abstractmethod
    def power_on(self) -> None:
        """Start the machine; does not wait for it. A machine that runs is left alone."""

    @abc.abstractmethod
    def power_cut(self) -> None:
        """End the machine at once, as if its cable was pulled. It stays off until `power_on`."""

    @abc.abstractmethod
    def is_on(self) -> bool:
        """Whether the machine has power."""

    @abc.abstractmethod
    def link_down(self) -> None:
        """Take the machine off the network; it runs on. Lasts over reboots."""

    @abc.abstractmethod
    def link_up(self) -> None:
        """Put the machine back on the network."""

    @property
    def known_host(self) -> str:
        """The line of a known_hosts file."""
        return f"{self.address} {self.host_key}"

    @property
    def console(self) -> str:
        """What the machine printed on its console in this boot."""
        path = self.folder / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def ssh(
        self,
        command: str | Sequence[str],
        *,
        user: str = "root",
        stdin: str | None = None,
        check: bool = True,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run an argv, or a text as a shell script, on the machine by the plain ssh client; code 255 = not reached."""
        argv: list[str | Path] = ["ssh", "-p", str(self.port), *self._client_options()]
        remote = command if isinstance(command, str) else shlex.join(command)
        return run([*argv, f"{user}@{self.address}", remote], stdin=stdin, check=check, timeout=timeout)

    def text(self, command: str | Sequence[str]) -> str:
        """What a command printed, without white space around it."""
        return self.ssh(command).stdout.strip()

    def put(self, path: str, content: str, *, mode: str = "0644") -> None:
        """Write a text file on the machine, behind everybody's back."""
        quoted = shlex.quote(path)
        self.ssh(f"mkdir -p $(dirname {quoted}) && cat >{quoted} && chmod {mode} {quoted}", stdin=content)

    def copy(self, source: Path, target: str) -> None:
        """Copy a file of this machine onto the host."""
        argv: list[str | Path] = ["scp", "-q", "-P", str(self.port), *self._client_options()]
        run([*argv, source, f"root@{self.address}:{target}"])

    def boot_id(self) -> str:
        """The kernel's name of this boot."""
        return self.text(["cat", "/proc/sys/kernel/random/boot_id"])

    def answers(self) -> bool:
        """Whether an ssh server greets."""
        try:
            with socket.create_connection((self.address, self.port), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def wait_ready(self, seconds: float | None = None) -> None:
        """Wait until root can enter; LabError with the end of the console otherwise."""
        limit = self.boot_seconds if seconds is None else seconds
        self.wait_for(
            lambda: self.answers() and self.ssh("true", check=False).returncode == 0, limit, "enterable by ssh"
        )

    def wait_for(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a state of the world."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} is not {what} after {seconds:g} s. Console: {self.console[-1500:]}")
            time.sleep(0.1)

    def reboot(self, *, wait: bool = True) -> None:
        """Reboot from inside; with `wait`, return when the machine is enterable in a new boot."""
        before = self.boot_id()
        self.ssh("systemctl --no-block reboot", check=False)
        if wait:
            self.wait_for(lambda: self._rebooted_since(before), self.boot_seconds * 2, "back from its reboot")

    def stop(self) -> None:
        """Shut down in order; the machine stays off until `power_on`."""
        self.ssh("systemctl --no-block poweroff", check=False)
        self.wait_for(lambda: not self.is_on(), self.boot_seconds, "off")

    def swap_host_key(self) -> str:
        """Give the machine another host key, as if another machine had taken its address. Returns the new line."""
        new = make_ssh_key(self.folder / "host_key.new")
        # One command: sshd shows the new key to the first connection after the file has changed.
        path = "/etc/ssh/ssh_host_ed25519_key"
        script = f"echo {shlex.quote(new.public_line)} >{path}.pub; umask 077; cat >{path}; systemctl restart ssh"
        self.ssh(script, stdin=new.private.read_text())
        self.host_key = new.public_line
        self.wait_ready(10)
        return self.host_key

    def _client_options(self) -> list[str | Path]:
        """Nothing of the caller's own ssh configuration counts, and only the lab's keys do."""
        known = self.folder / "known_hosts"
        known.write_text(self.known_host + "\n")
        options = {
            "IdentityFile": self.place.user_key.private,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": known,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "5",
            "LogLevel": "ERROR",
        }
        return ["-F", "none", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]

    def _rebooted_since(self, before: str) -> bool:
        if not self.answers():
            return False
        done = self.ssh(["cat", "/proc/sys/kernel/random/boot_id"], check=False)
        return done.returncode == 0 and done.stdout.strip() != before


def identity(place: Place, host_key: SshKey) -> dict[str, tuple[str, int]]:
    """The files that make a copy of the base this machine: path -> (content, mode)."""
    key = place.user_key.public_line + "\n"
    return {
        "etc/hostname": (place.name + "\n", 0o644),
        "etc/hosts": (f"127.0.0.1 localhost\n127.0.1.1 {place.name}\n::1 localhost\n", 0o644),
        "etc/machine-id": (uuid.uuid4().hex + "\n", 0o444),
        "etc/systemd/network/10-lab.network": (
            # No gateway on purpose: a machine of the lab reaches its bridge and nothing else.
            f"[Match]\nName=host0 en* eth*\n[Network]\nAddress={place.address}/24\n"
            "IPv6AcceptRA=no\nLinkLocalAddressing=no\n",
            0o644,
        ),
        "etc/ssh/ssh_host_ed25519_key": (host_key.private.read_text(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (host_key.public_line + "\n", 0o644),
        "root/.ssh/authorized_keys": (key, 0o600),
        "home/fleet/.ssh/authorized_keys": (key, 0o600),
    }
