"""What machines take from the ClusterPackageVersion of their cluster: they go up after the control plane and come down before it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusters.schema_cluster import MADE, provider_of
from clusters.versions import version_key
from fleet.control.kinds import Json


def followed(spec: Json, status: Json, packages: Mapping[str, Json]) -> str:
    """The ClusterPackageVersion that machines follow now; "" = none.

    The one that the control plane has reached; the wanted one as soon as it is older, and while none was reached yet: then there
    is no API server that a kubelet could be newer than. `packages`: specs by name.
    """
    if provider_of(spec) not in MADE:
        return ""
    wanted, reached = str(spec.get("packageVersion") or ""), str(status.get("packageVersion") or "")
    if not reached or reached not in packages or wanted not in packages:
        return reached if reached in packages else wanted if wanted in packages else ""
    return wanted if _key(packages[wanted]) < _key(packages[reached]) else reached


def machine_versions(spec: Json, status: Json, packages: Mapping[str, Json]) -> dict[str, Any]:
    """The versions of the cluster's layer: its own over those of its ClusterPackageVersion."""
    return _merged(spec, packages.get(followed(spec, status, packages), {}))


def still_to_come(spec: Json, status: Json, packages: Mapping[str, Json]) -> str:
    """Why machines do not take what the spec leads to yet, as a sentence; "" = they take it, or it is the same for them."""
    wanted, now = str(spec.get("packageVersion") or ""), followed(spec, status, packages)
    if (
        not now
        or wanted == now
        or wanted not in packages
        or _merged(spec, packages[wanted]) == _merged(spec, packages[now])
    ):
        return ""
    return f"the machines follow {now} until the control plane has reached {wanted}"


def _merged(spec: Json, package: Json) -> dict[str, Any]:
    return {**package.get("machineVersions", {}), **spec.get("machineVersions", {})}


def _key(package: Json) -> tuple[int, ...]:
    return version_key(package["kubernetesVersion"])
