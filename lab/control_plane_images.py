"""Images of control planes that run as pods: each component of the lab's Kubernetes alone, etcd with etcdutl beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab import kubernetes, oci
from lab.cache import cached, key_of


def name_of(component: str, version: str) -> str:
    """The name that pods and ClusterPackageVersions say."""
    return f"localhost/{component}:{version}"


def image(component: str, version: str) -> Path:
    """One component as an image in a tar; kept, as what it is made of is."""
    programs = [component, "etcdutl"] if component == "etcd" else [component]
    files: Mapping[str, Path | bytes] = {f"/usr/local/bin/{p}": kubernetes.binary(p, version) for p in programs}

    def build(folder: Path) -> None:
        oci.image(folder / "image.tar", name_of(component, version), files, [f"/usr/local/bin/{component}"])

    recipe = key_of(Path(oci.__file__).read_text(), *(str(f) for f in files.values()))
    return cached(f"image-{component}-{version}-{recipe}", build) / "image.tar"


def images(*versions: str) -> list[Path]:
    """All components at these versions of Kubernetes, at all of them where none is named."""
    kubes = [image(c, v) for c in kubernetes.CONTROL_PLANE for v in versions or kubernetes.VERSIONS]
    return [image("etcd", kubernetes.ETCD), *kubes]
