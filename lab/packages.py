"""Small packages for tests: deb, rpm and tarball, built in a second and without any network."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from lab.command import run
from lab.keys import SigningKey
from lab.store import PackageStore, sha256

__all__ = ["PackageStore", "SigningKey", "build_deb", "build_rpm", "build_tarball", "sha256", "sign_rpm"]

Files = Mapping[str, str | bytes]  # path on the host (or in the tarball) -> content
_UNIT_FOLDER = "/usr/lib/systemd/system"
_MAINTAINER = "Lab <packages@lab.invalid>"


def build_deb(
    name: str,
    version: str,
    *,
    files: Files | None = None,
    units: Mapping[str, str] | None = None,
    conffiles: Iterable[str] = (),
    depends: Sequence[str] = (),
    provides: Sequence[str] = (),
    conflicts: Sequence[str] = (),
    preinst: str = "",
    postinst: str = "",
    prerm: str = "",
    postrm: str = "",
    architecture: str = "all",
    folder: Path | None = None,
) -> Path:
    """A deb in `folder` (default: a new temporary one). Scripts are bodies for /bin/sh -e.

    `units` maps a unit's name to its text; they are enabled and started as debhelper's packages do it, which obeys
    policy-rc.d. `conffiles` are the paths that dpkg treats as configuration.
    """
    units = units or {}
    conffiles = tuple(conffiles)
    target = _folder(folder) / f"{name}_{_without_epoch(version)}_{architecture}.deb"
    with tempfile.TemporaryDirectory(prefix="flab-deb-") as work:
        root = Path(work) / "root"
        _lay_out(root, {**(files or {}), **{f"{_UNIT_FOLDER}/{unit}": text for unit, text in units.items()}})
        control = [
            f"Package: {name}",
            f"Version: {version}",
            f"Architecture: {architecture}",
            f"Maintainer: {_MAINTAINER}",
        ]
        for field, values in (("Depends", depends), ("Provides", provides), ("Conflicts", conflicts)):
            if values:
                control.append(f"{field}: {', '.join(values)}")
        control.append(f"Description: {name} for tests")
        meta = root / "DEBIAN"
        meta.mkdir(parents=True)
        (meta / "control").write_text("\n".join(control) + "\n")
        if conffiles:
            (meta / "conffiles").write_text("\n".join(conffiles) + "\n")
        scripts = {
            "preinst": preinst,
            "postinst": postinst + _deb_units_start(units),
            "prerm": _deb_units_stop(units) + prerm,
            "postrm": postrm,
        }
        for script, body in scripts.items():
            if body.strip():
                (meta / script).write_text(f"#!/bin/sh\nset -e\n{body}\n")
                (meta / script).chmod(0o755)
        run(["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", root, target])
    return target


def build_rpm(
    name: str,
    version: str,
    *,
    release: str = "1",
    files: Files | None = None,
    units: Mapping[str, str] | None = None,
    config: Iterable[str] = (),
    requires: Sequence[str] = (),
    provides: Sequence[str] = (),
    pre: str = "",
    post: str = "",
    preun: str = "",
    postun: str = "",
    sign_key: SigningKey | None = None,
    folder: Path | None = None,
) -> Path:
    """An rpm (noarch) in `folder` (default: a new temporary one), signed if `sign_key` is given.

    `config` are the paths marked %config(noreplace). As on Red Hat's systems a new unit is neither enabled nor started.
    """
    units = units or {}
    content = {**(files or {}), **{f"{_UNIT_FOLDER}/{unit}": text for unit, text in units.items()}}
    reload = "systemctl daemon-reload >/dev/null 2>&1 || :\n" if units else ""
    stop = (
        f'if [ "$1" -eq 0 ]; then systemctl disable --now {" ".join(units)} >/dev/null 2>&1 || :; fi\n' if units else ""
    )
    spec = [
        f"Name: {name}",
        f"Version: {version}",
        f"Release: {release}",
        f"Summary: {name} for tests",
        "License: none",
    ]
    spec += ["BuildArch: noarch", "AutoReqProv: no"]
    spec += [f"Requires: {value}" for value in requires] + [f"Provides: {value}" for value in provides]
    spec += ["%description", f"{name} for tests"]
    for section, body in (
        ("pre", pre),
        ("post", f"{post}\n{reload}"),
        ("preun", stop + preun),
        ("postun", f"{postun}\n{reload}"),
    ):
        if body.strip():
            spec += [f"%{section} -p /bin/sh", body]
    config = set(config)
    spec += ["%files", "%defattr(-,root,root)"]
    spec += [f'%config(noreplace) "{path}"' if path in config else f'"{path}"' for path in content]
    with tempfile.TemporaryDirectory(prefix="flab-rpm-") as work:
        top = Path(work)
        tree = top / "tree"
        _lay_out(tree, content)
        (top / "package.spec").write_text("\n".join(spec) + "\n")
        defines = {"_topdir": top, "_rpmdir": top / "out", "_dbpath": top / "db", "_build_id_links": "none"}
        # The tree is made here, and a spec without %install would clean the build root: it is copied in by a macro.
        script = f"%install\nmkdir -p %{{buildroot}}\ncp -a {tree}/. %{{buildroot}}/\n"
        text = (top / "package.spec").read_text().replace("%files\n", script + "%files\n")
        (top / "package.spec").write_text(text)
        arguments = [word for key, value in defines.items() for word in ("--define", f"{key} {value}")]
        run(["rpmbuild", "-bb", "--quiet", *arguments, "--define", "__os_install_post %{nil}", top / "package.spec"])
        built = next((top / "out").rglob("*.rpm"))
        target = _folder(folder) / built.name
        shutil.move(built, target)
    if sign_key is not None:
        sign_rpm(target, sign_key)
    return target


def sign_rpm(path: Path, key: SigningKey) -> None:
    """Sign the rpm in place."""
    # rpmsign starts gpg without looking along PATH.
    values = {"_gpg_name": key.fingerprint, "_gpg_path": key.home, "__gpg": shutil.which("gpg") or "/usr/bin/gpg"}
    defines = [word for name, value in values.items() for word in ("--define", f"{name} {value}")]
    run(["rpmsign", *defines, "--addsign", path])


def build_tarball(name: str, version: str, *, files: Files, folder: Path | None = None) -> Path:
    """`name-version.tar.gz`; paths in it are as given, without a leading slash. The same input gives the same bytes."""
    target = _folder(folder) / f"{name}-{version}.tar.gz"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in sorted(files.items()):
            data = _bytes(content)
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(data), _mode(path, data)
            archive.addfile(member, io.BytesIO(data))
    target.write_bytes(gzip.compress(plain.getvalue(), mtime=0))
    return target


def _folder(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="flab-package-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _lay_out(root: Path, files: Files) -> None:
    for path, content in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        data = _bytes(content)
        place.write_bytes(data)
        place.chmod(_mode(path, data))
    for folder in root.rglob("*"):
        if folder.is_dir():
            folder.chmod(0o755)  # whatever the caller's umask is, the host's folders stay readable
    if root.exists():
        root.chmod(0o755)
    root.mkdir(parents=True, exist_ok=True)


def _mode(path: str, data: bytes) -> int:
    """Programs are executable: what lies in a bin folder or begins with '#!'."""
    return 0o755 if data.startswith(b"#!") or PurePosixPath(path).parent.name in ("bin", "sbin") else 0o644


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _without_epoch(version: str) -> str:
    return version.partition(":")[2] or version


def _deb_units_start(units: Mapping[str, str]) -> str:
    if not units:
        return ""
    names = " ".join(units)
    return f"""
for unit in {names}; do deb-systemd-helper enable "$unit" >/dev/null || true; done
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    if [ -n "$2" ]; then action=restart; else action=start; fi
    deb-systemd-invoke $action {names} >/dev/null || true
fi
"""


def _deb_units_stop(units: Mapping[str, str]) -> str:
    if not units:
        return ""
    names = " ".join(units)
    return f"""
if [ -d /run/systemd/system ] && [ "$1" = remove ]; then deb-systemd-invoke stop {names} >/dev/null || true; fi
if [ "$1" = remove ]; then for unit in {names}; do deb-systemd-helper disable "$unit" >/dev/null || true; done; fi
"""
