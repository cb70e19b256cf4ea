"""The images that pods of the lab run, each built once a machine: pause, busybox, and a reporter of node conditions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from lab import oci, rootfs
from lab.cache import cached, key_of
from lab.command import run
from lab.requirements import go

PAUSE: Final = "localhost/pause:1"
BUSYBOX: Final = "localhost/busybox:1"
REPORTER: Final = "localhost/reporter:1"
_REPORTER: Final = Path(__file__).parent / "go/reporter"
_CONTENT: Final = (Path(oci.__file__), Path(__file__))  # another text of these is another image


def pause() -> Path:
    """What holds a pod's namespaces."""

    def build(folder: Path) -> None:
        files: Mapping[str, Path | bytes] = {"/bin/busybox": _busybox()}
        oci.image(folder / "image.tar", PAUSE, files, ["/bin/busybox", "sleep", "infinity"])

    return _kept("pause", build)


def busybox() -> Path:
    """A shell and 250 small tools, among them httpd, nc and wget."""

    def build(folder: Path) -> None:
        program = _busybox()
        links = {f"/bin/{name}": "busybox" for name in run([program, "--list"]).stdout.split() if name != "busybox"}
        oci.image(folder / "image.tar", BUSYBOX, {"/bin/busybox": program}, ["/bin/sh"], links=links)

    return _kept("busybox", build)


def reporter() -> Path:
    """Keeps one key of a Condition ConfigMap: True while a file is there.

    Environment: NODE_NAME, NAMESPACE, CONFIGMAP, CONDITION_TYPE, REPORTER (name of the reporter), FILE.
    """

    def build(folder: Path) -> None:
        program = folder / "reporter"
        command: list[str | Path] = [go(), "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "."]
        run(command, cwd=_REPORTER, env={**os.environ, "CGO_ENABLED": "0"})
        oci.image(folder / "image.tar", REPORTER, {"/bin/reporter": program}, ["/bin/reporter"])
        program.unlink()

    return _kept("reporter", build, _REPORTER / "main.go", _REPORTER / "go.mod")


def _busybox() -> Path:
    """Debian's static busybox."""

    def build(folder: Path) -> None:
        run(["apt-get", "download", "-qq", "busybox-static"], cwd=folder)
        package = next(folder.glob("busybox-static_*.deb"))
        run(["dpkg-deb", "--extract", package, folder / "tree"])
        (folder / "tree/bin/busybox").rename(folder / "busybox")
        shutil.rmtree(folder / "tree")
        package.unlink()

    return cached(f"busybox-{key_of(rootfs.SUITE)}", build) / "busybox"


def _kept(name: str, build: Callable[[Path], None], *recipe: Path) -> Path:
    texts = [path.read_text() for path in (*_CONTENT, *recipe)]
    return cached(f"image-{name}-{key_of(*texts)}", build) / "image.tar"
