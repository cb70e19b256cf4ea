"""The images that pods of the lab run, each built once a machine: pause, busybox, a reporter of node conditions, kube-proxy, a DNS server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from lab import kubernetes, oci, rootfs
from lab.cache import cached, key_of
from lab.command import run
from lab.requirements import go

PAUSE: Final = "localhost/pause:1"
BUSYBOX: Final = "localhost/busybox:1"
REPORTER: Final = "localhost/reporter:1"
KUBE_PROXY: Final = f"localhost/kube-proxy:{kubernetes.KUBE_PROXY}"
DNS: Final = "localhost/coredns:1"
_GO: Final = Path(__file__).parent / "go"
_CONTENT: Final = (Path(oci.__file__), Path(__file__))  # another text of these is another image


def all_of_them() -> list[Path]:
    """Each image of this module."""
    return [pause(), busybox(), reporter(), kube_proxy(), dns()]


def pause() -> Path:
    """What holds a pod's namespaces."""

    def build(folder: Path) -> None:
        files: Mapping[str, Path | bytes] = {"/bin/busybox": _busybox()}
        oci.image(folder / "image.tar", PAUSE, files, ["/bin/busybox", "sleep", "infinity"])

    return _kept("pause", build)


def busybox() -> Path:
    """A shell and 250 small tools, among them httpd and nc; `fetch URL` in place of wget, which finds no names."""

    def build(folder: Path) -> None:
        program = _busybox()
        links = {f"/bin/{name}": "busybox" for name in run([program, "--list"]).stdout.split() if name != "busybox"}
        fetch = _built("fetch", folder)
        files: Mapping[str, Path | bytes] = {"/bin/busybox": program, "/bin/fetch": fetch}
        oci.image(folder / "image.tar", BUSYBOX, files, ["/bin/sh"], links=links)
        fetch.unlink()

    return _kept("busybox", build, _GO / "fetch/main.go")


def reporter() -> Path:
    """Keeps one key of a Condition ConfigMap: True while a file is there.

    Environment: NODE_NAME, NAMESPACE, CONFIGMAP, CONDITION_TYPE, REPORTER (name of the reporter), FILE.
    """

    return _program("reporter", REPORTER)


def dns() -> Path:
    """coredns, for the names of Services."""
    return _program("coredns", DNS)


def kube_proxy() -> Path:
    """kube-proxy with the iptables of Debian that it calls."""
    base = rootfs.base()

    def build(folder: Path) -> None:
        tool = "/usr/sbin/xtables-nft-multi"
        matches = [path for kind in ("xt", "ipt", "ip6t") for path in base.glob(f"usr/lib/*/xtables/lib{kind}_*.so")]
        programs = [tool, *(f"/{path.relative_to(base)}" for path in matches)]
        linked = run(["chroot", base, "ldd", *programs]).stdout
        libraries = {word for word in linked.split() if word.startswith("/") and not word.endswith(":")}
        files: dict[str, Path | bytes] = {path: base / path.lstrip("/") for path in (*programs, *libraries)}
        files["/usr/bin/kube-proxy"] = kubernetes.binary("kube-proxy", kubernetes.KUBE_PROXY)
        links = {f"/usr/sbin/{n}{what}": "xtables-nft-multi" for n in ("iptables", "ip6tables") for what in ("", "-save", "-restore")}  # fmt: skip
        oci.image(folder / "image.tar", KUBE_PROXY, files, ["/usr/bin/kube-proxy"], links=links)

    return _kept("kube-proxy", build, _GO / "kube-proxy/go.mod")


def _program(module: str, name: str) -> Path:
    """An image of one static program."""

    def build(folder: Path) -> None:
        program = _built(module, folder)
        oci.image(folder / "image.tar", name, {f"/bin/{module}": program}, [f"/bin/{module}"])
        program.unlink()

    return _kept(module, build, _GO / module / "main.go", _GO / module / "go.mod")


def _built(module: str, folder: Path) -> Path:
    """The static program of a Go module of the lab, in `folder`."""
    program = folder / module
    command: list[str | Path] = ["nice", go(), "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "."]
    run(command, cwd=_GO / module, env={**os.environ, "CGO_ENABLED": "0"}, timeout=3600)
    return program


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
