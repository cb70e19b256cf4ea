"""A whole Fleet beside the lab: web, worker and beat as processes of their own, driven by the real kubectl."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from django.conf import settings

from tests.servers import Kubectl

ROOT = Path(__file__).resolve().parent.parent.parent
V1 = "fleet.dev/v1"
Json = dict[str, Any]


class Loop:
    """Worker and beat; with `watches` a watcher too. `kill_worker` is kill -9 of the whole worker, parent and child."""

    def __init__(self, log: Path, *, watches: bool = False, **environment: str) -> None:
        url = os.environ["DATABASE_URL"].replace("/fleet?", f"/{settings.DATABASES['default']['NAME']}?")
        self._environment = {
            **os.environ,
            "DATABASE_URL": url,
            "PYTHONWARNINGS": "ignore",
            "FLEET_OBSERVE_SECONDS": "8",
            "FLEET_LEASE_SECONDS": "30",
            **environment,
        }
        self._log = log
        self.beat = self._start("fleet.beat", "beat", "--loglevel=WARNING")
        self.worker = self._start_worker()
        self.watcher = self._run(sys.executable, "manage.py", "watch") if watches else None

    def _start(self, app: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self._run(sys.executable, "-m", "celery", "-A", app, *arguments)

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _start_worker(self) -> subprocess.Popen[bytes]:
        return self._start(
            "fleet.celery",
            "worker",
            "--pool=prefork",
            "--concurrency=1",
            "--loglevel=WARNING",
            "--hostname=lab@%h",
            "--without-gossip",
            "--without-mingle",
        )

    def kill_worker(self) -> None:
        """kill -9, and a new one takes over."""
        os.killpg(self.worker.pid, signal.SIGKILL)
        self.worker.wait(10)
        self.worker = self._start_worker()

    def stop(self) -> None:
        """End all of them."""
        running = [p for p in (self.worker, self.beat, self.watcher) if p is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Cluster:
    """What a person at a terminal does."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl

    def apply(self, *objects: Json) -> str:
        """kubectl apply of all of them."""
        text = "\n---\n".join(yaml.safe_dump({"apiVersion": V1, **o}) for o in objects)
        return self.kubectl("apply", "-f", "-", stdin=text).stdout

    def get(self, kind: str, name: str) -> Json:
        """One object."""
        found: Json = json.loads(self.kubectl("get", kind, name, "-o", "json").stdout)
        return found

    def condition(self, name: str, type_: str) -> Json:
        """A condition of a machine; empty when it is not there."""
        conditions = self.get("machine", name).get("status", {}).get("conditions", [])
        found: Json = next((c for c in conditions if c["type"] == type_), {})
        return found

    def wait_ready(self, *names: str, seconds: int = 240) -> None:
        """kubectl wait, which also looks at observedGeneration; what the machines say when it does not come."""
        done = self.kubectl(
            "wait",
            "--for=condition=Ready",
            f"--timeout={seconds}s",
            *(f"machine/{n}" for n in names),
            ok=False,
            timeout=seconds + 60,
        )
        if done.returncode:
            raise AssertionError(done.stderr + "\n".join(self.story(n) for n in names))

    def wait_cluster_ready(self, name: str, *, seconds: int = 300) -> None:
        """kubectl wait; what the cluster says when it does not come."""
        done = self.kubectl(
            "wait", "--for=condition=Ready", f"--timeout={seconds}s", f"cluster/{name}", ok=False, timeout=seconds + 60
        )
        if done.returncode:
            status = self.get("cluster", name).get("status", {})
            raise AssertionError(
                done.stderr + json.dumps({k: v for k, v in status.items() if k != "certificates"}, indent=1)
            )

    def story(self, name: str) -> str:
        """What Fleet says about a machine: for messages of tests that failed."""
        obj = self.get("machine", name)
        conditions = [
            f"  {c['type']}={c['status']} {c['reason']}: {c['message']}"
            for c in obj.get("status", {}).get("conditions", [])
        ]
        operations = json.loads(
            self.kubectl("get", "operations", f"--field-selector=spec.machine={name}", "-o", "json").stdout
        )["items"]
        steps = [
            f"  {o['metadata']['name']} {o['status'].get('phase')} {o['status'].get('message', '')}: "
            + ", ".join(f"{s['name']}={s['status']}/{s.get('reason', '')}" for s in o["status"].get("steps", []))
            for o in operations[-3:]
        ]
        return "\n".join([f"{name} {obj['status'].get('phase')}", *conditions, *steps])

    def remove_clusters(self) -> None:
        """Machines are given up and clusters with a control plane deleted, so that no process of theirs is left."""
        for name in self._names("machines"):
            self.kubectl("annotate", "machine", name, f"fleet.dev/abandon={name}", "--overwrite", ok=False)
            self.kubectl("delete", "machine", name, "--wait=false", ok=False)
        self.until(lambda: not self._names("machines"), "no machine is left", seconds=120)
        for name in self._names("clusters"):
            self.kubectl("annotate", "cluster", name, f"fleet.dev/confirm-delete={name}", "--overwrite", ok=False)
            self.kubectl("delete", "cluster", name, "--wait=false", ok=False)
        self.until(lambda: not self._names("clusters"), "no cluster is left", seconds=120)

    def _names(self, kind: str) -> list[str]:
        return self.kubectl("get", kind, "-o", "jsonpath={.items[*].metadata.name}").stdout.split()

    def until(self, condition: Callable[[], bool], what: str, *names: str, seconds: float = 180) -> None:
        """Ask again each second until it is so."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n" + "\n".join(self.story(n) for n in names))
            time.sleep(1)
