"""A host's file system and systemd in a folder: the real scripts run in it, unprivileged and without touching this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from machines import fence
from machines.hosts import Action, StepOrder, StepRef, StepResult, Target

SHIMS = Path(__file__).with_name("shims")
NONCE = "feedbeef"


class Sandbox:
    """FLEET_ROOT with the shims of systemd; `sh` runs a script as SSH would: by stdin."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "var/lib/fleet"
        (root / "bin").mkdir(parents=True)
        (root / "usr/sbin").mkdir(parents=True)
        (root / "var/lib").mkdir(parents=True)
        for shim in SHIMS.iterdir():
            shutil.copy(shim, root / "bin" / shim.name)

    @property
    def environment(self) -> dict[str, str]:
        return {"FLEET_ROOT": str(self.root), "PATH": os.environ["PATH"], "LC_ALL": "C"}

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-s"],
            input=script,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, script: str, order: StepOrder) -> StepResult:
        """As `SshHosts.act` does it, with a step script of the test's own."""
        done = self.sh(fence.start_script(order, script, NONCE))
        assert f"@@{NONCE} end" in done.stdout, done.stderr
        return fence.parse_answer(order.ref, done.stdout.split("\n"))

    def poll(self, ref: StepRef) -> StepResult:
        return fence.parse_answer(ref, self.sh(fence.poll_command(ref)).stdout.split("\n"))

    def wait(self, ref: StepRef) -> StepResult:
        self.until(lambda: self.poll(ref).state != "Running")
        return self.poll(ref)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "the state of the world did not come about"
            time.sleep(0.02)

    def kill_units(self) -> None:
        """As a power cut does it: every unit ends at once. Only processes of this sandbox, whatever the files say."""
        for file in (self.root / "units").glob("*.service"):
            try:
                pid = int(file.read_text().strip() or 0)
            except FileNotFoundError:
                continue  # the unit ended by itself meanwhile
            if self._is_ours(pid):
                os.killpg(pid, signal.SIGKILL)
                self.until(lambda pid=pid: not self._is_ours(pid))  # type: ignore[misc]
            file.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        """A zombie has no environment any more, so it counts as gone."""
        try:
            return f"FLEET_ROOT={self.root}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False


def order(
    *,
    uid: str = "uid-1",
    installation: str = "inst-1",
    incarnation: int = 1,
    epoch: int = 1,
    operation: str = "op-1",
    step: str = "01-step",
    attempt: int = 1,
    take_over: str = "",
) -> StepOrder:
    target = Target(key=1, uid=uid, name="m1", address="192.0.2.1")
    ref = StepRef(operation, step, attempt)
    return StepOrder(target, ref, Action("test"), installation, incarnation, epoch, take_over)
