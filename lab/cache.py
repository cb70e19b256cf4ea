"""What is built once a machine and kept: file systems, images, kernels. Each entry is named by a hash of its recipe."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.command import run

CACHE = Path("/var/cache/fleet-lab")


def key_of(*recipe: str) -> str:
    """A short name for a recipe: another text is another entry."""
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:12]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for it; it ends with the process at the latest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The cache entry `name`, built by `build(folder)` in a folder beside it if it is not there yet.

    Appears by one rename: a build that was cut off leaves no half entry. Two processes never build the same one.
    """
    entry = CACHE / name
    if entry.exists():
        return entry
    with locked(CACHE / f".{name}.lock"):
        if entry.exists():
            return entry
        for leftover in CACHE.glob(f".build-{name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".build-{name}-", dir=CACHE))
        folder.chmod(0o755)
        try:
            build(folder)
            folder.rename(entry)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return entry


def build_layer(lower: list[Path], folder: Path, script: str, *, archive: str, after: str = "") -> None:
    """Run `script` (sh -e) as root inside an overlay of `lower`; what it changes becomes `folder`/upper.

    `archive` is the sources.list of the build. `after` runs outside, with $merged as the finished tree. A private mount
    and pid namespace holds all of it: nothing stays mounted or running, however the build ends.
    """
    for name in ("upper", "work", "merged"):
        (folder / name).mkdir()
    stack = ":".join(str(path) for path in lower)
    (folder / "inside").write_text(_PREPARE + script)
    (folder / "sources").write_text(archive)
    outside = f"""
set -e
merged={folder}/merged
mount -t overlay overlay -o lowerdir={stack},upperdir={folder}/upper,workdir={folder}/work "$merged"
mount -t proc proc "$merged/proc"
cp {folder}/inside "$merged/lab-build"
cp {folder}/sources "$merged/etc/apt/sources.list"
cp -L /etc/resolv.conf "$merged/etc/resolv.conf"
apt-config dump | grep -E '^Acquire::.*[Pp]roxy' >"$merged/etc/apt/apt.conf.d/90lab-proxy" || true
chroot "$merged" /bin/sh -e /lab-build </dev/null
rm -rf "$merged/lab-build" "$merged/etc/resolv.conf" "$merged/etc/apt/sources.list" "$merged/var/lib/apt/lists" \\
    "$merged/etc/apt/apt.conf.d/90lab-proxy" "$merged/usr/sbin/policy-rc.d"
umount "$merged/proc"
{after}
umount "$merged"
"""
    run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", outside])
    shutil.rmtree(folder / "work")
    (folder / "merged").rmdir()
    for name in ("inside", "sources"):
        (folder / name).unlink()


_PREPARE = """
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d   # a build starts no services
chmod 755 /usr/sbin/policy-rc.d
"""
