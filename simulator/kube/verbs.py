"""What requests do to the store: create, replace, patch, apply, delete. Whole and at once; answers are objects, encoded."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import yaml

from clusters.kube import APPLY, JSON_PATCH, MERGE, STRATEGIC
from fleet.api.patches import merge_patch
from fleet.api.structure import same
from simulator.kube import objects, owners, patches
from simulator.kube.owners import Writer
from simulator.kube.packing import body_of, head_of, rendered
from simulator.kube.refusals import (
    Mistake,
    Refusal,
    already_exists,
    bad_request,
    conflict,
    must_name_version,
    not_found,
    options_invalid,
    precondition,
    terminating,
    unsupported_media_type,
)
from simulator.kube.resources import NAMESPACES, PODS, Json, Resource
from simulator.kube.store import Entry, Store

_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"  # of generated names, as apimachinery has it
_KEPT: Final = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")


@dataclass(frozen=True, slots=True)
class Place:
    """One object, or a collection where the name is empty. `subresource`: "" or "status"."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> str:
        """As the store has it."""
        return f"{self.namespace}/{self.name}" if self.resource.namespaced else self.name


@dataclass(frozen=True, slots=True)
class Options:
    """Of a write. `manager`: who owns what is written."""

    manager: str = "unknown"
    dry_run: bool = False
    force: bool = False
    named: bool = False  # the manager was given, not guessed from the client's name


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status and body."""

    code: int
    body: bytes


class Api:
    """The verbs over one store. `clock`: seconds since 1970."""

    def __init__(self, store: Store, clock: Callable[[], float], seed: int = 0) -> None:
        self.store = store
        self.clock = clock
        self._seed = seed
        self._drawn = 0

    def now(self) -> str:
        """The time as objects have it."""
        return stamp(self.clock())

    def uid(self, *parts: object) -> str:
        """A uid, the same in every run with one seed."""
        self._drawn += 1
        text = f"{self._seed} {self._drawn} {parts}".encode()
        return str(uuid.UUID(bytes=hashlib.md5(text, usedforsecurity=False).digest(), version=4))

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, place: Place, past: Mapping[str, Entry | None] | None = None) -> Answer:
        """One object; `past` is what stood where it says so."""
        collection = self.store.of(place.resource)
        entry = (past or {}).get(place.key, collection.entries.get(place.key))
        if entry is None:
            raise not_found(place.resource, place.name)
        return Answer(200, collection.json(entry))

    # -- writing ----------------------------------------------------------------------------------------------------

    def create(self, place: Place, obj: Json, options: Options) -> Answer:
        """POST, and what creates by PUT or apply."""
        resource, meta = place.resource, _checked(place.resource, obj)
        if meta.get("resourceVersion"):
            raise Refusal(500, "", "resourceVersion should not be set on objects to be created")
        self._in_namespace(place, meta)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + self._suffix()
        place = Place(resource, place.namespace, str(meta.get("name") or ""))
        for name in _KEPT:
            meta.pop(name, None)
        meta |= {"uid": self.uid(place.key), "creationTimestamp": self.now()}
        if resource.generation:
            meta["generation"] = 1
        objects.default(resource, obj, created=True)
        objects.check(resource, obj)
        if place.key in self.store.of(resource).entries:
            raise already_exists(resource, place.name)
        if "managedFields" not in meta:
            owners.track(resource, None, obj, Writer(options.manager, self.now()))
        objects.admit(resource, obj)
        return self._stored(place, obj, options, 201)

    def replace(self, place: Place, obj: Json, options: Options) -> Answer:
        """PUT."""
        resource, meta = place.resource, _checked(place.resource, obj)
        if meta.get("name") != place.name:
            raise bad_request(
                f"the name of the object ({meta.get('name', '')}) does not match the name on the URL ({place.name})"
            )
        self._in_namespace(place, meta)
        old = self.store.of(resource).get(place.key)
        if old is None:
            if not resource.upsert:
                raise not_found(resource, place.name)
            return self.create(Place(resource, place.namespace), obj, options)
        there = old["metadata"]
        if not meta.get("resourceVersion") and not resource.unconditional:
            raise must_name_version(resource, place.name)
        uid = meta.get("uid")
        if uid and uid != there["uid"]:
            path = f"/registry/{resource.storage or resource.plural}/{place.key}"
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {there['uid']}"
            text = f"StorageError: invalid object, Code: 4, Key: {path}, ResourceVersion: 0, AdditionalErrorMsg: {why}"
            raise conflict(resource, place.name, text)
        return self._update(place, old, obj, options)

    def patch(self, place: Place, body: bytes, content_type: str, options: Options) -> Answer:
        """PATCH of any kind; an apply creates what is not there."""
        resource = place.resource
        if content_type not in (MERGE, JSON_PATCH, STRATEGIC, APPLY):
            raise unsupported_media_type()
        old = self.store.of(resource).get(place.key)
        if content_type == APPLY:
            return self._apply(place, old, body, options)
        if old is None:
            raise not_found(resource, place.name)
        patch, base = decoded(body), self.store.of(resource).get(place.key) or {}  # patches share parts with their base
        if content_type == JSON_PATCH:
            new = patches.json_patch(base, patch)
        elif not isinstance(patch, dict):
            raise bad_request("the patch is no object")
        elif content_type == MERGE:
            new = merge_patch(base, patch)
        else:
            new = patches.strategic(resource.tree(), base, patch)
        name = (new.get("metadata") or {}).get("name")
        if name != place.name:
            raise bad_request(
                f"the name of the object ({name or ''}) does not match the name on the URL ({place.name})"
            )
        return self._update(place, old, new, options)

    def _apply(self, place: Place, old: Json | None, body: bytes, options: Options) -> Answer:
        if not options.named:
            mistake = Mistake("fieldManager", "is required for apply patch", "FieldValueRequired")
            raise options_invalid("PatchOptions", mistake)
        try:
            config = yaml.safe_load(body)
        except yaml.YAMLError as error:
            raise bad_request(f"error decoding YAML: {error}") from None
        meta = _checked(place.resource, config)
        if meta.get("managedFields") is not None:
            raise bad_request("metadata.managedFields must be nil")
        if meta.setdefault("name", place.name) != place.name:
            raise bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({place.name})"
            )
        self._in_namespace(place, meta)
        version = meta.pop("resourceVersion", None)
        if old is None and place.subresource:
            raise not_found(place.resource, place.name)
        if old is not None and version and version != old["metadata"]["resourceVersion"]:
            raise conflict(place.resource, place.name)
        who = Writer(options.manager, self.now(), place.subresource)
        new = owners.apply(place.resource, old, config, who, force=options.force)
        if old is None:
            return self.create(Place(place.resource, place.namespace), new, options)
        return self._update(place, old, new, options, tracked=True)

    def _update(self, place: Place, old: Json, new: Json, options: Options, *, tracked: bool = False) -> Answer:
        resource, meta, there = place.resource, new["metadata"], old["metadata"]
        if meta.get("resourceVersion") and meta["resourceVersion"] != there["resourceVersion"]:
            raise conflict(resource, place.name)
        meta.setdefault("uid", there["uid"])
        for name in _KEPT[1:]:
            meta.pop(name, None)
            if name in there:
                meta[name] = there[name]
        _take_part(place, old, new)
        objects.default(resource, new, created=False)
        objects.check(resource, new, old)
        meta["resourceVersion"] = there["resourceVersion"]
        if not tracked and "managedFields" in there:  # else nobody is on record until somebody applies
            if meta.get("managedFields") in ([], [{}]):  # forget all owners
                del meta["managedFields"]
            else:
                owners.track(resource, old, new, Writer(options.manager, self.now(), place.subresource))
        if same(_unowned(old), _unowned(new)) and (not tracked or same(old, new)):
            return Answer(200, self.store.of(resource).json(self.store.of(resource).entries[place.key]))
        if resource.generation and not place.subresource and not same(old.get("spec"), new.get("spec")):
            meta["generation"] = int(there.get("generation", 0)) + 1
        return self._stored(place, new, options, 200)

    def _stored(self, place: Place, obj: Json, options: Options, code: int) -> Answer:
        collection = self.store.of(place.resource)
        if options.dry_run:
            body = orjson.loads(rendered(body_of(obj), 0, head_of(place.resource)))
            body["metadata"]["resourceVersion"] = obj["metadata"].get("resourceVersion")
            if body["metadata"]["resourceVersion"] is None:
                del body["metadata"]["resourceVersion"]
            return Answer(code, orjson.dumps(body))
        if _is_over(obj):
            self.store.delete(place.resource, place.key, obj)
            return Answer(code, orjson.dumps(obj))
        return Answer(code, collection.json(self.store.put(place.resource, place.key, obj)))

    # -- deleting ---------------------------------------------------------------------------------------------------

    def delete(self, place: Place, wanted: Json, options: Options) -> Answer:
        """DELETE. `wanted`: DeleteOptions. Finalizers keep the object; a pod on a node waits for its kubelet."""
        resource, collection = place.resource, self.store.of(place.resource)
        old = collection.get(place.key)
        if old is None:
            raise not_found(resource, place.name)
        meta, asked = old["metadata"], wanted.get("preconditions") or {}
        if asked.get("uid") and asked["uid"] != meta["uid"]:
            gone = "The object might have been deleted and then recreated"
            raise precondition(resource, place.name, "UID", asked["uid"], meta["uid"], gone)
        version, there = asked.get("resourceVersion"), meta["resourceVersion"]
        if version and version != there:
            gone = "The object might have been modified"
            raise precondition(resource, place.name, "ResourceVersion", version, there, gone)
        grace = _grace(resource, old, wanted.get("gracePeriodSeconds"))
        if resource is not NAMESPACES and not meta.get("finalizers") and not grace:
            if options.dry_run:
                return self._deleted(place, old)
            return self._deleted(place, self._end(place, old))
        before = meta.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" not in meta or (before is not None and grace < before):
            meta["deletionTimestamp"] = stamp(self.clock() + grace)
            if resource is NAMESPACES:
                old["status"] = {**(old.get("status") or {}), "phase": "Terminating"}
            else:
                meta["deletionGracePeriodSeconds"] = grace
            if meta.get("generation") and before is None:
                meta["generation"] += 1
            if not options.dry_run:
                return Answer(200, collection.json(self.store.put(resource, place.key, old)))
        return Answer(200, orjson.dumps(old))

    def _end(self, place: Place, old: Json) -> Json:
        if place.resource.graceful:
            meta = old["metadata"]
            if "deletionTimestamp" not in meta and "generation" in meta:
                meta["generation"] += 1
            meta |= {"deletionTimestamp": self.now(), "deletionGracePeriodSeconds": 0}
        self.store.delete(place.resource, place.key, old)
        return old

    def _deleted(self, place: Place, last: Json) -> Answer:
        if place.resource.graceful:
            return Answer(200, orjson.dumps(last))
        resource = place.resource
        group = {"group": resource.group} if resource.group else {}
        details = {"name": place.name, **group, "kind": resource.plural, "uid": last["metadata"]["uid"]}
        return Answer(200, orjson.dumps(success() | {"details": details}))

    # -- small things -----------------------------------------------------------------------------------------------

    def _in_namespace(self, place: Place, meta: Json) -> None:
        if not place.resource.namespaced:
            return
        if meta.setdefault("namespace", place.namespace) != place.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        found = self.store.of(NAMESPACES).get(place.namespace)
        if found is None:
            raise not_found(NAMESPACES, place.namespace)
        if not place.name and "deletionTimestamp" in found["metadata"]:
            raise terminating(place.namespace, place.resource, str(meta.get("name") or ""))

    def _suffix(self) -> str:
        number = uuid.UUID(self.uid("name")).int
        return "".join(_ALPHABET[number // len(_ALPHABET) ** n % len(_ALPHABET)] for n in range(5))


def stamp(seconds: float) -> str:
    """A time in whole seconds, RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def success() -> Json:
    """The Status of what went well."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def decoded(body: bytes) -> Any:
    """JSON of a request; 400 for what is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error} ({body[:40].hex()})") from None


