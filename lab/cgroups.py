"""A control group of its own for each machine, on cgroup v1 and v2.

Two reasons. Machines that share a group would share their systemd's slices, because nspawn roots the machine's view at
the group it was started in. And the group is the register of what the lab started: whatever runs in it is ours to end,
also after the process that made it was killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from lab.requirements import LabError

_PARENT = "fleet-lab"


def hierarchies(mounts: str | None = None) -> list[Path]:
    """Where cgroup hierarchies are mounted: one on v2, one for each controller on v1, both kinds on a hybrid."""
    text = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    found: dict[Path, None] = {}
    for line in text.splitlines():
        _, where, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2") and where.startswith("/sys/fs/cgroup"):
            found.setdefault(Path(where).resolve())
    return list(found)


class ControlGroup:
    """The group `fleet-lab/<name>` in every hierarchy; `name` may have slashes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._folders = [root / _PARENT / name for root in hierarchies()]
        if not self._folders:
            raise LabError("The lab needs a cgroup hierarchy mounted under /sys/fs/cgroup.")

    def make(self) -> list[Path]:
        """Create the group; the `cgroup.procs` files that a process writes its pid into to join it."""
        for folder in self._folders:
            for level in reversed([folder, *folder.parents]):
                if _PARENT in level.parts and not level.is_dir():
                    level.mkdir(exist_ok=True)
                    _open_to_children(level)
        return [folder / "cgroup.procs" for folder in self._folders]

    def joining(self, argv: list[str]) -> list[str]:
        """The command that joins the group before it becomes `argv`, so that no process is ever outside of it."""
        procs = [str(path) for path in self.make()]
        join = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1"; shift; n=$((n - 1)); done; exec "$@"'
        return ["sh", "-c", join, "lab", str(len(procs)), *procs, *argv]

    def pids(self) -> set[int]:
        """Every process in the group and below it."""
        found: set[int] = set()
        for folder in self._folders:
            for procs in folder.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):  # the group went away while we looked, or is threaded
                    found.update(int(pid) for pid in procs.read_text().split())
        return found - {0}

    def kill(self, *, spare: frozenset[int] = frozenset(), seconds: float = 10) -> None:
        """SIGKILL everything in the group but `spare` and wait until it is gone.

        All are stopped before the first is killed: a systemd that saw one die would still begin what is to follow that.
        """
        deadline = time.monotonic() + seconds
        while pids := {pid for pid in self.pids() - spare if not _is_zombie(pid)}:
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in sorted(pids):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            if time.monotonic() > deadline:
                raise LabError(f"Processes of the lab's group {self.name} do not end: {sorted(pids)}.")
            time.sleep(0.02)

    def remove(self) -> None:
        """Remove the emptied group and all groups below it."""
        for folder in self._folders:
            for path, _, _ in os.walk(folder, topdown=False):
                for _ in range(50):  # a group stays busy for a moment after its last process died
                    try:
                        Path(path).rmdir()
                        break
                    except FileNotFoundError:
                        break
                    except OSError:
                        time.sleep(0.02)


def _open_to_children(folder: Path) -> None:
    """Make a new group usable: v1 cpusets begin empty and take no process, v2 groups begin without controllers."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        own, above = folder / name, folder.parent / name
        if own.exists() and above.exists() and not own.read_text().strip():
            with contextlib.suppress(OSError):
                own.write_text(above.read_text())
    controllers = folder.parent / "cgroup.controllers"
    if controllers.exists():
        for name in controllers.read_text().split():
            with contextlib.suppress(OSError):  # a controller that the parent may not hand on is left out
                (folder.parent / "cgroup.subtree_control").write_text(f"+{name}")


def _is_zombie(pid: int) -> bool:
    """Dead already, waiting for its parent: still listed on v1, and no signal does anything to it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
