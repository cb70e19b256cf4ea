"""`make lab`: from nothing to a business cluster in pods of a meta cluster, machines that joined it, gates that opened and pods that answer.

Fleet runs beside the lab as `make up` runs it; everything is said to it by kubectl. Ctrl-C takes all of it away again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lab import clusters, control_plane_images, images, kubernetes
from lab.host import Host
from lab.lab import Lab
from lab.requirements import LabError

Json = dict[str, Any]
Say = Callable[[str], None]

CHECKOUT: Final = Path(__file__).resolve().parent.parent
MASTER: Final = "master-1"
WORKERS: Final = ("worker-1", "worker-2", "worker-3")
PATIENCE_SECONDS: Final = 900.0
_PORTS: Final = 8  # from the API server's port on: its components take the next ones


class Kubectl:
    """kubectl with one kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        found = Path(sys.executable).with_name("kubectl")
        program = str(found) if found.exists() else shutil.which("kubectl")
        if program is None:
            raise LabError("The lab needs kubectl: 'make .venv/ready-dev' brings it.")
        self._command = [program, "--kubeconfig", str(kubeconfig)]

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run([*self._command, *arguments], input=stdin, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()[-600:]}")
        return done.stdout

    def apply(self, *objects: Json) -> None:
        """kubectl apply of all of them."""
        self("apply", "-f", "-", stdin="\n---\n".join(json.dumps(o) for o in objects))

    def get(self, *what: str) -> Json:
        """One object, or a list; empty while there is none."""
        try:
            found: Json = json.loads(self("get", *what, "-o", "json"))
        except LabError:
            return {}
        return found


class Fleet(Kubectl):
    """A running Fleet of this checkout, as `make up` starts it, without its simulated machines."""

    def __init__(self, binaries: Path, log: Path) -> None:
        super().__init__(CHECKOUT / ".fleet" / "kubeconfig")
        lab = {"FLEET_BINARIES": str(binaries), "FLEET_UNDO_HOURS": "0", "FLEET_TOOLS_IMAGE": images.BUSYBOX}
        environment = {**os.environ, **lab}
        command = [sys.executable, "-m", "fleet.dev.up", "--machines", "0"]
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, cwd=CHECKOUT, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def console(self) -> str:
        """Its console's address, and who may enter."""
        lines = (line.strip() for line in self._log.read_text(errors="replace").splitlines())
        return next((line for line in lines if line.startswith("console ")), "")

    def ready(self) -> bool:
        """Whether it answers; LabError when it ended."""
        if self._process.poll() is not None:
            raise LabError(f"Fleet did not start: {self._log.read_text(errors='replace').strip()[-600:]}")
        return bool(self.get("clusters"))

    def condition(self, kind: str, name: str, type_: str) -> Json:
        """One condition of one object."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})

    def stop(self) -> None:
        """End it in good order."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)


