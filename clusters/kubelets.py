"""Kubelets of clusters, as nodes tell their version and as machines are to have them, against the versions of API servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from django.db import connection

from clusters.preflight import kubelet_skew
from clusters.schema_cluster import IMPORTED, MADE
from fleet.control.kinds import Json, Problem

KUBELET: Final = "kubelet"  # the package whose version is that of the kubelet
# Tables of machines are named in SQL: their app lies above this one. A machine on its way counts at both ends of it.
_COUNTED: Final = """SELECT v, max(n)::int FROM (
  SELECT ltrim(kubelet_version, 'v') AS v, count(*) AS n FROM node WHERE cluster_id = %s AND kubelet_version <> '' GROUP BY 1
  UNION ALL
  SELECT p ->> 'version', sum(s.n) FROM (SELECT desired_hash, count(*) AS n FROM machine_state WHERE cluster_id = %s AND phase <> 'Retired' GROUP BY 1) s
    JOIN accepted_set a ON a.hash = s.desired_hash CROSS JOIN LATERAL jsonb_array_elements(a.body -> 'packages') p WHERE p ->> 'name' = %s GROUP BY 1) q
  GROUP BY 1"""
# API servers that a kubelet of the cluster meets: the one that was reached and the one that is wanted; of an imported cluster what it says.
_SERVERS: Final = """SELECT c.name, array_remove(array_agg(DISTINCT v.kubernetes_version)
    || CASE WHEN c.spec ->> 'provider' = %s THEN c.status ->> 'kubernetesVersion' END, NULL)
  FROM clusters_cluster c LEFT JOIN clusters_clusterpackageversion v ON c.spec ->> 'provider' = ANY (%s) AND v.name IN (c.spec ->> 'packageVersion', c.status ->> 'packageVersion')
  WHERE {which} AND c.deleted_at IS NULL GROUP BY c.id"""
_OF_CLASS: Final = "c.id IN (SELECT DISTINCT cluster_id FROM machine WHERE spec ->> 'className' = %s)"


def counted(cluster_id: int) -> dict[str, int]:
    """Version -> how many kubelets of the cluster are at it, or are to be."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNTED, [cluster_id, cluster_id, KUBELET])
        return {str(version): int(number) for version, number in cursor.fetchall()}


def problems_of_machine(spec: Json, class_versions: Json) -> Sequence[Problem]:
    """Of a kubelet that a machine pins itself, or takes from its class."""
    own = spec.get("versions", {}).get(KUBELET)
    version, field = (
        (own, f"spec.versions[{KUBELET}]") if own is not None else (class_versions.get(KUBELET), "spec.className")
    )
    if version is None or not spec.get("clusterName"):
        return ()
    return _problems(version, field, _servers("c.name = %s", spec["clusterName"]))


def problems_of_class(name: str, versions: Json) -> Sequence[Problem]:
    """Of a kubelet that a class brings into the clusters of its machines."""
    version = versions.get(KUBELET)
    if version is None:
        return ()
    return _problems(version, f"spec.versions[{KUBELET}]", _servers(_OF_CLASS, name))


def problems_of_cluster(spec: Json, servers: Iterable[str]) -> Sequence[Problem]:
    """Of a kubelet that a cluster names over its ClusterPackageVersion's. `servers`: versions of its API server, now and wanted."""
    version = spec.get("machineVersions", {}).get(KUBELET)
    return () if version is None else _problems(version, f"spec.machineVersions[{KUBELET}]", {"": list(servers)})


def _servers(which: str, value: str) -> Mapping[str, Sequence[str]]:
    with connection.cursor() as cursor:
        cursor.execute(_SERVERS.format(which=which), [IMPORTED, list(MADE), value])
        return {str(name): list(found) for name, found in cursor.fetchall()}


def _problems(version: Any, field: str, servers: Mapping[str, Sequence[str]]) -> list[Problem]:
    out = []
    for name, found in sorted(servers.items()):
        of = f"the API server of cluster {name}" if name else "its API server"
        texts = dict.fromkeys(why for server in found if (why := kubelet_skew(str(version), server, of)))
        out += [Problem(field, f'"{version}": {text}', "FieldValueForbidden") for text in texts]
    return out
