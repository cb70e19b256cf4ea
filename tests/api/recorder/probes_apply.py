"""Probes of server-side apply: who owns what, who conflicts, what goes."""

from __future__ import annotations

from typing import Any

from tests.api.recorder.probe import (
    APPLY,
    Probe,
    Step,
    address,
    apply,
    bundle,
    create,
    delete,
    get,
    patch,
    put,
    rack,
    text_of,
)

_IP = {"ip": "10.0.0.1"}


def spec(**fields: Any) -> Any:
    """A Rack of these fields beside its address."""
    return rack({**_IP, **fields})


_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"


def _two(name: str, first: Any, second: Any, **query: str) -> Probe:
    """`a` applies, then `b`, then `a` once more as at first."""
    return Probe(
        f"apply two {name}", (apply("a", first), apply("b", second, **query), get(), apply("a", first, **query))
    )


def _again(name: str, first: Any, second: Any) -> Probe:
    """One manager applies one thing and then another."""
    return Probe(f"apply again {name}", (apply("a", first), apply("a", second), get()))


_FULL = {
    "versions": {"pouch": "1"}, "selector": {"a": "b"}, "packages": ["b", "a"], "args": ["x", "x"],
    "configMaps": [{"name": "b", "value": "1", "tags": ["t"]}, {"name": "a"}], "driver": {"options": {"deep": "1"}},
    "free": {"any": {"thing": [1]}}, "either": "5",
}  # fmt: skip

ONE = (
    Probe("apply creates", (apply("a", spec(**_FULL)), get())),
    Probe("apply creates with metadata", (apply("a", rack(_IP, labels={"a": "1"}, annotations={"b": "2"}, finalizers=["fleet.dev/x"])), get())),
    Probe("apply creates bundle", (apply("a", bundle({"packageName": "p", "units": [{"port": 1, "name": "x", "artifacts": [{"url": "u"}]}]})),)),
    _again("unchanged", spec(**_FULL), spec(**_FULL)),
    _again("removal", spec(idc="a", versions={"x": "1", "y": "2"}), spec(versions={"x": "1"})),
    _again("removal of all of a map", spec(versions={"x": "1"}), spec()),
    _again("map emptied", spec(versions={"x": "1"}), spec(versions={})),
    _again("empty map gone", spec(versions={}), spec()),
    _again("set item", spec(packages=["a", "b"]), spec(packages=["b", "c"])),
    _again("set reordered", spec(packages=["a", "b"]), spec(packages=["b", "a"])),
    _again("set emptied", spec(packages=["a"]), spec(packages=[])),
    _again("set gone", spec(packages=["a"]), spec()),
    _again("list item", spec(configMaps=[{"name": "a"}, {"name": "b", "value": "1"}]), spec(configMaps=[{"name": "b", "value": "2"}, {"name": "c"}])),
    _again("list reordered", spec(configMaps=[{"name": "a"}, {"name": "b"}]), spec(configMaps=[{"name": "b"}, {"name": "a"}])),
    _again("list field of item", spec(configMaps=[{"name": "a", "value": "1", "count": 2}]), spec(configMaps=[{"name": "a", "value": "1"}])),
    _again("list gone", spec(configMaps=[{"name": "a"}]), spec()),
    _again("list emptied", spec(configMaps=[{"name": "a"}]), spec(configMaps=[])),
    _again("atomic list", spec(args=["a"]), spec(args=["b", "a"])),
    _again("atomic map", spec(selector={"a": "b"}), spec(selector={"c": "d"})),
    _again("atomic gone", spec(args=["a"], selector={"a": "b"}), spec()),
    _again("struct", spec(driver={"type": "a", "options": {"deep": "1"}}), spec(driver={"port": 1})),
    _again("struct gone", spec(driver={"type": "a", "options": {"deep": "1"}}), spec()),
    _again("struct emptied", spec(driver={"type": "a"}), spec(driver={})),
    _again("free object", spec(free={"a": {"b": 1}, "c": 1}), spec(free={"a": {"d": 1}})),
    _again("free list", spec(free={"a": [1, 2]}), spec(free={"a": [2, 3]})),
    _again("null", spec(idc="a"), spec(idc=None)),
    _again("null in map", spec(versions={"a": "1"}), spec(versions={"a": None})),
    _again("labels", rack(_IP, labels={"a": "1", "b": "2"}), rack(_IP, labels={"b": "3"})),
    _again("labels gone", rack(_IP, labels={"a": "1"}), rack(_IP)),
    _again("finalizers", rack(_IP, finalizers=["fleet.dev/a", "fleet.dev/b"]), rack(_IP, finalizers=["fleet.dev/b"])),
    _again("spec away", spec(idc="a"), rack(False)),
    _again("dry of nothing", rack(_IP), rack(_IP, annotations={"a": "b"})),
)  # fmt: skip

