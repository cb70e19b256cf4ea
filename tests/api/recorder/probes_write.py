"""Probes of replace, patch, status and delete."""

from __future__ import annotations

from typing import Any

from tests.api.recorder.probe import JSON, MERGE, Probe, Step, address, apply, create, delete, get, patch, put, rack

_OK = {"ip": "10.0.0.1"}
_RICH = {
    "ip": "10.0.0.1",
    "idc": "a",
    "versions": {"pouch": "1.0", "kubelet": "1"},
    "selector": {"a": "b", "c": "d"},
    "packages": ["a", "b"],
    "configMaps": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}],
    "args": ["x"],
    "driver": {"type": "ssh", "options": {"deep": "1"}},
}
_MADE = create(rack(_RICH, labels={"a": "1"}))


def _put(name: str, body: Any, **query: str) -> Probe:
    return Probe(f"replace {name}", (_MADE, put(body, **query)))


def _now(spec: Any = None, status: Any = None, **meta: Any) -> Any:
    """The object with the version that the create answered."""
    return rack(spec or _RICH, status, **{"resourceVersion": "$rv", **meta})


REPLACE = (
    _put("without version", rack(_RICH)),
    _put("stale", rack(_RICH, resourceVersion="1")),
    _put("version garbage", rack(_RICH, resourceVersion="abc")),
    _put("unchanged", _now(labels={"a": "1"})),
    _put("changed", _now({**_RICH, "idc": "b"}, labels={"a": "1"})),
    _put("labels removed", _now()),
    _put("fields removed", _now(_OK)),
    _put("status ignored", _now(_RICH, {"phase": "x"}, labels={"a": "1"})),
    _put("name differs", _now(name="other")),
    _put("name missing", _now(name=None)),
    _put("uid differs", _now(uid="other")),
    _put("uid right", _now(uid="$uid", labels={"a": "1"})),
    _put("kind differs", {**_now(), "kind": "Bundle"}),
    _put("unknown strict", _now({**_RICH, "bogus": 1}), fieldValidation="Strict"),
    _put("unknown warn", _now({**_RICH, "bogus": 1}), fieldValidation="Warn"),
    _put("invalid", _now({"ip": 5})),
    _put("dry run", _now({**_RICH, "idc": "b"}), dryRun="All"),
    _put("as merge patch", _now()),
    Probe("replace missing", (put(rack(_OK, resourceVersion="1")),)),
    Probe("replace missing without version", (put(rack(_OK)),)),
    Probe("replace by the same manager", (_MADE, put(_now({**_OK, "idc": "b"}), fieldManager="creator"))),
    Probe("replace list order of set", (_MADE, put(_now({**_RICH, "packages": ["b", "a"]}, labels={"a": "1"})))),
    Probe("replace list order of keyed", (_MADE, put(_now({**_RICH, "configMaps": _RICH["configMaps"][::-1]}, labels={"a": "1"})))),  # type: ignore[index]
    Probe("replace as text", (_MADE, put(_now(), media="text/plain"))),
)  # fmt: skip


def _patch(name: str, body: Any, **query: Any) -> Probe:
    return Probe(f"patch {name}", (_MADE, patch(body, **query), get()))