def free_port() -> int:
    """The first of some ports in a row that nobody uses."""
    for first in range(18443, 19443, _PORTS):
        if all(_is_free(port) for port in range(first, first + _PORTS)):
            return first
    raise LabError("There are no free ports from 18443 to 19443.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def until(condition: Callable[[], bool], what: str, say: Say) -> None:
    """Ask again each second."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > PATIENCE_SECONDS:
            raise LabError(f"Not within {PATIENCE_SECONDS:.0f} s: {what}.")
        time.sleep(1)
    say(f"{what} ({time.monotonic() - begun:.0f} s)")


@contextmanager
def showcase(lab: Lab, say: Say) -> Iterator[tuple[Fleet, Kubectl, list[Host]]]:
    """Everything up, with kubectl for Fleet and for the business cluster; all of it gone at the end."""
    binaries = kubernetes.folder(lab.slot.folder / "binaries")
    fleet = Fleet(binaries, lab.slot.folder / "fleet.log")
    try:
        until(fleet.ready, "Fleet answers", say)
        yield from _up(lab, fleet, say)
    finally:
        with _uninterrupted():
            try:
                _down(fleet, say)
            finally:
                fleet.stop()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C does not leave half of it behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _up(lab: Lab, fleet: Fleet, say: Say) -> Iterator[tuple[Fleet, Kubectl, list[Host]]]:
    master, *workers = lab.debs([MASTER, *WORKERS], node=True)
    for host in (master, *workers):
        lab.route(lab.pod_range(host), host)
    say("four bare Debian hosts run")

    fleet.apply(*clusters.ground(lab, [clusters.META, clusters.BUSINESS]))
    fleet.apply(clusters.meta(lab, free_port()), clusters.machine(lab, master, clusters.META))
    until(lambda: _is_true(fleet, "cluster", clusters.META, "Ready"), "the meta cluster's control plane is up", say)
    until(lambda: _has_containerd(master), f"{MASTER} got containerd", say)
    lab.import_images(master, *clusters.node_images(), *control_plane_images.images())
    until(lambda: _state(fleet, MASTER) == "Open", f"{MASTER} joined the meta cluster and is open", say)

    fleet.apply(clusters.business(master), *(clusters.machine(lab, w, clusters.BUSINESS) for w in workers))
    until(
        lambda: _is_true(fleet, "cluster", clusters.BUSINESS, "Ready"),
        "the business cluster runs in pods of the meta cluster",
        say,
    )
    for worker in workers:
        until(lambda: _has_containerd(worker), f"{worker.name} got containerd", say)  # noqa: B023 - asked at once
        lab.import_images(worker, *clusters.node_images())
    until(
        lambda: all(_state(fleet, n) == "Closed" for n in WORKERS),
        "three machines joined; their gates hold them closed",
        say,
    )

    business = Kubectl(kubeconfig_of(lab, fleet, clusters.BUSINESS))
    server = str(fleet.get("cluster", clusters.BUSINESS)["status"]["endpoint"])
    business.apply(*clusters.reporter(server), clusters.workload())
    for worker in workers:
        worker.ssh(f"mkdir -p {clusters.FOLDER} && touch {clusters.READY}")
    until(lambda: all(_state(fleet, n) == "Open" for n in WORKERS), "the reporter says yes; the gates are open", say)
    until(lambda: _answers(business), "the workload answers", say)
    yield fleet, business, list(workers)


def kubeconfig_of(lab: Lab, fleet: Fleet, name: str) -> Path:
    """A kubeconfig of a cluster that Fleet made, as its admin; it lies in the lab's folder and goes with it."""
    target = lab.slot.folder / f"{name}.kubeconfig"
    text = subprocess.run(
        [sys.executable, "-m", "fleet.cli.kubeconfig", name], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if text.returncode:
        raise LabError(f"There is no way to the cluster {name}: {text.stderr.strip()[-300:]}")
    target.touch(0o600)
    target.write_text(text.stdout)
    return target


def _is_true(fleet: Fleet, kind: str, name: str, type_: str) -> bool:
    return bool(fleet.condition(kind, name, type_).get("status") == "True")


def _state(fleet: Fleet, machine: str) -> str:
    return str(fleet.get("machine", machine).get("status", {}).get("scheduling", {}).get("state", ""))


def _has_containerd(host: Host) -> bool:
    return host.ssh("ctr --connect-timeout 2s version >/dev/null 2>&1", check=False).returncode == 0


def _answers(business: Kubectl) -> bool:
    pods = business.get("pods", "-l", "app=hello").get("items", [])
    ready = [
        p
        for p in pods
        if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))
    ]
    if len(ready) < 2:
        return False
    try:
        with urllib.request.urlopen(f"http://{ready[0]['status']['podIP']}:8080/", timeout=10) as answer:
            return bool(answer.read().strip() == b"well")
    except OSError:  # ready means started: these pods have no probe
        return False


def _deletes(fleet: Fleet, name: str) -> bool:
    """Whether the deletion is taken."""
    try:
        fleet("delete", "cluster", name, "--wait=false")
    except LabError:
        return False
    return True


def _carries(fleet: Fleet, name: str) -> bool:
    """Whether data of deleted control planes still lies on a meta cluster's nodes, which clear it away."""
    try:
        fleet("delete", "cluster", name, "--dry-run=server")
    except LabError as error:
        return "carries" in str(error)
    return False


def _give_up_machines(fleet: Fleet, cluster: str, say: Say) -> None:
    def left() -> list[str]:
        found = fleet.get("machines", f"--field-selector=spec.clusterName={cluster}").get("items", [])
        return [m["metadata"]["name"] for m in found]

    for name in left():
        fleet("annotate", "machine", name, f"fleet.dev/abandon={name}", "--overwrite")
        fleet("delete", "machine", name, "--wait=false")
    until(lambda: not left(), f"no machine of {cluster} is left", say)


def _down(fleet: Fleet, say: Say) -> None:
    """Machines are given up with their hosts, which the lab ends; control planes are deleted: they would outlive Fleet.

    The meta cluster keeps its machines until they have cleared away what the business cluster left on them.
    """
    say("taking it down")
    for name in (clusters.BUSINESS, clusters.META):
        if not fleet.get("cluster", name):
            continue
        fleet("annotate", "cluster", name, f"fleet.dev/confirm-delete={name}", "--overwrite")
        until(lambda: not _carries(fleet, name), f"nothing of others is left on {name}", say)  # noqa: B023 - asked at once
        _give_up_machines(fleet, name, say)
        until(lambda: _deletes(fleet, name), f"the cluster {name} is deleted", say)  # noqa: B023 - asked at once
        until(lambda: not fleet.get("cluster", name), f"the cluster {name} is gone", say)  # noqa: B023 - asked at once