TWO = (
    _two("same value", spec(idc="a"), spec(idc="a")),
    _two("other value", spec(idc="a"), spec(idc="b")),
    _two("other value by force", spec(idc="a"), spec(idc="b"), force="true"),
    _two("several conflicts", spec(idc="a", count=1, mode="Repair"), spec(idc="b", count=2, mode="Report")),
    _two("own fields", spec(idc="a"), spec(count=1)),
    _two("map entries", spec(versions={"a": "1"}), spec(versions={"b": "1"})),
    _two("map conflict", spec(versions={"a": "1"}), spec(versions={"a": "2"})),
    _two("empty map", spec(versions={"a": "1"}), spec(versions={})),
    _two("atomic map conflict", spec(selector={"a": "1"}), spec(selector={"b": "1"})),
    _two("atomic list conflict", spec(args=["a"]), spec(args=["a", "b"])),
    _two("set items", spec(packages=["c", "a"]), spec(packages=["b", "a"])),
    _two("list items", spec(configMaps=[{"name": "c"}, {"name": "a"}]), spec(configMaps=[{"name": "b"}, {"name": "a"}])),
    _two("list item conflict", spec(configMaps=[{"name": "a", "value": "1"}]), spec(configMaps=[{"name": "a", "value": "2"}])),
    _two("list item fields", spec(configMaps=[{"name": "a", "value": "1"}]), spec(configMaps=[{"name": "a", "count": 2}])),
    _two("struct", spec(driver={"type": "a"}), spec(driver={"port": 1, "options": {"more": "1"}})),
    _two("struct conflict deep", spec(driver={"options": {"deep": "1"}}), spec(driver={"options": {"deep": "2"}})),
    _two("free object", spec(free={"a": 1}), spec(free={"b": 1})),
    _two("empty struct", spec(driver={"type": "a"}), spec(driver={})),
    Probe("apply two share, one drops", (apply("a", spec(idc="a")), apply("b", spec(idc="a")), apply("a", spec()), get())),
    Probe("apply two share, both drop", (apply("a", spec(idc="a")), apply("b", spec(idc="a")), apply("a", spec()), apply("b", spec()), get())),
    Probe("apply two share item, one drops", (apply("a", spec(configMaps=[{"name": "x", "value": "1"}])), apply("b", spec(configMaps=[{"name": "x", "count": 1}])), apply("a", spec()), get())),
    Probe("apply two share map, one drops", (apply("a", spec(versions={"x": "1"})), apply("b", spec(versions={"y": "1"})), apply("a", spec()), apply("b", spec()), get())),
    Probe("apply two share struct, one drops", (apply("a", spec(driver={"type": "1"})), apply("b", spec(driver={"options": {"deep": "1"}})), apply("b", spec()), get())),
    Probe("apply three conflict with two", (
        apply("a", spec(idc="a", count=1)), apply("b", spec(idc="a", mode="Repair")), apply("c", spec(idc="z", mode="Report", count=2)),
        apply("c", spec(idc="z", mode="Report", count=2), force="true"), get())),
    Probe("apply conflict by bundles", (
        apply("a", bundle({"packageName": "p", "units": [{"name": "x", "port": 1, "enabled": True}]})),
        apply("b", bundle({"packageName": "p", "units": [{"port": 1, "name": "x", "enabled": False}]})),
        apply("b", bundle({"packageName": "p", "units": [{"port": 1, "name": "x", "enabled": False}]}), force="true"))),
)  # fmt: skip

