"""Provider Local: a control plane as processes on this host, for evaluation and tests.

A process outlives the worker that started it: it is found again by its pid and start time, which stand beside its digest in
`<folder>/<component>/run.json`. Whoever passes next starts again what has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from clusters import etcd, flags
from clusters.flags import MEMBER, Place
from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.planes import (
    APISERVER,
    COMPONENTS,
    CONTROLLER_MANAGER,
    ETCD,
    FILES,
    SCHEDULER,
    ComponentSeen,
    Plane,
    Snapshot,
)
from fleet.control.addresses import Network
from fleet.control.endpoint import Endpoint
from fleet.control.errors import PermanentError, TemporaryError
from fleet.control.kinds import Json

STOP_SECONDS: Final = 15.0
_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"),)
_HERE: Final = "127.0.0.1"
_PORTS: Final = {ETCD: 1, CONTROLLER_MANAGER: 3, SCHEDULER: 4}  # above the API server's; 2 is etcd's peers


class Local:
    """`folder`: of all planes, one each by uid. `binaries`: where names that are no absolute paths are looked up."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._folder, self._binaries = folder, binaries

    # -- the port ---------------------------------------------------------------------------------------------------

    async def place(self, plane: Plane, *, restoring: bool = False) -> Mapping[str, str]:
        """See `Provider.place`: here."""
        return {}

    def etcd_names(self, plane: Plane) -> Sequence[str]:
        """See `Provider.etcd_names`."""
        return (_HERE, "localhost")

    async def observe(self, plane: Plane) -> Sequence[ComponentSeen]:
        """See `Provider.observe`."""
        found = await asyncio.gather(*(self._look(plane, name) for name in COMPONENTS))
        return [seen for seen in found if seen is not None]

    async def apply(self, plane: Plane, component: str) -> None:
        """See `Provider.apply`: the old process ends, its files are written anew, the new one starts."""
        binary = self._binary(plane, component)
        await self.stop(plane, component)
        home = self._home(plane, component)
        self._write(home, plane, component)
        argv = [str(binary), *flags.arguments(plane, component, self._place(plane, component))]
        pid = _start(argv, home)
        run = {
            "pid": pid, "started": _started(pid), "digest": plane.digest(component),
            "version": plane.components[component].version,
        }  # fmt: skip
        _replace(home / "run.json", orjson.dumps(run))

    async def stop(self, plane: Plane, component: str) -> None:
        """See `Provider.stop`: asked to end, after a while made to."""
        home = self._home(plane, component)
        run = _read(home)
        if run is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                if _alive(run):
                    os.kill(run["pid"], number)
            end = asyncio.get_running_loop().time() + STOP_SECONDS
            while _alive(run) and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - its end is told to nobody
                await asyncio.sleep(0.05)
        if _alive(run):
            raise TemporaryError("StillRunning", f"{component} (pid {run['pid']}) does not end")
        (home / "run.json").unlink(missing_ok=True)

    async def snapshot(self, plane: Plane, target: Path) -> Snapshot:
        """See `Provider.snapshot`: etcd streams its database with its checksum at the end."""
        return await etcd.snapshot(self._etcd(plane), target, _LOOPBACK)

    async def restore(self, plane: Plane, source: Snapshot) -> None:
        """See `Provider.restore`. The data of before stays beside the new, until the next restore."""
        etcd.check(source)
        await self.stop(plane, ETCD)
        place = self._place(plane, ETCD)
        fresh, before = place.data.with_name("data.fresh"), place.data.with_name("data.before")
        shutil.rmtree(fresh, ignore_errors=True)
        peer = f"https://{_HERE}:{place.peer}"
        done = await asyncio.create_subprocess_exec(
            str(self._find("etcdutl")), *etcd.restore_words(str(source.path), str(fresh), MEMBER, place.peers(), peer),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await done.communicate()
        if done.returncode:
            raise TemporaryError("RestoreFailed", f"etcdutl: {said.decode(errors='replace').strip()[-300:]}")
        shutil.rmtree(before, ignore_errors=True)
        if place.data.exists():
            place.data.rename(before)
        fresh.rename(place.data)

    async def remove(self, plane: Plane) -> bool:
        """See `Provider.remove`."""
        for component in reversed(COMPONENTS):
            await self.stop(plane, component)
        shutil.rmtree(self._folder / plane.uid, ignore_errors=True)
        return not (self._folder / plane.uid).exists()

    def endpoint(self, plane: Plane) -> Endpoint:
        """See `Provider.endpoint`."""
        return Endpoint(
            f"https://{plane.host}:{plane.port}", ca=plane.files["ca.crt"], certificate=plane.files["admin.crt"], key=plane.files["admin.key"]
        )  # fmt: skip

    def lacking(self, plane: Plane) -> Sequence[str]:
        """See `Foresees.lacking`."""
        out = []
        for component in COMPONENTS:
            try:
                self._binary(plane, component)
            except PermanentError as error:
                out.append(f"{component}: {error.message}")
        return out

    # -- one component ----------------------------------------------------------------------------------------------

    async def _look(self, plane: Plane, component: str) -> ComponentSeen | None:
        home = self._home(plane, component)
        run = _read(home)
        if run is None:
            return None
        if not _alive(run):
            return ComponentSeen(
                component, "", run["version"], False, 0, 1, f"{component} has ended: {_last_words(home)}"
            )
        edited = self._edited(home, plane, component)
        if edited and run["digest"] == plane.digest(component):
            return ComponentSeen(component, "", run["version"], False, 0, 1, f"{edited} was changed by somebody")
        why = await self._ready(plane, component)
        return ComponentSeen(component, run["digest"], run["version"], not why, 0 if why else 1, 1, why)

    def _edited(self, home: Path, plane: Plane, component: str) -> str:
        """The first of its files that is not as it was written, "" = all are."""
        for name in FILES[component]:
            try:
                if (home / "files" / name).read_text() != plane.files[name]:
                    return name
            except (OSError, UnicodeDecodeError):
                return name
        return ""

    async def _ready(self, plane: Plane, component: str) -> str:
        """Why it is not ready, "" when it is."""
        if component in (ETCD, APISERVER):
            endpoint, path = (self._etcd(plane), "/health") if component == ETCD else (self.endpoint(plane), "/readyz")
            try:
                async with Kube(endpoint, networks=(*_LOOPBACK, *_own(endpoint))) as kube:
                    await kube.send("GET", path, seconds=3)
            except (KubeError, KubeUnreachable) as error:
                return f"{component} is not ready: {str(error)[:200]}"
            return ""
        # Its certificate is its own and signed by nobody, as a kubelet's probe takes it too; nothing is sent but the question.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        url = f"https://{_HERE}:{plane.port + _PORTS[component]}/healthz"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session,
                session.get(url, ssl=context) as answer,
            ):
                return "" if answer.status == 200 else f"{component} answers {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{component} does not answer: {error or type(error).__name__}"

    def _etcd(self, plane: Plane) -> Endpoint:
        files = plane.files
        return Endpoint(
            f"https://{_HERE}:{plane.port + _PORTS[ETCD]}", ca=files["etcd-ca.crt"],
            certificate=files["apiserver-etcd-client.crt"], key=files["apiserver-etcd-client.key"],
        )  # fmt: skip

    def _home(self, plane: Plane, component: str) -> Path:
        return self._folder / plane.uid / component

    def _place(self, plane: Plane, component: str) -> Place:
        home, port = self._home(plane, component), plane.port
        own = plane.host if flags.is_address(plane.host) else ""
        return Place(
            home / "files", home / "data", _HERE, port + 1, port + 2, port + 3, port + 4, port, {MEMBER: _HERE},
            serve=own or "0.0.0.0", advertise=own,
        )  # fmt: skip

    def _write(self, home: Path, plane: Plane, component: str) -> None:
        for folder in (self._folder, self._folder / plane.uid, home, home / "files", home / "data"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in FILES[component]:
            _replace(home / "files" / name, plane.files[name].encode())

    def _binary(self, plane: Plane, component: str) -> Path:
        name = plane.components[component].binary
        if not name:
            raise PermanentError(
                "NoBinary", f"the ClusterPackageVersion names no binary for {component}, which Local needs"
            )
        return self._find(name)

    def _find(self, name: str) -> Path:
        path = Path(name) if name.startswith("/") else self._binaries / name
        if not path.is_file() or not os.access(path, os.X_OK):
            raise PermanentError("NoBinary", f"{path} is no program on this host (FLEET_BINARIES says where they lie)")
        return path


def _own(endpoint: Endpoint) -> Sequence[Network]:
    """The address of the API server, which is one of this host's."""
    return [ipaddress.ip_network(endpoint.host)] if flags.is_address(endpoint.host) else []


_children: dict[int, subprocess.Popen[bytes]] = {}  # of this worker, to be reaped when they end


def _start(argv: Sequence[str], home: Path) -> int:
    """A process of its own session, which does not end with this one; its pid."""
    with (home / "log").open("ab") as log:
        child = subprocess.Popen(
            argv, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(home)},
        )  # fmt: skip
    _children[child.pid] = child
    return child.pid


def _replace(path: Path, data: bytes) -> None:
    """Atomically, readable by its owner only."""
    part = path.with_name(path.name + ".part")
    part.touch(mode=0o600)
    part.write_bytes(data)
    part.replace(path)


def _read(home: Path) -> Json | None:
    try:
        run: Json = orjson.loads((home / "run.json").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return run


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on; [] = there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _started(pid: int) -> str:
    found = _stat(pid)
    return found[19] if found else ""


def _alive(run: Json) -> bool:
    """Whether that very process runs. One that ended under this worker is reaped."""
    found = _stat(run["pid"])
    if not found or found[19] != run["started"]:
        return False
    if found[0] == "Z":
        child = _children.pop(run["pid"], None)
        if child is not None:
            child.wait()
        return False
    return True


def _last_words(home: Path) -> str:
    try:
        with (home / "log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2_000))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return "it left no log"
    return lines[-1][:300] if lines else "it said nothing"
