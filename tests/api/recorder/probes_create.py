"""Probes of creation: what is refused, pruned, warned about and owned."""

from __future__ import annotations

from typing import Any

from tests.api.recorder.probe import JSON, YAML, Probe, Step, address, bundle, create, get, rack

_OK = {"ip": "10.0.0.1"}
_TWICE = '{"apiVersion":"fleet.dev/v1","kind":"Rack","metadata":{"name":"$n"},"spec":{"ip":"1","ip":"2","idc":"a"}}'
_DEEP_TWICE = (
    '{"apiVersion":"fleet.dev/v1","kind":"Rack","metadata":{"name":"$n","labels":{"a":"1","a":"2"}},'
    '"spec":{"ip":"1","configMaps":[{"name":"a"},{"name":"b","value":"1","value":"2"}]}}'
)
_FULL = {
    "ip": "10.0.0.1",
    "idc": "iad1",
    "count": 3,
    "weight": 1.5,
    "paused": False,
    "mode": "Repair",
    "versions": {"pouch": "1.0", "kubelet": "1.37"},
    "selector": {"a": "b"},
    "packages": ["b", "a"],
    "configMaps": [{"name": "b", "value": "1", "tags": ["x", "y"]}, {"name": "a"}],
    "args": ["-v", "-v"],
    "driver": {"type": "ssh", "options": {"deep": "1"}},
    "free": {"any": [1, {"a": None}]},
    "either": 5,
}


def _spec(name: str, spec: Any) -> Probe:
    return Probe(name, (create(rack({**_OK, **spec}), fieldValidation="Strict"),))


_SPECS = (
    _spec("create wrong type string", {"idc": 5}),
    _spec("create wrong type integer", {"count": "5"}),
    _spec("create wrong type integer fraction", {"count": 1.5}),
    _spec("create wrong type boolean", {"paused": "yes"}),
    _spec("create wrong type object", {"driver": []}),
    _spec("create wrong type list", {"args": "x"}),
    _spec("create wrong type list item", {"args": ["x", 1]}),
    _spec("create wrong type map value", {"versions": {"pouch": 1}}),
    _spec("create wrong type keyed item", {"configMaps": ["a"]}),
    _spec("create wrong type int or string", {"either": 1.5}),
    _spec("create wrong enum", {"mode": "Destroy"}),
    _spec("create wrong pattern", {"code": "xyz"}),
    _spec("create too small", {"count": -1}),
    _spec("create too large", {"count": 11}),
    _spec("create too long", {"idc": "x" * 21}),
    _spec("create too short", {"code": ""}),
    _spec("create too many items", {"configMaps": [{"name": str(i)} for i in range(5)]}),
    _spec("create bad date", {"when": "yesterday"}),
    _spec("create good date", {"when": "2026-01-01T00:00:00Z"}),
    _spec("create duplicate key of list", {"configMaps": [{"name": "a"}, {"name": "a", "value": "x"}]}),
    _spec("create duplicate item of set", {"packages": ["a", "b", "a"]}),
    _spec("create keyed item without its key", {"configMaps": [{"value": "x"}]}),
    _spec("create several problems", {"mode": "Destroy", "count": 11}),
    _spec("create null known", {"idc": None, "driver": {"type": None}}),
    _spec("create null item of list", {"args": [None]}),
    _spec("create null unknown", {"nothing": None}),
    _spec("create unknown fields strict", {"bogus": 1, "driver": {"x": 1}, "configMaps": [{"name": "a", "y": 1}]}),
    Probe("create required missing", (create(rack({"idc": "a"})),)),
    Probe("create required null", (create(rack({"ip": None})),)),
    Probe("create spec missing", (create({"apiVersion": "fleet.dev/v1", "kind": "Rack", "metadata": {"name": "$n"}}),)),
    Probe("create spec of wrong type", (create(rack("x")),)),
    Probe("create two keys of list", (create(bundle({"packageName": "a", "units": [
        {"name": "a", "port": 1}, {"name": "a", "port": 2}, {"name": "a", "port": 1}]})),)),
)  # fmt: skip


def _meta(title: str, **meta: Any) -> Probe:
    return Probe(title, (create(rack(_OK, **meta), fieldValidation="Strict"),))


