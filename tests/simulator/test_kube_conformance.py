"""One API, two servers: what holds of a real kube-apiserver holds of the simulated one, word for word where Fleet reads the words."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from clusters.kube import STRATEGIC, Kube
from tests.simulator.api_servers import came_true, refusal
from tests.simulator.kube_objects import BUDGETS, LEASES, MAPS, NODES, PODS, REFUSALS, config, lease, node, pod, told

Json = dict[str, Any]
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


# -- what the server says of itself ---------------------------------------------------------------------------------------


async def test_it_says_its_version_and_that_it_is_ready(kube: Kube) -> None:
    found = await kube.get("/version")
    assert (found["major"], found["minor"], found["gitVersion"]) == ("1", "37", "v1.37.2")
    assert [await kube.send("GET", path) for path in ("/readyz", "/livez", "/healthz")] == [b"ok"] * 3


async def test_its_resources_can_be_discovered(kube: Kube) -> None:
    assert (await kube.get("/api"))["versions"] == ["v1"]
    groups = {g["name"] for g in (await kube.get("/apis"))["groups"]}
    assert {"apps", "coordination.k8s.io", "policy"} <= groups
    core = {r["name"]: (r["kind"], r["namespaced"]) for r in (await kube.get("/api/v1"))["resources"]}
    assert core["nodes"] == ("Node", False) and core["pods/eviction"] == ("Eviction", True)


# -- refusals, word for word ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_is_worded_alike(
    kube: Kube, case: tuple[str, str, Any, str, tuple[int, str, str, Json]]
) -> None:
    method, path, body, kind, expected = case
    error = await refusal(kube.send(method, path, body=body, content_type=kind or "application/json"))
    assert told(error) == expected


@pytest.mark.parametrize(
    "body", [b"{bad", b"", b"[]", orjson.dumps(config("x"))], ids=["broken", "empty", "list", "other-kind"]
)
async def test_what_is_no_node_is_a_bad_request(kube: Kube, body: bytes) -> None:
    error = await refusal(kube.send("POST", NODES, body=body))
    assert (error.code, error.reason) == (400, "BadRequest")


async def test_a_body_need_not_name_its_kind(kube: Kube) -> None:
    bodies: tuple[Json, ...] = ({}, {"kind": "Node"}, {"apiVersion": "v1"})
    for body in bodies:
        error = await refusal(kube.send("POST", NODES, body=body))
        assert (error.code, error.reason) == (422, "Invalid")
    made = orjson.loads(await kube.send("POST", NODES, body={"metadata": {"name": "nameless-kind"}}))
    assert made["kind"] == "Node"


async def test_a_version_of_the_future_times_out(kube: Kube) -> None:
    error = await refusal(kube.get(NODES, resourceVersion="99999999"))
    assert (error.code, error.reason, error.retry_seconds) == (504, "Timeout", 1.0)
    assert error.details["causes"][0]["reason"] == "ResourceVersionTooLarge"


# -- creating and replacing -----------------------------------------------------------------------------------------------


async def test_a_created_node_has_what_admission_and_defaults_give_it(kube: Kube) -> None:
    made = await kube.create(NODES, node("made", labels={"a": "1"}))
    meta = made["metadata"]
    assert made["kind"] == "Node" and made["apiVersion"] == "v1"
    assert {"uid", "resourceVersion", "creationTimestamp"} <= meta.keys() and "generation" not in meta
    assert made["spec"]["taints"] == [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
    assert made["status"]["nodeInfo"]["bootID"] == "" and made["status"]["daemonEndpoints"] == {
        "kubeletEndpoint": {"Port": 0}
    }
    (owner,) = meta["managedFields"]
    assert (owner["manager"], owner["operation"], owner["apiVersion"]) == ("fleet", "Update", "v1")
    assert owner["fieldsV1"] == {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}
    error = await refusal(kube.create(NODES, node("made")))
    assert told(error) == (409, "AlreadyExists", 'nodes "made" already exists', {"name": "made", "kind": "nodes"})


async def test_a_created_pod_has_the_defaults_that_drains_read(kube: Kube) -> None:
    made = await kube.create(PODS, pod("defaulted", "nowhere"))
    spec = made["spec"]
    assert (spec["terminationGracePeriodSeconds"], spec["restartPolicy"], spec["nodeName"]) == (30, "Always", "nowhere")
    assert {t["key"] for t in spec["tolerations"]} == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert (made["status"]["phase"], made["metadata"]["generation"]) == ("Pending", 1)
    fields = made["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:containers"]
    assert fields['k:{"name":"c"}'].keys() >= {".", "f:image", "f:name", "f:imagePullPolicy"} and "." not in fields
    await kube.delete(f"{PODS}/defaulted", grace_seconds=0)


async def test_names_are_generated_and_dry_runs_store_nothing(kube: Kube) -> None:
    made = await kube.create(MAPS, {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"generateName": "gen-"}})
    assert made["metadata"]["name"].startswith("gen-") and len(made["metadata"]["name"]) == 9
    dry = await kube.create(MAPS, config("dry"), dry_run=True)
    assert dry["metadata"]["uid"] and "resourceVersion" not in dry["metadata"]
    assert await kube.find(f"{MAPS}/dry") is None


async def test_a_replace_with_an_old_version_is_a_conflict(kube: Kube) -> None:
    made = await kube.create(MAPS, config("replaced"))
    path, newer = f"{MAPS}/replaced", {**made, "data": {"a": "c"}}
    stored = orjson.loads(await kube.send("PUT", path, body=newer))
    assert stored["data"] == {"a": "c"} and stored["metadata"]["uid"] == made["metadata"]["uid"]
    assert int(stored["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    error = await refusal(kube.send("PUT", path, body=newer))
    message = f'Operation cannot be fulfilled on configmaps "replaced": {MODIFIED}'
    assert told(error) == (409, "Conflict", message, {"name": "replaced", "kind": "configmaps"})
    unconditional = orjson.loads(await kube.send("PUT", path, body=config("replaced", value="d")))
    assert unconditional["data"] == {"a": "d"}
    assert unconditional["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    other = await refusal(kube.send("PUT", path, body=config("replaced", uid="abc")))
    assert (other.code, other.reason) == (409, "Conflict")
    assert other.message.endswith(f"UID in precondition: abc, UID in object meta: {made['metadata']['uid']}")


async def test_a_lease_is_replaced_with_its_version_only_and_made_by_put(kube: Kube) -> None:
    path = f"{LEASES}/put"
    made = orjson.loads(await kube.send("PUT", path, body=lease("put", holderIdentity="x")))
    error = await refusal(kube.send("PUT", path, body=lease("put", holderIdentity="y")))
    assert (error.code, error.reason) == (422, "Invalid")
    assert error.details["causes"][0]["message"] == "Invalid value: 0: must be specified for an update"
    renewed = {
        **made,
        "spec": {"holderIdentity": "x", "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.123456Z"},
    }
    stored = orjson.loads(await kube.send("PUT", path, body=renewed))
    assert stored["spec"] == renewed["spec"]


# -- deleting -------------------------------------------------------------------------------------------------------------


async def test_delete_answers_with_what_was_deleted_and_keeps_preconditions(kube: Kube) -> None:
    made = await kube.create(MAPS, config("deleted"))
    path, uid, version = f"{MAPS}/deleted", made["metadata"]["uid"], made["metadata"]["resourceVersion"]
    error = await refusal(kube.delete(path, uid="abc"))
    why = f"the UID in the precondition (abc) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
    message = f'Operation cannot be fulfilled on ConfigMap "deleted": {why}'
    assert told(error) == (409, "Conflict", message, {"name": "deleted", "kind": "ConfigMap"})
    wanted = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"resourceVersion": "1"}}
    error = await refusal(kube.send("DELETE", path, body=wanted))
    assert (
        f"the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ({version})"
        in error.message
    )
    answer = orjson.loads(await kube.send("DELETE", path))
    assert (answer["kind"], answer["status"]) == ("Status", "Success")
    assert answer["details"] == {"name": "deleted", "kind": "configmaps", "uid": uid}
    assert await kube.delete(path) is False


async def test_finalizers_keep_a_deleted_object_until_the_last_is_gone(kube: Kube) -> None:
    await kube.create(MAPS, config("finalized", finalizers=["example.com/test"]))
    path = f"{MAPS}/finalized"
    for _ in range(2):
        assert await kube.delete(path) is True
        meta = (await kube.get(path))["metadata"]
        assert meta["deletionTimestamp"] and meta["deletionGracePeriodSeconds"] == 0
    found = await kube.patch(path, {"metadata": {"finalizers": None}})
    assert "finalizers" not in found["metadata"]
    assert await kube.find(path) is None


async def test_a_pod_on_a_node_takes_its_grace_and_one_nowhere_takes_none(kube: Kube) -> None:
    for name, on in (("graceful", "nowhere"), ("at-once", ""), ("forced", "nowhere")):
        await kube.create(PODS, pod(name, on))
    gone = orjson.loads(await kube.send("DELETE", f"{PODS}/at-once"))
    assert gone["kind"] == "Pod" and gone["metadata"]["deletionGracePeriodSeconds"] == 0
    assert await kube.find(f"{PODS}/at-once") is None
    going = orjson.loads(await kube.send("DELETE", f"{PODS}/graceful"))["metadata"]
    assert (going["deletionGracePeriodSeconds"], going["generation"]) == (30, 2) and going["deletionTimestamp"]
    assert (await kube.get(f"{PODS}/graceful"))["metadata"]["resourceVersion"] == going["resourceVersion"]
    await kube.delete(f"{PODS}/graceful", grace_seconds=5)
    assert (await kube.get(f"{PODS}/graceful"))["metadata"]["deletionGracePeriodSeconds"] == 5
    for name in ("graceful", "forced"):
        await kube.delete(f"{PODS}/{name}", grace_seconds=0)
        assert await kube.find(f"{PODS}/{name}") is None


async def test_a_collection_is_deleted_by_selector(kube: Kube) -> None:
    for n in range(3):
        await kube.create(MAPS, config(f"many-{n}", labels={"many": str(n % 2)}))
    answer = orjson.loads(await kube.send("DELETE", MAPS, params={"labelSelector": "many=0"}))
    assert answer["kind"] == "ConfigMapList" and len(answer["items"]) == 2
    left = await kube.get(MAPS, labelSelector="many")
    assert [i["metadata"]["name"] for i in left["items"]] == ["many-1"]


async def test_a_namespace_that_is_going_takes_nothing_new_and_goes_with_what_it_has(kube: Kube) -> None:
    made = await kube.create(
        "/api/v1/namespaces", {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "going"}}
    )
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "going"} and made["status"] == {
        "phase": "Active"
    }
    path = "/api/v1/namespaces/going/configmaps"
    await kube.create(path, config("kept", finalizers=["example.com/test"]))
    going = orjson.loads(await kube.send("DELETE", "/api/v1/namespaces/going"))
    assert going["kind"] == "Namespace" and going["status"]["phase"] == "Terminating"
    error = await refusal(kube.create(path, config("late")))
    assert (error.code, error.reason) == (403, "Forbidden")
    assert (
        error.message
        == 'configmaps "late" is forbidden: unable to create new content in namespace going because it is being terminated'
    )
    assert error.details["causes"][0]["reason"] == "NamespaceTerminating"
    await kube.patch(f"{path}/kept", {"metadata": {"finalizers": None}})

    async def gone() -> bool:
        return await kube.find("/api/v1/namespaces/going") is None

    await came_true(gone)
    assert await kube.find(f"{path}/kept") is None


# -- eviction -------------------------------------------------------------------------------------------------------------


async def evict(kube: Kube, name: str, **options: Any) -> Json:
    body = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": name}, **options}
    found: Json = orjson.loads(await kube.send("POST", f"{PODS}/{name}/eviction", body=body))
    return found


async def test_an_eviction_asks_the_budget(kube: Kube) -> None:
    await kube.create(NODES, node("evicting"))
    budget = {
        "kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": "guard"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "guarded"}}},
    }  # fmt: skip
    await kube.create(BUDGETS, budget)
    for n in range(3):
        await kube.create(PODS, pod(f"guarded-{n}", "evicting", labels={"app": "guarded"}))
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        await kube.patch(f"{PODS}/guarded-{n}/status", {"status": status}, content_type=STRATEGIC)

    async def counted() -> bool:
        return bool((await kube.get(f"{BUDGETS}/guard"))["status"].get("disruptionsAllowed") == 1)

    await came_true(counted)
    status = (await kube.get(f"{BUDGETS}/guard"))["status"]
    assert (status["currentHealthy"], status["desiredHealthy"], status["expectedPods"]) == (3, 2, 3)
    assert await evict(kube, "guarded-0") == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": 201,
    }
    meta = (await kube.get(f"{PODS}/guarded-0"))["metadata"]
    assert meta["deletionGracePeriodSeconds"] == 30 and meta["deletionTimestamp"]
    error = await refusal(evict(kube, "guarded-1"))
    assert (error.code, error.reason) == (429, "TooManyRequests")
    assert error.message == "Cannot evict pod as it would violate the pod's disruption budget."
    text = "The disruption budget guard needs 2 healthy pods and has 2 currently"
    assert error.details == {"causes": [{"reason": "DisruptionBudget", "message": text}]} and error.retry_seconds == 0
    assert "deletionTimestamp" not in (await kube.get(f"{PODS}/guarded-1"))["metadata"]
    for n in range(3):
        await kube.delete(f"{PODS}/guarded-{n}", grace_seconds=0)
    await kube.delete(f"{BUDGETS}/guard")


async def test_a_pod_without_a_budget_is_evicted_with_the_grace_asked_for(kube: Kube) -> None:
    await kube.create(PODS, pod("free", "nowhere"))
    error = await refusal(
        kube.send(
            "POST",
            f"{PODS}/free/eviction",
            body={"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "other"}},
        )
    )
    assert told(error) == (400, "BadRequest", "name in URL does not match name in Eviction object", {})
    await evict(kube, "free", deleteOptions={"gracePeriodSeconds": 7})
    assert (await kube.get(f"{PODS}/free"))["metadata"]["deletionGracePeriodSeconds"] == 7
    await kube.delete(f"{PODS}/free", grace_seconds=0)
