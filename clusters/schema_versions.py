"""The kind ClusterPackageVersion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import yaml

from clusters.manifests import is_object
from clusters.planes import COMPONENTS
from clusters.preflight import kubelet_skew
from clusters.schema import CONDITIONS, NAME_PATTERN, VERSIONS, quote_versions
from fleet.control.kinds import CLUSTER_PACKAGE_VERSION, Column, Json, Kind, Problem
from fleet.control.render import syntax_problem

VERSION_PATTERN: Final = r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
_FLAG: Final = r"[a-z][a-z0-9-]*"


def _check(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new.get("spec", {})
    out = []
    names = [c.get("name") for c in spec.get("components", [])]
    for name in COMPONENTS:
        if name not in names:
            out.append(Problem("spec.components", f"{name} is missing", "FieldValueRequired"))
    for i, each in enumerate(spec.get("components", [])):
        if not each.get("image") and not each.get("binary"):
            out.append(
                Problem(f"spec.components[{i}]", "needs an image (Hosted) or a binary (Local)", "FieldValueRequired")
            )
        if each.get("name") == "etcd" and not each.get("version"):
            out.append(Problem(f"spec.components[{i}].version", "etcd has versions of its own", "FieldValueRequired"))
        for flag in each.get("args", {}):
            if not re.fullmatch(_FLAG, flag):
                out.append(
                    Problem(
                        f"spec.components[{i}].args[{flag}]",
                        "a flag is written without dashes before it: v, max-requests-inflight",
                    )
                )
    kubelet = spec.get("machineVersions", {}).get("kubelet")
    if kubelet is not None and (
        why := kubelet_skew(str(kubelet), str(spec.get("kubernetesVersion", "")), "its own API server")
    ):
        out.append(Problem("spec.machineVersions[kubelet]", f'"{kubelet}": {why}'))
    for i, addon in enumerate(spec.get("addons", [])):
        out += [Problem(f"spec.addons[{i}].manifest", text) for text in _manifest_problems(addon.get("manifest", ""))]
    return out


def _manifest_problems(manifest: str) -> list[str]:
    """What is wrong with the documents of a manifest whose variables are not filled in yet."""
    wrong = syntax_problem(manifest)
    if wrong:
        return [f"is no template: {wrong}"]
    plain = re.sub(r"\{\{.*?\}\}", "x", re.sub(r"\{%.*?%\}|\{#.*?#\}", "", manifest, flags=re.S), flags=re.S)
    try:
        documents = [d for d in yaml.safe_load_all(plain) if d]
    except yaml.YAMLError as error:
        return [f"is no YAML: {str(error).splitlines()[0]}"]
    return [
        f"document {n} lacks apiVersion, kind or metadata.name"
        for n, d in enumerate(documents, 1)
        if not (is_object(d) or isinstance(d, dict) and d.get("kind") == "List")
    ]


CLUSTER_PACKAGE_VERSION_KIND = Kind(
    kind="ClusterPackageVersion",
    plural="clusterpackageversions",
    singular="clusterpackageversion",
    number=CLUSTER_PACKAGE_VERSION,
    short_names=("fcpv",),
    description="What a cluster consists of: Kubernetes' version, components, addons, versions for its machines. Immutable.",
    spec={
        "type": "object",
        "description": "Never changes: a new set is a new object.",
        "required": ["kubernetesVersion", "components"],
        "properties": {
            "kubernetesVersion": {"type": "string", "maxLength": 32, "pattern": VERSION_PATTERN, "x-fleet-pattern-means": "must be a version such as 1.37.2", "description": "Version of the kube components."},
            "components": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "description": "etcd, kube-apiserver, kube-controller-manager and kube-scheduler.",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string", "enum": list(COMPONENTS)},
                        "version": {"type": "string", "maxLength": 32, "pattern": VERSION_PATTERN, "description": "kubernetesVersion by default; etcd has its own."},
                        "image": {"type": "string", "maxLength": 512, "pattern": r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", "description": "Image for Hosted control planes."},
                        "binary": {"type": "string", "maxLength": 1024, "pattern": r"[A-Za-z0-9._/-]+", "description": "File for Local control planes: a path, or a name in FLEET_BINARIES."},
                        "args": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 1024}, "maxProperties": 100, "description": "Flags without dashes. Those on which safety hangs are Fleet's."},
                    },
                },
            },
            "addons": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "maxItems": 100,
                "description": "Manifests applied to the cluster, with variables as in {{ variables.x }}.",
                "items": {
                    "type": "object",
                    "required": ["name", "manifest"],
                    "properties": {"name": {"type": "string", "maxLength": 63, "pattern": NAME_PATTERN}, "manifest": {"type": "string", "maxLength": 262144}},
                },
            },
            "machineVersions": VERSIONS,
        },
    },
    status={
        "type": "object",
        "properties": {
            "hash": {"type": "string", "description": "What an approver names."},
            "author": {"type": "string"},
            "approvedBy": {"type": "string"},
            "clusters": {"type": "array", "items": {"type": "string"}, "description": "Clusters that use it."},
            "conditions": CONDITIONS,
        },
    },
    columns=(
        Column("Kubernetes", lambda o, now: o["spec"]["kubernetesVersion"], description="Version of the kube components."),
        Column("Addons", lambda o, now: len(o["spec"].get("addons", [])), "integer", "How many addons."),
    ),
    immutable=True,
    validate=_check,
    warn=lambda o: quote_versions(o.get("spec", {}).get("machineVersions", {}), "spec.machineVersions"),
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "ClusterPackageVersion",
        "metadata": {"name": "k8s-1.37.2"},
        "spec": {
            "kubernetesVersion": "1.37.2",
            "components": [
                {"name": "etcd", "version": "3.7.3", "binary": "etcd"},
                {"name": "kube-apiserver", "binary": "1.37.2/kube-apiserver"},
                {"name": "kube-controller-manager", "binary": "1.37.2/kube-controller-manager"},
                {"name": "kube-scheduler", "binary": "1.37.2/kube-scheduler"},
            ],
            "machineVersions": {"kubelet": "1.37.2"},
        },
    },
)  # fmt: skip