_STRATEGIC = "application/strategic-merge-patch+json"
PATCHES = (
    _patch("merge change", {"spec": {"idc": "b"}}),
    _patch("merge nothing", {}),
    _patch("merge equal", {"spec": {"idc": "a"}}),
    _patch("merge remove field", {"spec": {"idc": None}}),
    _patch("merge remove map", {"spec": {"versions": None}}),
    _patch("merge map entry", {"spec": {"versions": {"pouch": "2", "new": "1", "kubelet": None}}}),
    _patch("merge atomic map", {"spec": {"selector": {"a": "x"}}}),
    _patch("merge set", {"spec": {"packages": ["b", "c"]}}),
    _patch("merge keyed list", {"spec": {"configMaps": [{"name": "b", "value": "3"}, {"name": "c"}]}}),
    _patch("merge atomic list", {"spec": {"args": ["y"]}}),
    _patch("merge struct", {"spec": {"driver": {"port": 5, "options": {"deep": None}}}}),
    _patch("merge labels", {"metadata": {"labels": {"a": None, "b": "2"}}}),
    _patch("merge status ignored", {"status": {"phase": "x"}}),
    _patch("merge stale", {"metadata": {"resourceVersion": "1"}, "spec": {"idc": "b"}}),
    _patch("merge current version", {"metadata": {"resourceVersion": "$rv"}, "spec": {"idc": "b"}}),
    _patch("merge version garbage", {"metadata": {"resourceVersion": "abc"}, "spec": {"idc": "b"}}),
    _patch("merge uid", {"metadata": {"uid": "other"}}),
    _patch("merge name", {"metadata": {"name": "other"}}),
    _patch("merge kind", {"kind": "Bundle"}),
    _patch("merge version", {"apiVersion": "fleet.dev/v2"}),
    _patch("merge without kind", {"kind": None, "apiVersion": None}),
    _patch("merge metadata away", {"metadata": None}),
    _patch("merge spec away", {"spec": None}),
    _patch("merge generation", {"metadata": {"generation": 9, "creationTimestamp": "2001-01-01T00:00:00Z"}}),
    _patch("merge unknown strict", {"spec": {"bogus": 1}}, fieldValidation="Strict"),
    _patch("merge unknown warn", {"spec": {"bogus": 1}}, fieldValidation="Warn"),
    _patch("merge unknown null strict", {"spec": {"bogus": None}}, fieldValidation="Strict"),
    _patch("merge duplicate strict", '{"spec":{"idc":"b","idc":"c"}}', fieldValidation="Strict"),
    _patch("merge invalid", {"spec": {"mode": "x"}}),
    _patch("merge wrong type", {"spec": {"idc": 5}}),
    _patch("merge list", "[]", media=MERGE),
    _patch("merge garbage", "{x", media=MERGE),
    _patch("merge empty", "", media=MERGE),
    _patch("merge text", '"x"', media=MERGE),
    _patch("merge force", {"spec": {"idc": "b"}}, force="true"),
    _patch("merge dry run", {"spec": {"idc": "b"}}, dryRun="All"),
    _patch("merge dry run bad", {"spec": {"idc": "b"}}, dryRun="x"),
    _patch("merge validation bad", {"spec": {"idc": "b"}}, fieldValidation="x"),
    _patch("merge manager long", {"spec": {"idc": "b"}}, fieldManager="x" * 129),
    _patch("merge clears managed fields", {"metadata": {"managedFields": []}}),
    _patch("merge clears managed fields by empty entry", {"metadata": {"managedFields": [{}]}}),
    _patch("merge clears managed fields and changes", {"metadata": {"managedFields": [{}]}, "spec": {"idc": "b"}}),
    _patch("merge managed fields garbage", {"metadata": {"managedFields": [{"operation": "Dance"}]}}),
    _patch("json replace", [{"op": "replace", "path": "/spec/idc", "value": "b"}]),
    _patch("json add", [{"op": "add", "path": "/spec/versions/x", "value": "1"}]),
    _patch("json remove", [{"op": "remove", "path": "/spec/idc"}]),
    _patch("json test and replace", [{"op": "test", "path": "/spec/idc", "value": "a"}, {"op": "replace", "path": "/spec/idc", "value": "c"}]),
    _patch("json test fails", [{"op": "test", "path": "/spec/idc", "value": "z"}]),
    _patch("json remove missing", [{"op": "remove", "path": "/spec/nothing"}]),
    _patch("json replace missing", [{"op": "replace", "path": "/spec/nothing", "value": 1}]),
    _patch("json index too large", [{"op": "add", "path": "/spec/args/9", "value": "x"}]),
    _patch("json append", [{"op": "add", "path": "/spec/args/-", "value": "x"}]),
    _patch("json move", [{"op": "move", "from": "/spec/idc", "path": "/spec/driver/type"}]),
    _patch("json copy", [{"op": "copy", "from": "/spec/idc", "path": "/spec/driver/type"}]),
    _patch("json unknown op", [{"op": "dance", "path": "/spec/idc"}]),
    _patch("json not a list", '{"op":"remove"}', media="application/json-patch+json"),
    _patch("json empty", []),
    _patch("json without path", [{"op": "remove"}]),
    _patch("json unknown strict", [{"op": "add", "path": "/spec/bogus", "value": 1}], fieldValidation="Strict"),
    _patch("json managed fields cleared", [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]),
    _patch("json managed fields rewritten", [{"op": "replace", "path": "/metadata/managedFields", "value": [
        {"manager": "a", "operation": "Apply", "apiVersion": "fleet.dev/v1", "time": "2026-01-01T00:00:00Z",
         "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:ip": {}}}}]}]),
    _patch("json stale by test", [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}]),
    _patch("strategic", {"spec": {"idc": "b"}}, media=_STRATEGIC),
    _patch("as json", {"spec": {"idc": "b"}}, media=JSON),
    _patch("as text", "x", media="text/plain"),
    Probe("patch without content type", (_MADE, Step("PATCH", address("racks", "$n"), '{"spec":{}}'))),
    Probe("patch missing", (patch({"spec": {}}),)),
    Probe("patch json missing", (patch([]),)),
    Probe("patch by agent name", (_MADE, Step("PATCH", address("racks", "$n"), '{"spec":{"idc":"z"}}', {"Content-Type": MERGE, "User-Agent": "tool/2.0 (x)"}))),
    Probe("patch twice by one manager", (_MADE, patch({"spec": {"idc": "b"}}), patch({"spec": {"idc": "c"}}), get())),
    Probe("patch back and forth", (_MADE, patch({"spec": {"idc": "b"}}), patch({"spec": {"idc": "a"}}, fieldManager="creator"))),
)  # fmt: skip

