"""Patches of all kinds and server-side apply, on both servers: who owns what, and what is refused."""

from __future__ import annotations

from typing import Any

import orjson

from clusters.kube import JSON_PATCH, STRATEGIC, Kube
from tests.simulator.api_servers import refusal
from tests.simulator.kube_objects import MAPS, NODES, config, node, told

Json = dict[str, Any]
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


# -- patches --------------------------------------------------------------------------------------------------------------


async def test_a_merge_patch_merges_deletes_and_may_be_conditional(kube: Kube) -> None:
    made = await kube.create(MAPS, config("merged", labels={"a": "1", "b": "2"}))
    path = f"{MAPS}/merged"
    found = await kube.patch(path, {"metadata": {"labels": {"a": None, "c": "3"}}, "data": {"n": "1"}})
    assert found["metadata"]["labels"] == {"b": "2", "c": "3"} and found["data"] == {"a": "b", "n": "1"}
    old = made["metadata"]["resourceVersion"]
    error = await refusal(kube.patch(path, {"metadata": {"resourceVersion": old}, "data": {"n": "2"}}))
    assert (error.code, error.reason) == (409, "Conflict") and error.message.endswith(MODIFIED)
    again = await kube.patch(path, {"data": {"n": "1"}})
    assert again["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]


async def test_identity_cannot_be_patched(kube: Kube) -> None:
    await kube.create(NODES, node("identity"))
    path = f"{NODES}/identity"
    error = await refusal(kube.patch(path, {"metadata": {"uid": "x"}}))
    assert (error.code, error.message) == (
        422,
        'Node "identity" is invalid: metadata.uid: Invalid value: "x": field is immutable',
    )
    error = await refusal(kube.patch(path, {"metadata": {"name": "x"}}))
    assert (error.code, error.message) == (
        400,
        "the name of the object (x) does not match the name on the URL (identity)",
    )
    assert (await kube.patch(path, {"spec": {"providerID": "fleet://1"}}))["spec"]["providerID"] == "fleet://1"
    error = await refusal(kube.patch(path, {"spec": {"providerID": "fleet://2"}}))
    cause = {
        "reason": "FieldValueInvalid",
        "message": "Invalid value: null: field cannot be modified once set",
        "field": "spec.providerID",
    }
    assert (error.code, error.details) == (422, {"name": "identity", "kind": "Node", "causes": [cause]})


async def test_a_json_patch_tests_adds_and_removes_or_is_rejected(kube: Kube) -> None:
    await kube.create(MAPS, config("jsonpatch"))
    path = f"{MAPS}/jsonpatch"
    steps = [
        {"op": "test", "path": "/data/a", "value": "b"},
        {"op": "add", "path": "/data/n", "value": "1"},
        {"op": "remove", "path": "/data/a"},
    ]
    assert (await kube.patch(path, steps, content_type=JSON_PATCH))["data"] == {"n": "1"}
    for step in ({"op": "test", "path": "/data/n", "value": "2"}, {"op": "remove", "path": "/data/nope"}):
        error = await refusal(kube.patch(path, [step], content_type=JSON_PATCH))
        assert told(error) == (422, "Invalid", "the server rejected our request due to an error in our request", {})


async def test_a_strategic_patch_merges_conditions_by_type_and_replaces_taints(kube: Kube) -> None:
    await kube.create(NODES, node("strategic"))
    path, status = f"{NODES}/strategic", f"{NODES}/strategic/status"

    async def conditions(*given: Json) -> dict[str, str]:
        found = await kube.patch(status, {"status": {"conditions": list(given)}}, content_type=STRATEGIC)
        return {c["type"]: c["status"] for c in found["status"].get("conditions", ()) if c["type"].startswith("Test")}

    assert await conditions({"type": "TestA", "status": "True"}) == {"TestA": "True"}
    assert await conditions({"type": "TestB", "status": "True"}) == {"TestA": "True", "TestB": "True"}
    assert await conditions({"type": "TestA", "status": "False"}) == {"TestA": "False", "TestB": "True"}
    assert await conditions({"type": "TestB", "$patch": "delete"}) == {"TestA": "False"}
    for key in ("one", "two"):
        taints = [{"key": key, "effect": "NoSchedule"}]
        found = await kube.patch(path, {"spec": {"taints": taints, "unschedulable": True}}, content_type=STRATEGIC)
        assert [t for t in found["spec"]["taints"] if t["key"] in ("one", "two")] == taints
        assert found["spec"]["unschedulable"] is True
    found = await kube.patch(path, {"spec": {"unschedulable": None}}, content_type=STRATEGIC)
    assert "unschedulable" not in found["spec"]


async def test_status_is_written_through_its_subresource_only(kube: Kube) -> None:
    await kube.create(NODES, node("statuses", labels={"a": "1"}))
    path, body = (
        f"{NODES}/statuses",
        {"status": {"conditions": [{"type": "TestA", "status": "True"}]}, "spec": {"unschedulable": True}},
    )
    found = await kube.patch(path, body, content_type=STRATEGIC)
    assert found["spec"]["unschedulable"] and not any(
        c["type"] == "TestA" for c in found["status"].get("conditions", ())
    )
    body["spec"] = {"unschedulable": False}
    found = await kube.patch(f"{path}/status", body, content_type=STRATEGIC)
    assert found["spec"]["unschedulable"] and any(c["type"] == "TestA" for c in found["status"]["conditions"])
    owners = {(m["manager"], m.get("subresource", "")) for m in found["metadata"]["managedFields"]}
    assert {("fleet", ""), ("fleet", "status")} <= owners


async def test_taints_are_checked(kube: Kube) -> None:
    await kube.create(NODES, node("taints"))
    path = f"{NODES}/taints"
    error = await refusal(kube.patch(path, {"spec": {"taints": [{"key": "a", "effect": "Bad"}]}}))
    cause = {
        "reason": "FieldValueNotSupported", "field": "metadata.taints[0].effect",
        "message": 'Unsupported value: "Bad": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"',
    }  # fmt: skip
    assert (error.code, error.reason, error.details) == (
        422,
        "Invalid",
        {"name": "taints", "kind": "Node", "causes": [cause]},
    )
    twice = [{"key": "b", "effect": "NoSchedule"}] * 2
    error = await refusal(kube.patch(path, {"spec": {"taints": twice}}))
    text = 'Duplicate value: {"Key":"b","Value":"","Effect":"NoSchedule","TimeAdded":null}: taints must be unique by key and effect pair'
    assert error.details["causes"] == [
        {"reason": "FieldValueDuplicate", "field": "metadata.taints[1]", "message": text}
    ]


# -- server-side apply ----------------------------------------------------------------------------------------------------


async def apply(kube: Kube, name: str, manager: str, data: Json, *, force: bool = False) -> Json:
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data}
    params = {"fieldManager": manager} | ({"force": "true"} if force else {})
    answer = await kube.send(
        "PATCH", f"{MAPS}/{name}", params=params, body=body, content_type="application/apply-patch+yaml"
    )
    found: Json = orjson.loads(answer)
    return found


