"""Which set a machine follows: what it accepted, until its own words change or a rollout moves it. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fleet.control.digests import hash64
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json
from machines.analyze import Leftover
from machines.catalog import Catalog
from machines.models import OwnerClass
from machines.resolve import Resolved, Wish, find_version, resolve, shared_layers, wanted_versions
from machines.rows import Acceptance, Row

_KEPT: Final = 50_000
_hashes: OrderedDict[int, Resolved] = OrderedDict()  # of sets by their inputs: thousands of machines ask the same


@dataclass(frozen=True, slots=True)
class Chosen:
    """The set to follow from now on; `problem` when there is none and the old one stays."""

    body: Json | None
    hash: int
    latest: int
    layers: Json
    changed: bool = False  # to be written by accept()
    problem: tuple[str, str] | None = None
    layer_of: Mapping[str, str] = field(default_factory=dict)

    def acceptance(self, row: Row) -> Acceptance:
        """As accept() takes it."""
        return Acceptance(row.id, row.epoch, row.generation, self.hash, self.body or {}, self.layers, self.latest)


def wish_of(row: Row, shared: Json) -> Wish:
    """What the machine asks for under these shared layers."""
    return Wish(row.name, row.uid, row.spec, row.labels, shared)


def inputs(wish: Wish, catalog: Catalog) -> int:
    """A number for everything that the set is made from. The same inputs keep the set, whatever release of Fleet runs."""
    spec = wish.spec
    versions, _ = wanted_versions(wish)
    refs: list[Any] = []
    usable = True
    for package, version in sorted(versions.items()):
        found = find_version(package, version, catalog.packages.get(package, ()))
        configs = [catalog.configs.get((c["name"], c["value"])) for c in found.spec.get("configMaps", [])]
        refs.append([found.uid, [c.uid if c else None for c in configs]])
        usable &= found.approved and all(c is None or c.approved for c in configs)
    names = ("clusterName", "className", "idc", "rack", "ip", "serialNumber", "hardwareModel", "variables")
    variables = {layer: wish.shared[layer].get("variables") for layer in sorted(wish.shared)}
    return hash64(
        [
            wish.name,
            wish.uid,
            wish.labels,
            [spec.get(n) for n in names],
            variables,
            refs,
            *(() if usable else ("not approved",)),
        ]
    )


def choose(row: Row, catalog: Catalog) -> Chosen:
    """The set of a machine in this pass."""
    live = shared_layers(catalog, row.cluster_id, row.spec)
    taken = row.layers.get("shared")
    shared = live if taken is None or _moved_by_rollout(row) else kept_layers(taken, live)
    wanted = _cached(row, shared, catalog)
    latest = wanted if shared == live else _cached(row, live, catalog)
    old = row.layers
    if not wanted.ok:
        return Chosen(
            row.accepted, row.desired_hash, row.latest_hash, old, problem=wanted.problem, layer_of=wanted.layer_of
        )
    key = inputs(wish_of(row, shared), catalog)
    if row.accepted is not None and old.get("inputs") == str(key):
        body, number = row.accepted, row.desired_hash
    else:
        body, number = wanted.body, wanted.hash
    newest = number if latest is wanted else (latest.hash if latest.ok else row.latest_hash or number)
    left = _left_behind(row, shared, body)
    layers = {
        "inputs": str(key),
        "shared": shared,
        "left": left,
        "stale": _stale(row, body, frozenset(left) | frozenset(row.spec.get("disabledPackages", []))),
        "of": dict(sorted(wanted.layer_of.items())),
    }
    changed = (number, newest, layers) != (row.desired_hash, row.latest_hash, old) or row.accepted is None
    return Chosen(body, number, newest, layers, changed, None, wanted.layer_of)


def _cached(row: Row, shared: Json, catalog: Catalog) -> Resolved:
    wish = wish_of(row, shared)
    try:
        key = hash64([inputs(wish, catalog), sorted(wanted_versions(wish)[1].items())])
    except PermanentError as error:
        return Resolved(layer_of=wanted_versions(wish)[1], problem=(error.reason, error.message))
    found = _hashes.get(key)
    if found is not None:
        _hashes.move_to_end(key)
        return found
    found = resolve(wish, catalog)
    _hashes[key] = found
    if len(_hashes) > _KEPT:
        _hashes.popitem(last=False)
    return found


def _moved_by_rollout(row: Row) -> bool:
    """A rollout's Operation is what moves a machine to the shared layers as they are now."""
    operation = row.operation
    return operation is not None and operation.owner_class == OwnerClass.ROLLOUT and operation.started_at is None


def kept_layers(taken: Json, live: Json) -> Json:
    """Layers as accepted; one that the machine newly names is taken as it is now, one that it left is gone."""
    out: Json = {}
    for layer, now in live.items():
        before = taken.get(layer)
        out[layer] = before if before is not None and before["name"] == now["name"] else now
    return out


def _left_behind(row: Row, shared: Json, body: Json) -> list[str]:
    """Packages whose layer the machine left (another cluster or class): absence is not uninstall, they stay untouched."""
    before, of = row.layers.get("shared", {}), row.layers.get("of", {})
    gone = {layer for layer, value in before.items() if shared.get(layer, {}).get("name") != value["name"]}
    names = {p for p, layer in of.items() if layer in gone} | set(row.layers.get("left", []))
    return sorted(names - {p["name"] for p in body["packages"]})


def _stale(row: Row, body: Json, hands_off: frozenset[str]) -> Json:
    """Files that an earlier set wrote and this one does not hold, with the digest that Fleet wrote; not those of packages
    that are left alone."""
    wanted = {f["path"] for f in body["files"]}
    before = {f["path"]: f["sha256"] for f in (row.accepted or {}).get("files", []) if f["package"] not in hands_off}
    return {p: d for p, d in sorted({**row.layers.get("stale", {}), **before}.items()) if p not in wanted}


def leftover(row: Row, body: Json, layers: Json) -> Leftover:
    """What Fleet put there and no layer names any more; disabled packages and those of a layer left behind are hands off."""
    named = {p["name"] for p in body["packages"]}
    hands_off = set(row.spec.get("disabledPackages", [])) | set(layers.get("left", []))
    removals = tuple(r.package for r in row.inventory if r.package not in named | hands_off)
    return Leftover(removals, layers.get("stale", {}))
