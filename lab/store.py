"""A package store that hosts of the lab download from, and that can misbehave on demand."""

from __future__ import annotations

import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

Fault = Literal["missing", "error", "truncated", "changed", "hang"]


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class PackageStore:
    """Serves a folder by HTTP on `address` (the lab's bridge), at a port of its own; start/stop or context manager.

    Faults, one a file: missing (404), error (503), truncated (half of the announced bytes, then the connection ends),
    changed (other bytes of the same length), hang (headers, then nothing until the store stops or the fault is lifted).
    """

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._faults: dict[str, Fault] = {}
        self._lifted = threading.Condition()
        self.requests: list[str] = []  # file names in the order they were asked for
        self._server = _Server((address, 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="lab-store", daemon=True)

    def __enter__(self) -> PackageStore:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more; hanging downloads end."""
        self.lift()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The address of the folder, without a slash at the end."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def add(self, path: Path) -> Path:
        """Put a copy of a file into the store; the path of the copy."""
        return Path(shutil.copy(path, self.folder / path.name)) if path.parent != self.folder else path

    def url_for(self, path: Path | str) -> str:
        """The address of a file of the store, by path or by name."""
        return f"{self.url}/{quote(Path(path).name)}"

    def fault(self, path: Path | str, fault: Fault) -> None:
        """From now on this file is served wrongly."""
        with self._lifted:
            self._faults[Path(path).name] = fault

    def lift(self, path: Path | str | None = None) -> None:
        """Serve this file, or all, rightly again."""
        with self._lifted:
            if path is None:
                self._faults.clear()
            else:
                self._faults.pop(Path(path).name, None)
            self._lifted.notify_all()

    def fault_of(self, name: str) -> Fault | None:
        """The fault under which a file is served at present."""
        return self._faults.get(name)

    def wait_until_lifted(self, name: str) -> None:
        """Block while the file has the fault 'hang'."""
        with self._lifted:
            self._lifted.wait_for(lambda: self._faults.get(name) != "hang")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], store: PackageStore) -> None:
        super().__init__(address, _Handler)
        self.store = store


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        store = self.server.store
        name = unquote(urlsplit(self.path).path).lstrip("/")
        store.requests.append(name)
        fault = store.fault_of(name)
        path = store.folder / name
        if fault == "missing" or "/" in name or not path.is_file():
            self.send_error(404)
            return
        if fault == "error":
            self.send_error(503)
            return
        data = path.read_bytes()
        if fault == "changed" and data:
            data = data[:-1] + bytes([data[-1] ^ 0xFF])
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "hang":
            self.wfile.flush()
            store.wait_until_lifted(name)
        try:
            self.wfile.write(data[: len(data) // 2] if fault == "truncated" else data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up; nothing is owed to it

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """No log: `PackageStore.requests` says what was asked for."""