UPDATES = (
    Probe("apply after create", (create(spec(idc="a", versions={"x": "1"})), apply("a", spec(idc="a")), apply("a", spec(idc="b")), apply("a", spec(idc="b"), force="true"), get())),
    Probe("apply after patch", (apply("a", spec(idc="a")), patch({"spec": {"idc": "b"}}), apply("a", spec(idc="a")), apply("a", spec(idc="a"), force="true"))),
    Probe("apply after patch of the same name", (apply("a", spec(idc="a")), patch({"spec": {"idc": "b"}}, fieldManager="a"), apply("a", spec(idc="a")))),
    Probe("apply then update removes", (apply("a", spec(idc="a", versions={"x": "1"})), patch({"spec": {"idc": None, "versions": None}}), get(), apply("a", spec(idc="a", versions={"x": "1"})))),
    Probe("apply then update in item", (apply("a", spec(configMaps=[{"name": "a", "value": "1"}])), patch([{"op": "replace", "path": "/spec/configMaps/0/value", "value": "2"}]), apply("a", spec(configMaps=[{"name": "a", "value": "1"}])))),
    Probe("apply then update adds item", (apply("a", spec(configMaps=[{"name": "a"}])), patch([{"op": "add", "path": "/spec/configMaps/0", "value": {"name": "z", "value": "1"}}]), apply("a", spec(configMaps=[{"name": "a"}, {"name": "b"}])), apply("a", spec()), get())),
    Probe("apply then replace", (apply("a", spec(idc="a", packages=["x"])), put(rack({**_IP, "idc": "b"}, resourceVersion="$rv")), get())),
    Probe("apply then update of map", (apply("a", spec(versions={"x": "1"})), patch({"spec": {"versions": {"y": "1"}}}), apply("a", spec()), get())),
    Probe("apply before first", (create(spec(idc="a")), patch({"metadata": {"managedFields": [{}]}}), apply("a", spec(idc="b")), apply("a", spec(idc="b"), force="true"), get())),
    Probe("apply before first without conflict", (create(spec(idc="a", versions={"x": "1"})), patch({"metadata": {"managedFields": [{}]}}), apply("a", spec(idc="a")))),
    Probe("apply before first with status", (create(spec(idc="a")), patch({"status": {"phase": "x"}}, sub="status"), patch({"metadata": {"managedFields": [{}]}}), apply("a", spec(idc="a")))),
    Probe("apply after update cleared owners", (create(spec(idc="a")), patch({"metadata": {"managedFields": [{}]}}), patch({"spec": {"idc": "b"}}), get())),
    Probe("apply after kubectl apply", (
        create(rack({**_IP, "idc": "a"}, annotations={_ANNOTATION: '{"apiVersion":"fleet.dev/v1","kind":"Rack","metadata":{"name":"x"},"spec":{"idc":"a","ip":"10.0.0.1"}}\n'}), fieldManager="kubectl-client-side-apply"),
        apply("kubectl-last-applied", rack({**_IP, "idc": "a"})), apply("kubectl", spec(idc="b")), apply("kubectl", spec()), get())),
    Probe("apply migrates managed fields", (create(spec(idc="a"), fieldManager="kubectl-client-side-apply"), patch([
        {"op": "replace", "path": "/metadata/managedFields", "value": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "fleet.dev/v1",
         "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:ip": {}, "f:idc": {}}}}]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "$rv"}]), apply("kubectl", spec()), get())),
    Probe("apply while deleting", (apply("a", rack(_IP, finalizers=["fleet.dev/x"])), delete(), apply("a", rack({**_IP, "idc": "a"}, finalizers=["fleet.dev/x"])), apply("a", rack(_IP)), get())),
)  # fmt: skip


