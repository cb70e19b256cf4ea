"""Batches from the console: told before they are asked for, asked for once, approved by another person, steered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from fleet.api.actions import Write, create_object
from fleet.api.models import RoleBinding
from fleet.api.rights import SYSTEM
from fleet.api.storage import ListQuery, storage_for
from fleet.console import batch_forms, matching
from fleet.control.kinds import API_VERSION, Json

Browser = Callable[[str], Client]
REBOOT = {"verb": "Reboot", "spec.reason": "new kernel"}


@pytest.fixture(autouse=True)
def two_people(settings: Any) -> None:
    settings.FLEET_REQUIRE_APPROVAL, settings.FLEET_APPROVAL_OVER = True, 2


@pytest.fixture
def ana(small_fleet: list[str], browser_of: Browser) -> Client:
    """Somebody who approves and writes nothing."""
    user = get_user_model().objects.create_user(username="ana", password=None)
    RoleBinding.objects.create(user=user, role="approver", cluster="")
    return browser_of("ana")


def machine(name: str, cluster: str, number: int) -> None:
    spec = {"clusterName": cluster, "idc": "iad1", "ip": f"10.9.1.{number}"}
    obj = {"apiVersion": API_VERSION, "kind": "Machine", "metadata": {"name": name}, "spec": spec}
    create_object("machines", obj, write=Write(by=SYSTEM))


def batches() -> list[Json]:
    return storage_for("operationbatches").page(ListQuery()).objects


def matched(client: Client, q: str) -> dict[str, str]:
    found = client.get("/do/matching", {"q": q}).json()
    return {"q": q, "hash": found["hash"], "n": str(found["n"])}


def test_a_small_batch_of_rows_begins_at_once(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    told = client.post("/do/batches/foresee", {"verb": "Reboot", "name": ["a1", "a2"]}).json()
    assert (told["may"], told["go"], told["must"]) == (False, "Reboot 2 machines", "")
    assert "spec.reason" in told["fields"]
    told = client.post("/do/batches/foresee", REBOOT | {"name": ["a1", "a2"]}).json()
    assert told["may"]
    assert "2 machines (2 in a)" in told["html"]
    assert batches() == []
    done = client.post("/do/batches", REBOOT | {"name": ["a1", "a2"]})
    (made,) = batches()
    assert done.status_code == 303
    assert done["Location"].startswith(f"/batches/{made['metadata']['name']}?")
    assert (made["spec"]["clusterName"], made["spec"]["target"], made["status"]["approval"]) == ("a", {"machines": ["a1", "a2"]}, "NotNeeded")  # fmt: skip
    page = client.get(f"/batches/{made['metadata']['name']}").content.decode()
    assert "new kernel" in page
    assert "not needed" in page
    assert made["metadata"]["name"] in client.get("/batches").content.decode()


def test_over_the_limit_it_waits_for_another_person(small_fleet: list[str], browser_of: Browser, ana: Client) -> None:
    admin = browser_of("admin")
    machine("a9", "a", 9)
    form = REBOOT | matched(admin, "cluster:a")
    told = admin.post("/do/batches/foresee", form).json()
    assert told["go"] == "Ask to reboot 3 machines"
    assert "another approver than admin" in told["html"]
    assert admin.post("/do/batches", form).status_code == 303
    (made,) = batches()
    name, hash_ = made["metadata"]["name"], made["status"]["hash"]
    assert made["spec"]["expect"]["count"] == 3
    own = admin.get(f"/batches/{name}").content.decode()
    assert "another approver says yes" in own
    assert 'id="do-approve"' not in own
    assert "waits for you" in ana.get("/").content.decode()
    page = ana.get(f"/batches/{name}").content.decode()
    assert 'data-open="#do-approve"' in page
    assert 'data-open="#do-cancel"' not in page
    word = {"verb": "approve", "hash": hash_, "told": "3"}
    assert ana.post(f"/batches/{name}/do", word | {"count": "2"}).status_code == 400
    assert ana.post(f"/batches/{name}/do", word | {"count": "3", "hash": "0" * 16}).status_code == 409
    assert admin.post(f"/batches/{name}/do", word | {"count": "3"}).status_code == 403
    assert ana.post(f"/batches/{name}/do", word | {"count": "3"}).status_code == 303
    (made,) = batches()
    assert (made["status"]["approvedBy"], made["status"]["phase"]) == ("ana", "Running")
    assert ana.post(f"/batches/{name}/do", {"verb": "cancel"}).status_code == 403


def test_another_set_than_was_counted_is_not_acted_on(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    form = REBOOT | matched(client, "cluster:a")
    machine("a9", "a", 9)
    refused = client.post("/do/batches", form)
    assert refused.status_code == 409
    assert "no longer those that you selected" in refused.content.decode()
    assert batches() == []


def test_more_than_can_be_named_is_meant_by_the_filter(small_fleet: list[str], browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(batch_forms, "NAMED", 1)
    monkeypatch.setattr(matching, "MOST", 1)
    client = browser_of("admin")
    assert client.post("/do/batches", REBOOT | matched(client, "cluster:a")).status_code == 303
    (made,) = batches()
    assert made["spec"]["target"] == {"fieldSelector": "spec.clusterName=a"}
    assert made["status"]["count"] == 2
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM operation_batch_target ORDER BY 1")
        assert [r[0] for r in cursor.fetchall()] == ["a1", "a2"]
    hold = {"verb": "hold", "reason": "x", "hours": "4"}
    assert client.post("/do/machines", hold | matched(client, "cluster:a")).status_code == 409


@pytest.mark.parametrize(
    ("q", "target"),
    [
        ("label:pool=web -label:tier=edge", {"labelSelector": "pool=web,tier!=edge"}),
        ("-rack:r,1", {"fieldSelector": "spec.rack!=r\\,1"}),
        ("iad1-r", {"namePrefix": "iad1-r"}),
        ("", {"matchAll": True}),
    ],
)
def test_a_filter_in_the_words_of_a_batch(q: str, target: Json) -> None:
    assert batch_forms._selectors(q) == target


@pytest.mark.parametrize(
    ("who", "form", "code"),
    [
        ("viewer", {"name": "a1"}, 403),
        ("admin", {}, 400),
        ("admin", {"name": "a1", "verb": "Explode"}, 400),
        ("admin", {"name": "a1", "spec.reason": ""}, 422),
        ("admin", {"name": "nobody"}, 422),
        ("admin", {"name": "a1", "verb": "Decommission"}, 400),
        ("oper-a", {"name": "a1", "verb": "Decommission", "count": "1"}, 403),
        ("oper-a", {"name": ["a1", "b1"]}, 403),
        ("oper-a", {"name": "b1"}, 403),
        ("oper-a", {"name": "a1"}, 303),
    ],
)  # fmt: skip
def test_who_may_ask_for_what(small_fleet: list[str], browser_of: Browser, who: str, form: dict[str, Any], code: int) -> None:  # fmt: skip
    done = browser_of(who).post("/do/batches", REBOOT | form)
    assert done.status_code == code, done.content.decode()[-800:]
    assert len(batches()) == (code == 303)


def test_it_is_steered_from_its_page(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    client.post("/do/batches", REBOOT | {"name": "a1"})
    name = batches()[0]["metadata"]["name"]
    for form, spec in (
        ({"verb": "pause"}, {"paused": True}),
        ({"verb": "allow", "maxFailed": "7"}, {"maxFailed": 7}),
        ({"verb": "cancel"}, {"cancelled": True}),
    ):
        assert client.post(f"/batches/{name}/do", form).status_code == 303
        assert spec.items() <= batches()[0]["spec"].items()
    assert client.post(f"/batches/{name}/do", {"verb": "allow", "maxFailed": "many"}).status_code == 400
    assert client.post(f"/batches/{name}/do", {"verb": "explode"}).status_code == 400
    assert batches()[0]["status"]["cancelledBy"] == "oper-a"
    assert browser_of("viewer").get("/batches?phase=Running").status_code == 200
    assert browser_of("viewer").get("/batches/nothing").status_code == 404
