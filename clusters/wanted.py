"""The control plane that a cluster shall have, from its spec, its ClusterPackageVersions and its files. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from clusters.cases import Case
from clusters.exposure import base_port, exposure_of, namespace_of, stable_port
from clusters.lifecycle import Progress
from clusters.manifests import values_of
from clusters.planes import COMPONENTS, Component, Hosting, Plane
from clusters.schema_cluster import POD_CIDR, SERVICE_CIDR, hosted_on
from fleet.control.endpoint import Endpoint
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json


def component_of(spec: Json, name: str) -> Component:
    """A component as a ClusterPackageVersion says."""
    found = next((c for c in spec["components"] if c["name"] == name), None)
    if found is None:
        raise PermanentError("NoComponent", f"the ClusterPackageVersion has no component {name}")
    return Component(
        name, found.get("version") or spec["kubernetesVersion"], found.get("image", ""), found.get("binary", ""), found.get("args", {})
    )  # fmt: skip


def port_of(case: Case) -> int:
    """The API server's port: as written, else the same for the same control plane for ever."""
    return stable_port(case.spec, case.uid)


def host_of(case: Case) -> str:
    """The stable name in all certificates."""
    return str(case.spec.get("controlPlane", {}).get("exposure", {}).get("host") or "127.0.0.1")


def service_cidr_of(case: Case) -> str:
    """Addresses of services."""
    return str(case.spec.get("network", {}).get("serviceCIDR", SERVICE_CIDR))


def values_for(case: Case, version: str) -> Json:
    """What manifests of addons may name in this cluster at a ClusterPackageVersion."""
    return values_in(case.name, case.spec, version, case.versions[version], f"https://{host_of(case)}:{port_of(case)}")


def values_in(name: str, spec: Json, version: str, package: Json, server: str) -> Json:
    """The same for a spec that is not stored yet."""
    network = spec.get("network", {})
    ranges = {"podCIDR": network.get("podCIDR", POD_CIDR), "serviceCIDR": network.get("serviceCIDR", SERVICE_CIDR)}
    return values_of(name, version, spec, package, ranges, server)


def hosting_of(name: str, uid: str, spec: Json, endpoint: Endpoint | None) -> Hosting | None:
    """Where a control plane is hosted, by its cluster's name and spec; None = it is not."""
    meta = hosted_on(spec)
    if not meta:
        return None
    shape = spec.get("controlPlane", {})
    return Hosting(
        meta, endpoint, namespace_of(name, spec), base_port(spec, uid), bool(shape.get("namespace")), exposure_of(spec),
        shape.get("storageClass", ""), shape.get("nodeSelector", {}),
    )  # fmt: skip


def plane_of(case: Case, progress: Progress, files: Mapping[str, str], meta: Endpoint | None = None) -> Plane:
    """Each component at the version where it stands, before the first at the target. `meta`: how its meta cluster is reached."""
    shape, network = case.spec.get("controlPlane", {}), case.spec.get("network", {})
    components = {}
    for name in COMPONENTS:
        version = progress.versions.get(name, case.spec["packageVersion"])
        if version not in case.versions:
            raise PermanentError("NoPackageVersion", f"there is no ClusterPackageVersion {version}")
        components[name] = component_of(case.versions[version], name)
    return Plane(
        uid=case.uid,
        name=case.name,
        components=components,
        files=files,
        host=host_of(case),
        port=port_of(case),
        replicas=shape.get("replicas", 1),
        etcd_replicas=shape.get("etcdReplicas", 1),
        pod_cidr=network.get("podCIDR", POD_CIDR),
        service_cidr=service_cidr_of(case),
        emulated=progress.emulated,
        meta=hosting_of(case.name, case.uid, case.spec, meta),
    )