_METADATA = (
    _meta("create bad name upper case", name="Upper"),
    _meta("create bad name empty", name=""),
    _meta("create bad name too long", name="x" * 254),
    _meta("create bad name of wrong type", name=5),
    _meta("create generated name", name=None, generateName="gen-"),
    _meta("create name and generated name", generateName="gen-"),
    _meta("create bad generated name", name=None, generateName="Gen_"),
    _meta("create label key bad", labels={"a b": "c"}),
    _meta("create label key bad prefix", labels={"A_/b": "c"}),
    _meta("create label value bad", labels={"a": "b c"}),
    _meta("create label value too long", labels={"a": "x" * 64}),
    _meta("create label value number", labels={"a": 5}),
    _meta("create labels null", labels=None),
    _meta("create label value null", labels={"a": None}),
    _meta("create labels list", labels=["a"]),
    _meta("create annotation key bad", annotations={"a b": "c"}),
    _meta("create annotations too large", annotations={"a": "x" * 262145}),
    _meta("create annotation value number", annotations={"a": 5}),
    _meta("create finalizer bad", finalizers=["no spaces please"]),
    _meta("create finalizer unqualified", finalizers=["plain"]),
    _meta("create finalizer good", finalizers=["fleet.dev/x"]),
    _meta("create unknown metadata strict", bogus=1),
    _meta("create resource version set", resourceVersion="5"),
    _meta("create server fields given", uid="mine", generation=7, creationTimestamp="2001-01-01T00:00:00Z",
          selfLink="x", deletionTimestamp="2001-01-01T00:00:00Z"),
    _meta("create managed fields given", managedFields=[{"manager": "x", "operation": "Update", "apiVersion": "fleet.dev/v1",
          "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:ip": {}}}}]),
    _meta("create namespace given", namespace="default"),
    _meta("create owner reference", ownerReferences=[{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "1"}]),
    Probe("create metadata missing", (create({"apiVersion": "fleet.dev/v1", "kind": "Rack", "spec": _OK}),)),
    Probe("create metadata of wrong type", (create({"apiVersion": "fleet.dev/v1", "kind": "Rack", "metadata": "x", "spec": _OK}),)),
)  # fmt: skip


def _body(name: str, body: Any, media: str = JSON, **query: str) -> Probe:
    return Probe(name, (create(body, "racks", media, **query),))


_UNKNOWN = {**_OK, "bogus": 1, "driver": {"x": 1}}
_YAML = "apiVersion: fleet.dev/v1\nkind: Rack\nmetadata:\n  name: $n\nspec:\n  ip: 10.0.0.1\n  paused: on\n"
_BODIES = (
    _body("create kind missing", {"apiVersion": "fleet.dev/v1", "metadata": {"name": "$n"}, "spec": _OK}),
    _body("create version missing", {"kind": "Rack", "metadata": {"name": "$n"}, "spec": _OK}),
    _body("create kind wrong", {**rack(), "kind": "Bundle"}),
    _body("create version wrong", {**rack(), "apiVersion": "fleet.dev/v2"}),
    _body("create kind of wrong type", {**rack(), "kind": 5}),
    _body("create unknown top field", {**rack(), "bogus": 1}, fieldValidation="Strict"),
    _body("create unknown warn", rack(_UNKNOWN), fieldValidation="Warn"),
    _body("create unknown ignore", rack(_UNKNOWN), fieldValidation="Ignore"),
    _body("create unknown default", rack(_UNKNOWN)),
    _body("create duplicate strict", _TWICE, fieldValidation="Strict"),
    _body("create duplicate warn", _TWICE, fieldValidation="Warn"),
    _body("create duplicate ignore", _TWICE, fieldValidation="Ignore"),
    _body("create duplicates deep strict", _DEEP_TWICE, fieldValidation="Strict"),
    _body("create not json", "{nonsense"),
    _body("create empty body", ""),
    _body("create list body", "[]"),
    _body("create null body", "null"),
    _body("create trailing garbage", '{"apiVersion":"fleet.dev/v1","kind":"Rack","metadata":{"name":"$n"},"spec":{"ip":"a"}} x'),
    _body("create yaml", _YAML, media=YAML),
    _body("create yaml bad", "a: [b", media=YAML),
    _body("create yaml duplicate strict", _YAML + "  ip: x\n", media=YAML, fieldValidation="Strict"),
    _body("create as text", "x", media="text/plain"),
    _body("create dry run", rack(), dryRun="All"),
    _body("create dry run bad", rack(), dryRun="Some"),
    _body("create field validation bad", rack(), fieldValidation="Maybe"),
    _body("create field manager too long", rack(), fieldManager="x" * 129),
    _body("create field manager unprintable", rack(), fieldManager="a\u200bb"),
    _body("create unknown query", rack(), nonsense="1"),
    Probe("create without content type", (Step("POST", address("racks"), '{"apiVersion":"fleet.dev/v1","kind":"Rack","metadata":{"name":"$n"},"spec":{"ip":"a"}}'),)),
    Probe("create dry run leaves nothing", (create(rack(), dryRun="All"), get())),
    Probe("create twice", (create(rack()), create(rack()))),
    Probe("create full", (create(rack(_FULL, labels={"a": "1"}, annotations={"b": "2"}), fieldValidation="Strict"), get())),
    Probe("create drops status", (create(rack(_OK, {"phase": "Running"})), get())),
    Probe("create empty containers", (create(rack({**_OK, "versions": {}, "packages": [], "configMaps": [], "args": [], "driver": {}})),)),
)  # fmt: skip

CREATE = (*_SPECS, *_METADATA, *_BODIES)
