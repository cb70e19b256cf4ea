"""Container images without a registry and without a container engine: an OCI layout in one tar, the same bytes for the same files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

ARCHITECTURE: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_OCI: Final = "application/vnd.oci.image"


def image(
    target: Path,
    name: str,
    files: Mapping[str, Path | bytes],
    entrypoint: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write the image `name` (with a registry and a tag: `localhost/pause:1`) to `target`, for `ctr -n k8s.io images import --local`.

    `files` maps paths in the image to their content; a file is executable as it is on disk, bytes are if they lie in a
    bin folder. `links` maps paths to what they point at. Pods name the image with imagePullPolicy Never.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target.parent) as layer:
        _write_layer(layer, files, links or {})
        size, layer_digest = layer.tell(), _digest(layer)
        architecture = ARCHITECTURE.get(platform.machine(), platform.machine())
        config = _json(
            {
                "architecture": architecture,
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": {"Entrypoint": list(entrypoint), "Env": _environment(env or {}), "WorkingDir": "/"},
                "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
                "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "lab"}],
            }
        )
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{_OCI}.manifest.v1+json",
                "config": _descriptor("config.v1+json", config),
                "layers": [{"mediaType": f"{_OCI}.layer.v1.tar", "digest": layer_digest, "size": size}],
            }
        )
        annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        entry = {
            **_descriptor("manifest.v1+json", manifest),
            "platform": {"architecture": architecture, "os": "linux"},
            "annotations": annotations,
        }
        index = _json({"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [entry]})
        part = target.with_name(target.name + ".part")
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(archive, "index.json", index)
            for blob in (config, manifest):
                _add(archive, _blob(_digest(io.BytesIO(blob))), blob)
            member = tarfile.TarInfo(_blob(layer_digest))
            member.size = size
            layer.seek(0)
            archive.addfile(member, layer)
        part.replace(target)
    return target


def _write_layer(layer: IO[bytes], files: Mapping[str, Path | bytes], links: Mapping[str, str]) -> None:
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        names = {name.strip("/") for name in (*files, *links)}
        folders = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
        for folder in sorted({*folders, "tmp"}):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(member)
        for name, content in sorted(files.items()):
            if isinstance(content, bytes):
                program = content.startswith(b"#!") or PurePosixPath(name).parent.name in ("bin", "sbin")
                _add(archive, name.strip("/"), content, mode=0o755 if program else 0o644)
                continue
            with content.open("rb") as source:
                found = os.fstat(source.fileno())
                member = tarfile.TarInfo(name.strip("/"))
                member.size, member.mode = found.st_size, 0o755 if found.st_mode & 0o100 else 0o644
                archive.addfile(member, source)
        for name, points_at in sorted(links.items()):
            member = tarfile.TarInfo(name.strip("/"))
            member.type, member.linkname = tarfile.SYMTYPE, points_at
            archive.addfile(member)


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    archive.addfile(member, io.BytesIO(data))


def _environment(env: Mapping[str, str]) -> list[str]:
    found = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **env}
    return [f"{key}={value}" for key, value in sorted(found.items())]


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": _digest(io.BytesIO(data)), "size": len(data)}


def _digest(data: io.BufferedRandom | io.BytesIO) -> str:
    data.seek(0)
    return "sha256:" + hashlib.file_digest(data, "sha256").hexdigest()


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