async def test_apply_creates_conflicts_takes_over_and_gives_up(kube: Kube) -> None:
    made = await apply(kube, "applied", "one", {"a": "1"})
    (owner,) = made["metadata"]["managedFields"]
    assert (owner["manager"], owner["operation"], owner["fieldsV1"]) == ("one", "Apply", {"f:data": {"f:a": {}}})
    error = await refusal(apply(kube, "applied", "two", {"a": "2"}))
    cause = {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.a"}
    assert told(error) == (
        409,
        "Conflict",
        'Apply failed with 1 conflict: conflict with "one": .data.a',
        {"causes": [cause]},
    )
    taken = await apply(kube, "applied", "two", {"a": "2", "q": "1"}, force=True)
    assert taken["data"] == {"a": "2", "q": "1"} and [m["manager"] for m in taken["metadata"]["managedFields"]] == [
        "two"
    ]
    less = await apply(kube, "applied", "two", {"q": "1"})
    assert less["data"] == {"q": "1"}
    again = await apply(kube, "applied", "two", {"q": "1"})
    assert again["metadata"]["resourceVersion"] == less["metadata"]["resourceVersion"]


async def test_what_another_manager_also_applied_stays_when_one_gives_it_up(kube: Kube) -> None:
    await apply(kube, "shared", "one", {"a": "1", "b": "1"})
    both = await apply(kube, "shared", "two", {"a": "1"})
    assert [m["manager"] for m in both["metadata"]["managedFields"]] == ["two", "one"]
    assert "time" not in both["metadata"]["managedFields"][0]  # it changed nothing yet
    assert (await apply(kube, "shared", "one", {"b": "1"}))["data"] == {"a": "1", "b": "1"}
    error = await refusal(apply(kube, "shared", "three", {"a": "2", "b": "2"}))
    assert sorted(c["field"] for c in error.details["causes"]) == [".data.a", ".data.b"]


async def test_what_nobody_owned_was_there_before_the_first_apply(kube: Kube) -> None:
    bare = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "unowned"}}
    assert "managedFields" not in (await kube.create(MAPS, bare))["metadata"]
    found = await kube.patch(f"{MAPS}/unowned", {"data": {"a": "1"}})
    assert "managedFields" not in found["metadata"]
    error = await refusal(apply(kube, "unowned", "one", {"a": "2"}))
    assert error.message == 'Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.a'
    same = await apply(kube, "unowned", "one", {"a": "1"})
    assert [m["manager"] for m in same["metadata"]["managedFields"]] == ["one", "before-first-apply"]


async def test_a_field_that_was_patched_is_its_patchers(kube: Kube) -> None:
    await apply(kube, "patched", "one", {"a": "1"})
    await kube.patch(f"{MAPS}/patched", {"data": {"a": "2"}})
    error = await refusal(apply(kube, "patched", "one", {"a": "1"}))
    assert error.message == 'Apply failed with 1 conflict: conflict with "fleet" using v1: .data.a'
