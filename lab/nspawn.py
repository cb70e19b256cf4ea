"""Machines by systemd-nspawn: a systemd, sshd, package database and network of their own, the kernel of this machine.

A power cut here spares what was written and not yet synced, because the kernel that holds it runs on; whoever tests
durability takes `lab.vm`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lab.command import run
from lab.host import Host, Place, identity
from lab.requirements import LabError, check

# systemd-nspawn without registration ends with this code when the machine asked to be started again.
_REBOOT: Final[int] = 133
# A node of Kubernetes needs folders that are no overlay, because its containers' file systems are overlays themselves.
NODE_FOLDERS: Final[tuple[str, ...]] = ("/var/lib/containerd", "/var/lib/kubelet")


class NspawnHost(Host):
    """A machine on an overlay of `layers`, uppermost first. `node` gives what a kubelet needs: kmsg, real folders."""

    boot_seconds = 30

    def __init__(
        self, place: Place, layers: list[Path], *, kind: str, node: bool = False, binds: Iterable[str] = ()
    ) -> None:
        super().__init__(place)
        self.kind = kind
        self._node = node
        self._binds = tuple(dict.fromkeys((*binds, *(NODE_FOLDERS if node else ()))))
        self._machine = f"f{place.slot.number}m{place.index}"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._powered = False
        self._cable = True
        self._supervisor: threading.Thread | None = None
        self.root = self._mount(layers)

    def power_on(self) -> None:
        with self._lock:
            if self._supervisor is not None and self._supervisor.is_alive():
                return
            self._powered = True
            self._start()
            self._supervisor = threading.Thread(target=self._supervise, name=f"lab-{self.name}", daemon=True)
            self._supervisor.start()

    def power_cut(self) -> None:
        with self._lock:
            self._powered = False
            process = self._process
        if process is not None:
            # First all but nspawn, which then takes its own leavings away; it is ended itself only if it does not.
            self.group.kill(spare=frozenset({process.pid}))
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._supervisor is not None:
            self._supervisor.join(10)
        self.group.kill()

    def is_on(self) -> bool:
        return self._supervisor is not None and self._supervisor.is_alive()

    def link_down(self) -> None:
        self._cable = False
        self._set_link("down")

    def link_up(self) -> None:
        self._cable = True
        self._set_link("up")

    def lose_packets(self, share: float) -> None:
        """Lose this share of all packets at random, each way, from now until the machine ends or reboots.

        The rules stand in the machine's own network namespace and go with it.
        """
        check(("iptables", "nsenter"))
        for chain in ("INPUT", "OUTPUT"):
            rule = [chain, "-m", "statistic", "--mode", "random", "--probability", f"{share:g}", "-j", "DROP"]
            self._iptables("-A", *rule)

    def stop_losing_packets(self) -> None:
        """All packets arrive again."""
        self._iptables("-F")

    def lost_packets(self) -> int:
        """How many were lost by `lose_packets`."""
        return sum(int(line.split()[0]) for line in self._iptables("-nvxL").splitlines() if "statistic" in line)

    def _iptables(self, *words: str) -> str:
        """In the machine's network, by this machine's program; what it printed."""
        ours = Path("/proc/self/ns/net").readlink()
        theirs = (Path(f"/proc/{pid}/ns/net") for pid in self.group.pids())
        inside = next(path for path in theirs if path.readlink() != ours)
        return run(["nsenter", f"--net={inside}", "iptables", "--wait", *words]).stdout

    def keep_route(self, cidr: str, via: str) -> None:
        """A route that the machine takes up at each boot from the next on."""
        name = cidr.replace("/", "-")
        folder = self.root / "etc/systemd/network/10-lab.network.d"
        folder.mkdir(mode=0o755, exist_ok=True)
        (folder / f"{name}.conf").write_text(f"[Route]\nDestination={cidr}\nGateway={via}\n")

    @property
    def _link(self) -> str:
        return f"vb-{self._machine}"

    def _mount(self, layers: list[Path]) -> Path:
        upper, work, root = (self.folder / name for name in ("upper", "work", "root"))
        for folder in (upper, work, root):
            folder.mkdir(mode=0o755)
        for name, (content, mode) in identity(self.place, self._key).items():
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(mode)
        _same_folders(upper, layers)
        stack = ":".join(str(layer) for layer in layers)
        done = run(
            ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={stack},upperdir={upper},workdir={work}", root],
            check=False,
        )
        if done.returncode != 0:
            raise LabError(
                f"{self.folder} must lie on a real file system (ext4, xfs), no overlay: {done.stderr.strip()}"
            )
        return root

    def _argv(self) -> list[str]:
        argv = ["systemd-nspawn", "--quiet", "--directory", str(self.root), "--machine", self._machine, "--boot"]
        argv += ["--hostname", self.name, "--network-bridge", self.place.slot.bridge, "--register=no", "--keep-unit"]
        argv += ["--capability=all", "--system-call-filter=bpf keyctl add_key", "--resolv-conf=off", "--timezone=off"]
        argv += ["--link-journal=no"]
        if self._node:
            argv.append("--bind=/dev/kmsg")
        for path in self._binds:
            real = self.folder / "real" / path.lstrip("/")
            real.mkdir(parents=True, exist_ok=True)
            argv.append(f"--bind={real}:{path}")
        return argv

    def _start(self) -> None:
        """Call under the lock, with power on."""
        argv = self.group.joining(self._argv())
        with (self.folder / "console.log").open("wb") as console:
            # A session of its own: Ctrl-C in a terminal is for the lab, which then ends its machines itself.
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )

    def _supervise(self) -> None:
        """The machine's power supply: a reboot ends nspawn, and this starts it again."""
        while True:
            process = self._process
            assert process is not None
            if not self._cable:
                with contextlib.suppress(LabError):  # a machine that fails to start has no link; `wait` below tells
                    self._set_link("down")  # the link of each start is new, and up
            code = process.wait()
            with self._lock:
                if code != _REBOOT or not self._powered:
                    self._powered = False
                    return
                self._start()

    def _set_link(self, state: str) -> None:
        """Set this end of the cable. A start makes a new one, which is not there at once; without power none is."""
        for _ in range(100):
            if run(["ip", "link", "set", self._link, state], check=False).returncode == 0 or not self._powered:
                return
            time.sleep(0.05)
        raise LabError(f"{self.name} has no network link {self._link}.")


def _same_folders(upper: Path, layers: list[Path]) -> None:
    """An overlay shows the uppermost folder's owner and mode: copy them from below for each folder made in `upper`."""
    for folder in (upper, *(path for path in upper.rglob("*") if path.is_dir())):
        name = folder.relative_to(upper)
        below = next((layer / name for layer in layers if (layer / name).is_dir()), None)
        if below is not None:
            shutil.copystat(below, folder)
            owner = below.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
    home = upper / "home/fleet/.ssh"
    owner = home.stat()
    os.chown(home / "authorized_keys", owner.st_uid, owner.st_gid)
