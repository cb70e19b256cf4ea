"""Image tars: the same input gives the same bytes, and every digest in them is true."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from lab.oci import image


def blob(archive: tarfile.TarFile, descriptor: dict[str, Any]) -> bytes:
    """What a descriptor names, after its size and digest were looked at."""
    handle = archive.extractfile("blobs/" + descriptor["digest"].replace(":", "/"))
    assert handle is not None
    data = handle.read()
    assert (len(data), "sha256:" + hashlib.sha256(data).hexdigest()) == (descriptor["size"], descriptor["digest"])
    return data


def program(folder: Path) -> Path:
    path = folder / "program"
    path.write_bytes(b"\x7fELF and more")
    path.chmod(0o755)
    return path


def test_an_image_holds_what_its_index_says(tmp_path: Path) -> None:
    files: dict[str, Path | bytes] = {"/usr/bin/tool": program(tmp_path), "/etc/tool/conf": b"a=1"}
    made = image(tmp_path / "tool.tar", "localhost/tool:1.2", files, ["/usr/bin/tool", "--x"], {"A": "b"}, links={"/bin/sh": "/usr/bin/tool"})  # fmt: skip
    with tarfile.open(made) as archive:
        index = json.load(archive.extractfile("index.json") or io.BytesIO())
        [entry] = index["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == "localhost/tool:1.2"
        manifest = json.loads(blob(archive, entry))
        config = json.loads(blob(archive, manifest["config"]))
        [layer] = manifest["layers"]
        assert config["rootfs"]["diff_ids"] == [layer["digest"]]
        assert config["config"]["Entrypoint"] == ["/usr/bin/tool", "--x"]
        assert "A=b" in config["config"]["Env"]
        with tarfile.open(fileobj=io.BytesIO(blob(archive, layer))) as content:
            seen = {m.name: (m.mode, m.size, m.linkname) for m in content.getmembers()}
    assert seen["usr/bin/tool"] == (0o755, 13, "")
    assert seen["etc/tool/conf"] == (0o644, 3, "")
    assert seen["bin/sh"][2] == "/usr/bin/tool"
    assert {"usr", "usr/bin", "etc", "etc/tool", "bin", "tmp"} <= set(seen)


def test_the_same_image_has_the_same_bytes(tmp_path: Path) -> None:
    files: dict[str, Path | bytes] = {"/bin/b": program(tmp_path), "/bin/a": b"#!/bin/sh\n"}
    one = image(tmp_path / "one" / "x.tar", "localhost/x:1", files, ["/bin/a"])
    two = image(tmp_path / "two" / "y.tar", "localhost/x:1", dict(reversed(files.items())), ["/bin/a"])
    assert one.read_bytes() == two.read_bytes()
    assert sorted(p.name for p in one.parent.iterdir()) == ["x.tar"]
