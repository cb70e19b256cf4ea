"""Addons of a ClusterPackageVersion as objects: rendered for one cluster, read from YAML, put in the order in which they are applied. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson
import yaml

from fleet.control.digests import hex64
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json
from fleet.control.render import render

MOST_VALUES: Final = 100_000  # of one addon: aliases of YAML may unfold a small text into gigabytes
# What others need comes first; kinds that are not named are in the middle, what calls into running pods is last.
_FIRST: Final[tuple[frozenset[str], ...]] = (
    frozenset({"Namespace"}),
    frozenset({"CustomResourceDefinition"}),
    frozenset({
        "ConfigMap", "ClusterRole", "ClusterRoleBinding", "IngressClass", "LimitRange", "NetworkPolicy", "PersistentVolume", "PriorityClass", "ResourceQuota", "Role",
        "RoleBinding", "RuntimeClass", "Secret", "ServiceAccount", "StorageClass",
    }),
)  # fmt: skip
_LAST: Final = frozenset({"APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"})


@dataclass(frozen=True, slots=True)
class Addon:
    """One addon as it shall be in one cluster."""

    name: str
    objects: tuple[Json, ...]

    @property
    def hash(self) -> str:
        """Another one = it has to be applied anew."""
        return hex64(list(self.objects))


def values_of(name: str, version: str, spec: Json, package: Json, network: Mapping[str, str], server: str) -> Json:
    """What manifests may name: `variables`, and of the `cluster` what was declared, so that a look never changes an object.

    `version`, `package`: name and spec of the ClusterPackageVersion. `network`: podCIDR, serviceCIDR.
    """
    service = ipaddress.ip_network(network["serviceCIDR"])
    return {
        "variables": spec.get("variables", {}),
        "cluster": {
            "name": name,
            "idc": spec.get("idc", ""),
            "packageVersion": version,
            "kubernetesVersion": package["kubernetesVersion"],
            "server": server,
            **network,
            # By convention the tenth address of services; a small network has fewer.
            "dnsAddress": str(service[min(10, service.num_addresses - 1)]),
        },
    }


def rendered(package: Json, values: Json) -> tuple[Addon, ...]:
    """The addons of a ClusterPackageVersion's spec; PermanentError names the addon and what is wrong with it."""
    return _rendered(orjson.dumps([package.get("addons", []), values], option=orjson.OPT_SORT_KEYS))


@lru_cache(maxsize=64)
def _rendered(text: bytes) -> tuple[Addon, ...]:
    """By text, because each pass over each cluster asks again and YAML is slow to read."""
    addons, values = orjson.loads(text)
    owner: dict[tuple[str, ...], str] = {}
    out = []
    for each in addons:
        name = each["name"]
        objects = tuple(_objects(name, render(each["manifest"], values, f"addon {name}")))
        for obj in objects:
            key = _identity(obj)
            if key in owner:
                raise _unreadable(name, f"{called(obj)} is in addon {owner[key]} already")
            owner[key] = name
        out.append(Addon(name, objects))
    return tuple(out)


def _identity(obj: Json) -> tuple[str, ...]:
    """Two of the same would be changed back and forth for ever. The version of a group is only another way to write it."""
    group = obj["apiVersion"].rpartition("/")[0]
    return group, obj["kind"], str(obj["metadata"].get("namespace", "")), str(obj["metadata"]["name"])


def digest_of(hashes: Mapping[str, str]) -> str:
    """Of all addons of a cluster, by the hash of each."""
    return hex64(dict(hashes))


def _objects(name: str, text: str) -> Iterable[Json]:
    try:
        documents = list(yaml.load_all(text, Loader=_LOADER))
    except (yaml.YAMLError, ValueError) as error:
        raise _unreadable(name, f"is no YAML once its variables are filled in: {str(error).splitlines()[0]}") from error
    left = [MOST_VALUES]
    for document in documents:
        if not document:
            continue
        plain = _plain(name, document, left)
        found = plain.get("items") if isinstance(plain, dict) and plain.get("kind") == "List" else [plain]
        for obj in found or []:
            if not is_object(obj):
                raise _unreadable(name, "holds a document without apiVersion, kind or metadata.name")
            yield {k: v for k, v in obj.items() if k != "status"}


# The C loader reads ten times as fast; both follow YAML 1.1, as kubectl does.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _unreadable(name: str, why: str) -> PermanentError:
    return PermanentError("ManifestUnreadable", f"addon {name}: {why}")


def is_object(document: object) -> bool:
    """Whether it says what it is and how it is called."""
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        return False
    return bool(document.get("apiVersion") and document.get("kind") and document["metadata"].get("name"))


def _plain(name: str, value: Any, left: list[int]) -> Any:
    """The same as JSON knows it. `left`: how many values may still come."""
    left[0] -= 1
    if left[0] < 0:
        raise _unreadable(name, f"holds more than {MOST_VALUES} values")
    if isinstance(value, dict):
        return {str(k): _plain(name, v, left) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(name, v, left) for v in value]
    # YAML reads dates and binaries where Kubernetes means text.
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def in_order(objects: Iterable[Json]) -> list[list[Json]]:
    """Groups of objects; those of one group need nothing of each other."""
    groups: dict[int, list[Json]] = {}
    for obj in objects:
        groups.setdefault(_rank(obj["kind"]), []).append(obj)
    return [groups[rank] for rank in sorted(groups)]


def _rank(kind: str) -> int:
    for rank, kinds in enumerate(_FIRST):
        if kind in kinds:
            return rank
    return len(_FIRST) + (1 if kind in _LAST else 0)


def called(obj: Json) -> str:
    """An object as people name it: "Deployment kube-system/coredns"."""
    meta = obj["metadata"]
    return (
        f"{obj['kind']} {meta['namespace']}/{meta['name']}"
        if meta.get("namespace")
        else f"{obj['kind']} {meta['name']}"
    )


def differs(before: Json, after: Json) -> bool:
    """Whether an object is another one, apart from its status and who wrote it when."""
    return _wish(before) != _wish(after)


_BOOKKEEPING: Final = ("managedFields", "resourceVersion", "generation")


def _wish(obj: Json) -> Json:
    meta = {k: v for k, v in obj["metadata"].items() if k not in _BOOKKEEPING}
    return {**{k: v for k, v in obj.items() if k != "status"}, "metadata": meta}


def problems(package: Json, values: Json) -> Sequence[str]:
    """Why the addons cannot be made for a cluster; empty = they can."""
    try:
        rendered(package, values)
    except PermanentError as error:
        return [error.message]
    return ()
