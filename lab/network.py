"""The lab's own network: a slot number, a bridge and a range of addresses for each lab that runs on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from lab.cgroups import ControlGroup
from lab.command import run
from lab.requirements import LabError

STATE: Final[Path] = Path("/var/lib/fleet-lab")
SLOTS: Final[int] = 32
# nspawn makes a folder a machine here and leaves it behind where /run is no tmpfs.
_NSPAWN: Final[Path] = Path("/run/systemd/nspawn/propagate")


class Slot:
    """One lab's share of the machine: number, folder, bridge `flab<number>`, range 10.77.<number>.0/24.

    Held by a lock on a file, so a slot whose process was killed is free at once; what it left is removed by `sweep`.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.folder = STATE / str(number)
        self.bridge = f"flab{number}"
        self.gateway = f"10.77.{number}.1"
        self.group = ControlGroup(str(number))
        self._lock: int | None = None

    def address(self, index: int) -> str:
        """The address of the machine with this index, 1 and up."""
        if not 1 <= index <= 240:
            raise LabError("A lab holds at most 240 machines.")
        return f"10.77.{self.number}.{10 + index}"

    def take(self) -> bool:
        """Hold the slot if nobody does."""
        STATE.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        return True

    def release(self) -> None:
        """Give the slot back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def open(self) -> None:
        """Make the folder and the bridge."""
        self.folder.mkdir(mode=0o755, parents=True)
        run(["ip", "link", "add", self.bridge, "type", "bridge"])
        run(["ip", "address", "add", f"{self.gateway}/24", "dev", self.bridge])
        run(["ip", "link", "set", self.bridge, "up"])

    def write(self, record: dict[str, Any]) -> None:
        """Record what is there, for `python -m lab status`."""
        new = self.folder / "state.json.new"
        new.write_text(json.dumps(record, indent=1))
        new.replace(self.folder / "state.json")

    def read(self) -> dict[str, Any]:
        """What was recorded; empty if nothing was."""
        try:
            record = json.loads((self.folder / "state.json").read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def sweep(self) -> None:
        """Remove all that this slot ever made: processes, mounts, links, folders, groups. Only for its holder."""
        self.group.kill()
        for mount in _mounts_below(self.folder):
            run(["umount", "--lazy", mount], check=False)
        for link in _links():
            # vb-f3m1: the host's end of a machine's cable; f3t1: a tap of a virtual machine.
            if link == self.bridge or link.startswith((f"vb-f{self.number}m", f"f{self.number}t")):
                run(["ip", "link", "delete", link], check=False)
        if _mounts_below(self.folder):
            raise LabError(f"Something is still mounted below {self.folder}; nothing there was removed.")
        shutil.rmtree(self.folder, ignore_errors=True)
        for left in _NSPAWN.glob(f"f{self.number}m*"):
            shutil.rmtree(left, ignore_errors=True)
        self.group.remove()

    @property
    def _lock_file(self) -> Path:
        return STATE / f".{self.number}.lock"


def claim_slot() -> Slot:
    """The first free slot; what killed labs left in any slot is removed on the way."""
    for slot in slots_in_use():
        if slot.take():
            try:
                slot.sweep()
            finally:
                slot.release()
    for number in range(SLOTS):
        slot = Slot(number)
        if slot.take():
            try:
                slot.sweep()
            except BaseException:
                slot.release()
                raise
            return slot
    raise LabError(f"All {SLOTS} slots for labs on this machine are in use.")


def slots_in_use() -> list[Slot]:
    """Slots that have a folder: running labs and what killed ones left."""
    if not STATE.is_dir():
        return []
    return [Slot(int(path.name)) for path in sorted(STATE.iterdir()) if path.name.isdecimal()]


def _mounts_below(folder: Path) -> list[str]:
    """Mount points below a folder, deepest first."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/mounts").read_text().splitlines()
        points = [line.split()[1].replace("\\040", " ") for line in lines]
        return sorted((point for point in points if point.startswith(f"{folder}/")), key=len, reverse=True)
    return []


def _links() -> list[str]:
    return [path.name for path in Path("/sys/class/net").iterdir()]
