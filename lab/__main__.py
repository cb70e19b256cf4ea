"""`python -m lab up | down | status | requirements | build | clean`: the lab for people."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import clusters, control_plane_images, image, images, kubernetes, node_packages, rootfs
from lab.cache import CACHE
from lab.lab import Lab
from lab.network import Slot, slots_in_use
from lab.requirements import APT_PACKAGES, LabError
from lab.showcase import showcase


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a LabError is one sentence and code 1."""
    parser = argparse.ArgumentParser(prog="python -m lab", description="Real hosts on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="make machines and keep them until Ctrl-C")
    up.add_argument("--hosts", type=int, default=3, help="Debian hosts (default 3)")
    up.add_argument("--rpm", type=int, default=0, help="rpm hosts (default 0)")
    up.add_argument("--nodes", type=int, default=0, help="Debian hosts that can run a kubelet (default 0)")
    up.add_argument("--vm", action="store_true", help="a virtual machine with a kernel of its own")
    up.set_defaults(act=_up)
    commands.add_parser("clusters", help="Fleet, a meta cluster, a business cluster in its pods, machines, a workload; until Ctrl-C").set_defaults(act=_clusters)  # fmt: skip
    commands.add_parser("down", help="end labs and remove what killed ones left").set_defaults(act=_down)
    commands.add_parser("status", help="what is there").set_defaults(act=_status)
    commands.add_parser("build", help="build all that is built once a machine").set_defaults(act=_build)
    commands.add_parser("clean", help="remove all that is built once a machine").set_defaults(act=_clean)
    commands.add_parser("requirements", help="the Debian packages the lab needs").set_defaults(act=_requirements)
    options = parser.parse_args(arguments)
    act: Callable[[argparse.Namespace], None] = options.act
    try:
        act(options)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _up(options: argparse.Namespace) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt), Lab(made_by="up") as lab:
        print("Making machines (the first time builds their file systems, some minutes) ...", flush=True)
        lab.debs(f"h{number}" for number in range(1, options.hosts + 1))
        lab.debs((f"n{number}" for number in range(1, options.nodes + 1)), node=True)
        for number in range(1, options.rpm + 1):
            lab.rpm(f"r{number}")
        if options.vm:
            lab.vm("v1")
        _print(lab.slot)
        print("Ctrl-C ends the lab.", flush=True)
        ended.wait()
    print("The lab is gone.")


def _clusters(options: argparse.Namespace) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:4.0f} s] {text}", flush=True)

    say("the first time all of Kubernetes is built: 15 to 25 minutes")
    with contextlib.suppress(KeyboardInterrupt), Lab(made_by="up") as lab, showcase(lab, say) as (fleet, _, _):
        print(
            f"\n{fleet.console}\n"
            "kubectl --kubeconfig .fleet/kubeconfig get clusters,machines\n"
            f"kubectl --kubeconfig {lab.slot.folder}/{clusters.BUSINESS}.kubeconfig get nodes,pods\n"
            "Ctrl-C takes all of it away again.\n",
            flush=True,
        )
        ended.wait()
    print("The lab is gone.")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _down(options: argparse.Namespace) -> None:
    for slot in slots_in_use():
        if not slot.take():
            record = slot.read()
            if record.get("madeBy") != "up":
                print(f"Lab {slot.number} belongs to the program with process {record.get('pid')}: it ends with that.")
                continue
            print(f"Ending lab {slot.number} (process {record['pid']}) ...", flush=True)
            os.kill(record["pid"], signal.SIGTERM)
            _wait_for(slot)
        slot.sweep()
        slot.release()


def _wait_for(slot: Slot) -> None:
    deadline = time.monotonic() + 60
    while not slot.take():
        if time.monotonic() > deadline:
            raise LabError(f"Lab {slot.number} does not end.")
        time.sleep(0.1)


def _status(options: argparse.Namespace) -> None:
    slots = slots_in_use()
    if not slots:
        print("No lab.")
    for slot in slots:
        _print(slot)


def _print(slot: Slot) -> None:
    record = slot.read()
    pid = record.get("pid")
    alive = isinstance(pid, int) and Path(f"/proc/{pid}").exists()
    state = f"process {pid}" if alive else "left by a process that was killed; 'python -m lab down' removes it"
    print(f"lab {slot.number}: bridge {slot.bridge}, {state}")
    hosts: list[dict[str, Any]] = record.get("hosts", [])
    for host in hosts:
        address = host["address"]
        print(f"  {host['name']:<12} {host['kind']:<4} {address:<14} ssh -i {record['key']} root@{address}")


def _build(options: argparse.Namespace) -> None:
    for name, build in (
        ("Debian base", rootfs.base),
        ("rpm host", rootfs.rpm_layers),
        ("virtual machine", image.vm_image),
        ("node", rootfs.node_layers),
        ("control planes", kubernetes.control_planes),
        ("packages of nodes", node_packages.debs),
        ("images of pods", images.all_of_them),
        ("images of control planes", control_plane_images.images),
    ):
        begun = time.monotonic()
        build()
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)


def _clean(options: argparse.Namespace) -> None:
    if slots_in_use():
        raise LabError("Labs are running from these files: 'python -m lab down' ends them.")
    shutil.rmtree(CACHE, ignore_errors=True)


def _requirements(options: argparse.Namespace) -> None:
    print(" ".join(APT_PACKAGES))


if __name__ == "__main__":
    sys.exit(main())
