"""The official Python client: typed errors, every patch, dry run, server-side apply, watch and the dynamic client by discovery."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, dynamic, watch

from tests.servers import People, Server

GROUP, VERSION = "fleet.dev", "v1"
MACHINES = (GROUP, VERSION, "machines")


@pytest.fixture
def connection(server: Server, people: People) -> Iterator[client.ApiClient]:
    settings = client.Configuration(host=server.https)
    settings.ssl_ca_cert = str(server.ca)
    settings.api_key = {"authorization": people.headers("admin")["Authorization"]}
    with client.ApiClient(settings) as made:
        yield made


@pytest.fixture
def api(connection: client.ApiClient) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(connection)


def idc(name: str) -> dict[str, Any]:
    return {"apiVersion": "fleet.dev/v1", "kind": "Idc", "metadata": {"name": name}, "spec": {"downloads": 5}}


def test_objects_are_made_read_listed_changed_and_deleted(api: client.CustomObjectsApi, small_fleet: list[str]) -> None:
    machine = api.get_cluster_custom_object(*MACHINES, "a1")
    assert machine["spec"]["clusterName"] == "a"
    fresh = {k: machine[k] for k in ("apiVersion", "kind")} | {
        "metadata": {"name": "a9", "labels": {"new": "yes"}}, "spec": {**machine["spec"], "ip": "10.9.0.9", "serialNumber": "SN9"},
    }  # fmt: skip
    api.create_cluster_custom_object(*MACHINES, fresh, dry_run="All")
    listed = api.list_cluster_custom_object(*MACHINES, label_selector="new=yes")
    assert listed["items"] == []
    api.create_cluster_custom_object(*MACHINES, fresh, field_manager="script")
    pages, token = [], ""
    while True:
        page = api.list_cluster_custom_object(*MACHINES, limit=3, _continue=token)
        pages.append([m["metadata"]["name"] for m in page["items"]])
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert pages == [["a1", "a2", "a9"], ["b1"]]
    stored = api.get_cluster_custom_object(*MACHINES, "a9")
    stored["spec"]["versions"] = {"pouch": "1.1"}
    replaced = api.replace_cluster_custom_object(*MACHINES, "a9", stored)
    assert replaced["metadata"]["generation"] == 2
    with pytest.raises(client.ApiException) as stale:
        api.replace_cluster_custom_object(*MACHINES, "a9", {**stored, "spec": {**stored["spec"], "versions": {}}})
    assert stale.value.status == 409
    api.delete_cluster_custom_object(*MACHINES, "a9")
    assert "deletionTimestamp" in api.get_cluster_custom_object(*MACHINES, "a9")["metadata"]


def test_every_kind_of_patch_is_understood(api: client.CustomObjectsApi, small_fleet: list[str]) -> None:
    merged = api.patch_cluster_custom_object(*MACHINES, "a1", {"metadata": {"labels": {"a": "1"}}})
    assert merged["metadata"]["labels"] == {"a": "1"}
    step = [{"op": "add", "path": "/metadata/labels/b", "value": "2"}]
    assert api.patch_cluster_custom_object(*MACHINES, "a1", step, _content_type="application/json-patch+json")[
        "metadata"
    ]["labels"] == {"a": "1", "b": "2"}
    with pytest.raises(client.ApiException) as unknown:
        api.patch_cluster_custom_object(*MACHINES, "a1", {"spec": {"rak": "r1"}}, field_validation="Strict")
    assert unknown.value.status == 400
    assert 'unknown field \\"spec.rak' in unknown.value.body


def test_errors_carry_a_status(api: client.CustomObjectsApi, small_fleet: list[str]) -> None:
    with pytest.raises(client.ApiException) as missing:
        api.get_cluster_custom_object(*MACHINES, "nobody")
    assert (missing.value.status, missing.value.reason) == (404, "Not Found")
    assert 'machines.fleet.dev \\"nobody\\" not found' in missing.value.body
    with pytest.raises(client.ApiException) as wrong:
        api.create_cluster_custom_object(*MACHINES, {"apiVersion": "fleet.dev/v1", "kind": "Machine", "metadata": {"name": "x"}, "spec": {"ip": "no address"}})  # fmt: skip
    assert wrong.value.status == 422
    assert "spec.ip" in wrong.value.body


def test_a_watch_tells_what_happens_and_goes_on_from_any_version(
    api: client.CustomObjectsApi, small_fleet: list[str]
) -> None:
    start = api.list_cluster_custom_object(GROUP, VERSION, "idcs")["metadata"]["resourceVersion"]
    for name in ("one", "two"):
        api.create_cluster_custom_object(GROUP, VERSION, "idcs", idc(name))
    api.delete_cluster_custom_object(GROUP, VERSION, "idcs", "one")

    def follow(version: str, count: int) -> list[tuple[str, str, str]]:
        out = []
        stream = watch.Watch()
        for event in stream.stream(api.list_cluster_custom_object, GROUP, VERSION, "idcs", resource_version=version, timeout_seconds=20):  # fmt: skip
            meta = event["object"]["metadata"]
            out.append((event["type"], meta["name"], meta["resourceVersion"]))
            if len(out) == count:
                stream.stop()
        return out

    seen = follow(start, 3)
    assert [(t, n) for t, n, _ in seen] == [("ADDED", "one"), ("ADDED", "two"), ("DELETED", "one")]
    assert follow(seen[0][2], 2) == seen[1:]


def test_the_dynamic_client_finds_kinds_by_discovery(connection: client.ApiClient, small_fleet: list[str]) -> None:
    found = dynamic.DynamicClient(connection).resources.get(api_version="fleet.dev/v1", kind="Machine")
    assert (found.name, found.namespaced) == ("machines", False)
    assert {m.metadata.name for m in found.get().items} == set(small_fleet)
    config = {"apiVersion": "fleet.dev/v1", "kind": "Machine", "metadata": {"name": "a2", "labels": {"by": "apply"}}}
    applied = found.server_side_apply(body=config, name="a2", field_manager="script")
    assert applied.metadata.labels.by == "apply"
    assert "status" in found.subresources


def test_the_dynamic_client_is_told_which_patches_there_are(
    connection: client.ApiClient, small_fleet: list[str]
) -> None:
    found = dynamic.DynamicClient(connection).resources.get(api_version="fleet.dev/v1", kind="Machine")
    rack = {"spec": {"rack": "r9"}}
    with pytest.raises(dynamic.exceptions.DynamicApiError) as refused:
        found.patch(body=rack, name="a1")  # its default is the strategic merge patch
    assert refused.value.status == 415
    assert "application/merge-patch+json" in refused.value.summary()
    assert found.patch(body=rack, name="a1", content_type="application/merge-patch+json").spec.rack == "r9"


def test_the_dynamic_client_watches_and_deletes(connection: client.ApiClient, small_fleet: list[str]) -> None:
    found = dynamic.DynamicClient(connection).resources.get(api_version="fleet.dev/v1", kind="Idc")
    start = found.get().metadata.resourceVersion
    found.create(body=idc("one"))
    gone = found.delete(name="one")
    assert (gone.status, gone.details.name, gone.details.kind) == ("Success", "one", "idcs")
    events = found.watch(resource_version=start, timeout=20)
    assert [(e["type"], e["object"].metadata.name) for e in itertools.islice(events, 2)] == [
        ("ADDED", "one"),
        ("DELETED", "one"),
    ]
    with pytest.raises(dynamic.exceptions.NotFoundError):
        found.delete(name="one")