def _raw(name: str, body: Any, manager: str = "a", made: bool = True, **query: str) -> Probe:
    """An apply of whatever body, after a plain one."""
    query = {"fieldManager": manager, **query} if manager else query
    step = Step("PATCH", address("racks", "$n", **query), text_of(body), {"Content-Type": APPLY})
    return Probe(f"apply {name}", (apply("a", rack(_IP)), step) if made else (step,))


_DUPLICATE = '{"apiVersion":"fleet.dev/v1","kind":"Rack","metadata":{"name":"$n"},"spec":{"ip":"1","ip":"2"}}'
_ENTRY = {
    "manager": "a",
    "operation": "Apply",
    "apiVersion": "fleet.dev/v1",
    "fieldsType": "FieldsV1",
    "fieldsV1": {"f:spec": {}},
}
REFUSED = (
    _raw("without manager", rack(_IP), manager=""),
    _raw("manager too long", rack(_IP), manager="x" * 129),
    _raw("force garbage", rack(_IP), force="maybe"),
    _raw("managed fields given", rack(_IP, managedFields=[_ENTRY])),
    _raw("managed fields empty", rack(_IP, managedFields=[])),
    _raw("stale", spec(idc="b") | {"metadata": {"name": "$n", "resourceVersion": "1"}}),
    _raw("current version", spec(idc="b") | {"metadata": {"name": "$n", "resourceVersion": "$rv"}}),
    _raw("missing with version", spec() | {"metadata": {"name": "$n", "resourceVersion": "1"}}, made=False),
    _raw("missing with uid", spec() | {"metadata": {"name": "$n", "uid": "1"}}, made=False),
    _raw("uid differs", spec() | {"metadata": {"name": "$n", "uid": "1"}}),
    _raw("name differs", rack(_IP, name="other")),
    _raw("name missing", rack(_IP, name=None)),
    _raw("metadata missing", {"apiVersion": "fleet.dev/v1", "kind": "Rack", "spec": _IP}),
    _raw("kind missing", {"apiVersion": "fleet.dev/v1", "metadata": {"name": "$n"}, "spec": _IP}),
    _raw("version missing", {"kind": "Rack", "metadata": {"name": "$n"}, "spec": _IP}),
    _raw("kind wrong", {**rack(_IP), "kind": "Bundle"}),
    _raw("version wrong", {**rack(_IP), "apiVersion": "fleet.dev/v9"}),
    _raw("unknown strict", spec(bogus=1), fieldValidation="Strict"),
    _raw("unknown warn", spec(bogus=1), fieldValidation="Warn"),
    _raw("unknown ignore", spec(bogus=1), fieldValidation="Ignore"),
    _raw("duplicate strict", _DUPLICATE, fieldValidation="Strict"),
    _raw("wrong type", spec(idc=5)),
    _raw("wrong type list", spec(configMaps={"a": 1})),
    _raw("wrong enum", spec(mode="x")),
    _raw("key missing", spec(configMaps=[{"value": "1"}])),
    _raw("key twice", spec(configMaps=[{"name": "a"}, {"name": "a"}])),
    _raw("set item twice", spec(packages=["a", "a"])),
    _raw("required missing", rack({"idc": "a"})),
    _raw("required missing on create", rack({"idc": "a"}), made=False),
    _raw("yaml", "apiVersion: fleet.dev/v1\nkind: Rack\nmetadata: {name: $n}\nspec: {ip: 10.0.0.1, paused: yes}\n"),
    _raw("garbage", "{x: ["),
    _raw("list", "[]"),
    _raw("empty", ""),
    _raw("dry run", spec(idc="z"), dryRun="All"),
    _raw("dry run create", rack(_IP), made=False, dryRun="All"),
    _raw("bad name", rack(_IP, labels={"a b": "c"})),
    _raw("generate name", rack(_IP, generateName="x-"), made=False),
    _raw("unknown metadata strict", rack(_IP, bogus="x"), fieldValidation="Strict"),
    _raw("status subresource of missing", rack(_IP), made=False, manager="a"),
)  # fmt: skip

APPLIES = (*ONE, *TWO, *UPDATES, *REFUSED)