def _checked(resource: Resource, obj: Any) -> Json:
    """The metadata of an object of the right kind; that of the path where it names none."""
    if not isinstance(obj, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {resource.kind})")
    obj["kind"] = obj.get("kind") or resource.kind
    obj["apiVersion"] = obj.get("apiVersion") or resource.api_version
    if (obj["kind"], obj["apiVersion"]) != (resource.kind, resource.api_version):
        version = obj["apiVersion"]
        raise bad_request(f'{obj["kind"]} in version "{version}" cannot be handled as a {resource.kind}')
    meta = obj.get("metadata")
    obj["metadata"] = meta = dict(meta) if isinstance(meta, dict) else {}
    return meta


def _take_part(place: Place, old: Json, new: Json) -> None:
    """Status changes through its subresource only, and nothing else does there."""
    kept = "spec" if place.subresource else "status" if place.resource.status else ""
    if kept:
        new.pop(kept, None)
        if kept in old:
            new[kept] = old[kept]


def _unowned(obj: Json) -> Json:
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "managedFields"}}


def _is_over(obj: Json) -> bool:
    """Whether an object was only waiting for its last finalizer."""
    meta = obj["metadata"]
    waits = meta.get("deletionGracePeriodSeconds") or (obj.get("spec") or {}).get("finalizers")
    return "deletionTimestamp" in meta and not meta.get("finalizers") and not waits


def _grace(resource: Resource, obj: Json, asked: int | None) -> int:
    """Seconds that a deleted object may take; only pods that a kubelet has seen take any."""
    if resource is not PODS:
        return 0
    spec, phase = obj.get("spec") or {}, (obj.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    return max(0, int(spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked))