STATUS = (
    Probe("status patched", (_MADE, patch({"status": {"phase": "Running"}}, sub="status"), get())),
    Probe("status patch leaves spec", (_MADE, patch({"status": {"phase": "x"}, "spec": {"idc": "z"}}, sub="status"))),
    Probe("status patch of metadata", (_MADE, patch({"metadata": {"labels": {"x": "y"}}, "status": {"phase": "x"}}, sub="status"))),
    Probe("status replaced", (_MADE, put(_now(_RICH, {"phase": "x", "seen": {"a": "b"}}), sub="status"), get())),
    Probe("status replaced without version", (_MADE, put(rack(_RICH, {"phase": "x"}), sub="status"))),
    Probe("status unchanged", (_MADE, patch({"status": {"phase": "x"}}, sub="status"), patch({"status": {"phase": "x"}}, sub="status"))),
    Probe("status removed", (_MADE, patch({"status": {"phase": "x"}}, sub="status"), patch({"status": None}, sub="status"))),
    Probe("status wrong type", (_MADE, patch({"status": {"phase": 5}}, sub="status"))),
    Probe("status unknown strict", (_MADE, patch({"status": {"bogus": 5}}, sub="status", fieldValidation="Strict"))),
    Probe("status kept by main path", (_MADE, patch({"status": {"phase": "x"}}, sub="status"), put(_now({**_RICH, "idc": "b"}), sub=""))),
    Probe("status of missing", (patch({"status": {"phase": "x"}}, sub="status"),)),
    Probe("status applied", (_MADE, apply("ctl", rack(False, {"phase": "x", "conditions": [{"type": "A", "status": "True"}]}), sub="status"), get())),
    Probe("status applied by two", (
        _MADE,
        apply("one", rack(False, {"conditions": [{"type": "A", "status": "True"}]}), sub="status"),
        apply("two", rack(False, {"conditions": [{"type": "B", "status": "True"}]}), sub="status"),
        apply("two", rack(False, {"conditions": [{"type": "A", "status": "False"}]}), sub="status"),
        apply("two", rack(False, {"conditions": [{"type": "A", "status": "False"}]}), sub="status", force="true"),
    )),
    Probe("status applied on main path", (_MADE, apply("ctl", rack(_OK, {"phase": "x"})), get())),
)  # fmt: skip


_FINAL = create(rack(_OK, finalizers=["fleet.dev/keep"]))
DELETE = (
    Probe("delete", (_MADE, delete({"propagationPolicy": "Background"}), get())),
    Probe("delete without body", (_MADE, delete())),
    Probe("delete missing", (delete(),)),
    Probe("delete dry run by body", (_MADE, delete({"dryRun": ["All"]}), get())),
    Probe("delete dry run by query", (_MADE, delete(dryRun="All"), get())),
    Probe("delete dry run bad", (_MADE, delete({"dryRun": ["x"]}))),
    Probe("delete with wrong uid", (_MADE, delete({"preconditions": {"uid": "other"}}))),
    Probe("delete with wrong version", (_MADE, delete({"preconditions": {"resourceVersion": "1"}}))),
    Probe("delete with right preconditions", (_MADE, delete({"preconditions": {"uid": "$uid", "resourceVersion": "$rv"}}))),
    Probe("delete policy bad", (_MADE, delete({"propagationPolicy": "Sometimes"}))),
    Probe("delete body garbage", (_MADE, delete("{x"))),
    Probe("delete body list", (_MADE, delete("[]"))),
    Probe("delete body unknown field", (_MADE, delete({"bogus": 1}))),
    Probe("delete now", (_MADE, delete({"gracePeriodSeconds": 0}))),
    Probe("delete with finalizer", (_FINAL, delete({"propagationPolicy": "Background"}), get())),
    Probe("delete twice with finalizer", (_FINAL, delete(), delete(), get())),
    Probe("delete finished by finalizer", (_FINAL, delete(), patch({"metadata": {"finalizers": None}}), get())),
    Probe("delete then new finalizer", (_FINAL, delete(), patch({"metadata": {"finalizers": ["fleet.dev/keep", "fleet.dev/more"]}}))),
    Probe("delete then change spec", (_FINAL, delete(), patch({"spec": {"idc": "b"}}))),
    Probe("delete cannot be taken back", (_FINAL, delete(), patch({"metadata": {"deletionTimestamp": None}}))),
    Probe("delete then create again", (_FINAL, delete(), create(rack(_OK)))),
)  # fmt: skip
