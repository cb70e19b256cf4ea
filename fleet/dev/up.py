"""`make up`: from a fresh clone to a running Fleet with a simulated fleet to look at. Ctrl-C ends all of it; state stays in `.fleet/`."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from fleet.dev.certificates import ensure_certificates
from fleet.dev.services import Postgres, ServiceError, Valkey
from fleet.dev.state import State
from fleet.dev.supervisor import Supervisor

CHECKOUT = Path(__file__).resolve().parent.parent.parent
# The lab's hosts and the simulated fleet stand in 10/8; nothing else private is reached.
EVALUATION_NETWORKS = "10.0.0.0/8"


class Refused(Exception):
    """Fleet does not start here; the message is the one sentence to print."""


def main() -> int:
    """Start everything, print the ready line, stay in the foreground."""
    options = _options()
    begun = time.monotonic()
    state = State.of(CHECKOUT)
    try:
        with _only_one(state):
            return _run(state, options, begun)
    except (Refused, ServiceError) as refusal:
        print(f"Fleet does not start: {refusal}", file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make up", description="Run Fleet on this machine for evaluation.")
    parser.add_argument("--http-port", type=int, default=int(os.environ.get("FLEET_HTTP_PORT", "8000")))
    parser.add_argument("--https-port", type=int, default=int(os.environ.get("FLEET_HTTPS_PORT", "8443")))
    parser.add_argument("--workers", type=int, default=int(os.environ.get("FLEET_WORKERS", "1")))
    parser.add_argument("--clusters", type=int, default=3)
    parser.add_argument("--machines", type=int, default=1000, help="simulated machines per cluster; 0 = no demo fleet")
    return parser.parse_args()


@contextlib.contextmanager
def _only_one(state: State) -> Iterator[None]:
    """An exclusive lock on the state folder; a second `make up` of the same checkout is refused."""
    with (state.home / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Refused(f"it runs already in this folder (process {file.read().strip() or 'unknown'}).") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _check_ports(options: argparse.Namespace) -> None:
    for flag, port in (("FLEET_HTTP_PORT", options.http_port), ("FLEET_HTTPS_PORT", options.https_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise Refused(
                    f"port {port} is in use by another program ({error.strerror}). Free it, or choose another: {flag}=<port> make up"
                ) from None


def _environment(state: State, postgres: Postgres, valkey: Valkey, options: argparse.Namespace) -> dict[str, str]:
    return {
        **state.environment(),
        "DJANGO_SETTINGS_MODULE": "fleet.settings",
        "DATABASE_URL": postgres.url,
        "REDIS_URL": valkey.url,
        "CELERY_BROKER": valkey.broker_url,
        "FLEET_CLUSTERS_DIR": str(state.home / "clusters"),
        "FLEET_SECURE_COOKIES": "false",
        "FLEET_REQUIRE_APPROVAL": os.environ.get("FLEET_REQUIRE_APPROVAL", "false"),
        "FLEET_ALLOWED_NETWORKS": os.environ.get("FLEET_ALLOWED_NETWORKS", EVALUATION_NETWORKS),
        "FLEET_TRUSTED_ORIGINS": f"http://127.0.0.1:{options.http_port},http://localhost:{options.http_port}",
        "FLEET_BATCH": os.environ.get("FLEET_BATCH", "100"),
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_TRIM_THRESHOLD_": "131072",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": "",
    }


def _run(state: State, options: argparse.Namespace, begun: float) -> int:
    _check_ports(options)
    if state.orphan is not None:
        raise Refused(
            f"{state.orphan} holds the database of an earlier start, whose secrets went with .fleet. Remove it: rm -r {state.orphan}"
        )
    if state.is_bereft:
        raise Refused(
            f"the database of this Fleet is gone: {state.database}. Put it back, or begin anew: rm -r {state.home.name}"
        )
    logs = state.home / "logs"
    postgres = Postgres(
        data=state.database, sockets=state.sockets, log=logs / "postgres.log", settings={"shared_buffers": "64MB"}
    )
    valkey = Valkey(socket=state.sockets / "valkey.sock", log=logs / "valkey.log")
    ca, certificate, key = ensure_certificates(state.home)
    environment = _environment(state, postgres, valkey, options)
    supervisor = Supervisor(environment, logs)
    _stop_on_signals(supervisor)
    try:
        postgres.start()
        supervisor.watch(postgres)
        valkey.start()
        supervisor.watch(valkey)
        _prepare(environment, options, ca)
        _start_processes(supervisor, options, certificate, key)
        if _wait_until_ready(supervisor, options.http_port):
            _say_ready(environment, options, time.monotonic() - begun)
            supervisor.run()
    finally:
        supervisor.say("up", "stopping")
        supervisor.stop()
    return 0


def _stop_on_signals(supervisor: Supervisor) -> None:
    def stop(signum: int, frame: FrameType | None) -> None:
        supervisor.stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _prepare(environment: Mapping[str, str], options: argparse.Namespace, ca: Path) -> None:
    """Migrations, admin user, kubeconfig and demo fleet, in a process of its own: this one stays small."""
    server = f"https://127.0.0.1:{options.https_port}"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fleet.dev.prepare",
            "--server",
            server,
            "--ca",
            str(ca),
            "--kubeconfig",
            str(CHECKOUT / ".fleet" / "kubeconfig"),
            "--clusters",
            str(options.clusters),
            "--machines",
            str(options.machines),
        ],
        env={**os.environ, **environment},
        cwd=CHECKOUT,
        start_new_session=True,
    )
    if done.returncode:
        raise Refused("the database could not be prepared; the lines above say why.")


def _start_processes(supervisor: Supervisor, options: argparse.Namespace, certificate: Path, key: Path) -> None:
    python = sys.executable
    supervisor.add(
        "web",
        [
            python,
            "manage.py",
            "serve",
            "--http",
            f"127.0.0.1:{options.http_port}",
            "--https",
            f"127.0.0.1:{options.https_port}",
            "--certfile",
            str(certificate),
            "--keyfile",
            str(key),
        ],
        FLEET_PRIVATE_KEY="",  # web processes can seal credentials, never open them
    )
    for number in range(1, options.workers + 1):
        supervisor.add(
            f"worker{number if options.workers > 1 else ''}",
            [
                python,
                "-m",
                "celery",
                "-A",
                "fleet.celery",
                "worker",
                "--pool=prefork",
                "--concurrency=1",
                "--loglevel=WARNING",
                f"--hostname=fleet{number}@%h",
                "--without-gossip",
                "--without-mingle",
            ],
        )
    supervisor.add("watcher", [python, "manage.py", "watch"])
    supervisor.add("simulator", [python, "-m", "simulator.clusters"], FLEET_PRIVATE_KEY="")
    supervisor.add(
        "beat", [python, "-m", "celery", "-A", "fleet.beat", "beat", "--loglevel=WARNING"], FLEET_PRIVATE_KEY=""
    )


def _wait_until_ready(supervisor: Supervisor, port: int) -> bool:
    """True once the API answers; False when the person pressed Ctrl-C before."""
    while not supervisor.stopping.wait(0.1):
        supervisor.tick()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return True
        except OSError:
            continue  # not listening yet, or 503 while it starts
    return False


def _say_ready(environment: Mapping[str, str], options: argparse.Namespace, seconds: float) -> None:
    print(
        f"\nFleet is ready after {seconds:.0f} s.\n"
        f"  console   http://127.0.0.1:{options.http_port}/   user admin, password {environment['FLEET_ADMIN_PASSWORD']}\n"
        f"  kubectl   kubectl --kubeconfig .fleet/kubeconfig get machines\n"
        f"  API page  http://127.0.0.1:{options.http_port}/api/docs\n"
        "  Ctrl-C ends it; the data stays in .fleet/.\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
