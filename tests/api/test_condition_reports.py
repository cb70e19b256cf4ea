"""Reports of conditions by the API: by the declared user, of its own types, and by nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from fleet.api.actions import Write, change_object, create_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control.kinds import Json
from machines.reports import lapse
from tests.api.http import BASE, Http, Reply
from tests.machines.world import sql
from tests.servers import People, Server

PATH = f"{BASE}/machines/a1/conditions"
Send = Callable[..., Reply]


def said(status: str = "True", type_: str = "RackPowered", **more: Any) -> Json:
    return {"type": type_, "status": status, **more}


def report(*conditions: Json) -> Json:
    return {"apiVersion": "fleet.dev/v1", "kind": "ConditionReport", "conditions": list(conditions)}


def declare(*reporters: Json, cluster: str = "a") -> None:
    def change(live: Json) -> Json:
        return {**live, "spec": {**live["spec"], "reporters": list(reporters)}}

    change_object("clusters", cluster, change, write=Write(by=SYSTEM), verb="update")


@pytest.fixture
def put(server: Server, people: People, small_fleet: list[str]) -> Send:
    """PUT a report as somebody; `dcim`, who has no role at all, is a reporter of cluster a."""
    from django.contrib.auth import get_user_model

    from fleet.api.authentication import create_token

    user = get_user_model().objects.create_user(username="dcim", password=None)
    headers = {w: people.headers(w) for w in people.tokens} | {"anonymous": {}}
    headers["dcim"] = {"Authorization": f"Bearer {create_token(user, 'test', days=1)}"}
    declare(
        {"name": "power", "user": "dcim", "conditionTypes": ["RackPowered"]},
        {"name": "cooling", "user": "dcim", "conditionTypes": ["RackCool"], "ttlSeconds": 60},
        {"name": "other", "user": "oper-a", "conditionTypes": ["Burnt"]},
    )

    def send(body: Any, who: str = "dcim", path: str = PATH, method: str = "PUT") -> Reply:
        with Http(server.http, headers[who]) as http:
            return http(method, path, body, Content_Type="application/json")

    return send


def shown(machine: str = "a1") -> dict[str, tuple[str, str, str]]:
    """(status, reason, source) by type, of those that reporters set."""
    stored = storage_for("machines").read(machine)
    assert stored is not None
    found = stored.obj["status"]["conditions"]
    return {c["type"]: (c["status"], c["reason"], c["source"]) for c in found if "source" in c}


def test_the_declared_user_reports_and_the_machine_shows_it_with_its_source(put: Send) -> None:
    answer = put(report(said(), said("False", "RackCool", reason="TooHot", message="41 °C at the inlet")))
    assert answer.status == 200
    assert [(c["type"], c["status"], c["source"]) for c in answer.json["conditions"]] == [
        ("RackCool", "False", "cooling"),
        ("RackPowered", "True", "power"),
    ]
    assert shown() == {"RackPowered": ("True", "Reported", "power"), "RackCool": ("False", "TooHot", "cooling")}
    assert put(report(said("False"))).status == 200
    assert shown() == {"RackPowered": ("False", "Reported", "power"), "RackCool": ("False", "TooHot", "cooling")}


def test_a_report_wakes_its_machine_and_stands_in_the_audit(put: Send) -> None:
    sql("UPDATE work_item SET due_at = now() + interval '1 day'")
    assert put(report(said())).status == 200
    due = "SELECT s.name FROM work_item w JOIN machine_state s ON s.id = w.object_id WHERE w.kind = 1 AND w.due_at <= now()"
    assert sql(due) == [("a1",)]
    row = sql("SELECT actor, verb, kind, name, cluster, after -> 'conditions' -> 0 ->> 'type' FROM audit WHERE verb = 'report'")  # fmt: skip
    assert row == [("dcim", "report", "Machine", "a1", "a", "RackPowered")]


@pytest.mark.parametrize(
    ("who", "code"),
    [("anonymous", 401), ("stranger", 403), ("viewer", 403), ("oper-a", 403), ("oper-b", 403), ("admin", 403)],
)
def test_nobody_else_reports_not_even_an_admin(put: Send, who: str, code: int) -> None:
    assert put(report(said()), who).status == code
    assert shown() == {}


@pytest.mark.parametrize(
    ("condition", "code", "words"),
    [
        (said(type_="Burnt"), 403, "Burnt is not declared for the reporter"),
        (said(type_="NodeReady"), 403, "NodeReady is not declared for the reporter"),
        (said(type_="not a type"), 422, "is no condition type"),
        (said("yes"), 422, "it is True, False or Unknown"),
        (said(reason="two words"), 422, "one CamelCase word"),
        ("RackPowered", 422, "a condition is no object"),
    ],
    ids=["another's", "built in", "no type", "no status", "no reason", "no object"],
)
def test_a_bad_report_is_refused_with_its_reason_and_nothing_of_it_taken(
    put: Send, condition: Any, code: int, words: str
) -> None:
    answer = put(report(said(type_="RackCool"), condition))
    assert (answer.status, words in answer.sentence) == (code, True)
    assert (shown(), sql("SELECT count(*) FROM audit WHERE verb = 'report'")) == ({}, [(0,)])


@pytest.mark.parametrize(
    ("body", "code"),
    [([], 400), ({}, 422), ({"kind": "Machine", "conditions": [said()]}, 400), (report(), 422), (report(said(), said()), 422), (b"{", 400)],
    ids=["a list", "nothing", "another kind", "no condition", "twice", "no JSON"],
)  # fmt: skip
def test_a_body_that_is_no_report_is_refused(put: Send, body: Any, code: int) -> None:
    assert put(body).status == code


def test_machines_of_other_clusters_and_none_are_not_the_reporters(put: Send) -> None:
    assert put(report(said()), path=f"{BASE}/machines/b1/conditions").status == 403
    spec = {"idc": "iad1", "ip": "10.9.9.9"}
    loose = {"apiVersion": "fleet.dev/v1", "kind": "Machine", "metadata": {"name": "loose"}, "spec": spec}
    create_object("machines", loose, write=Write(by=SYSTEM))
    assert put(report(said()), path=f"{BASE}/machines/loose/conditions").status == 403
    assert put(report(said()), path=f"{BASE}/machines/nope/conditions").status == 404
    assert put(report(said()), method="POST").status == 405


def test_a_dry_run_changes_nothing(put: Send) -> None:
    assert put(report(said()), path=f"{PATH}?dryRun=All").status == 200
    assert (shown(), sql("SELECT count(*) FROM report")) == ({}, [(0,)])


async def test_each_report_renews_its_ttl(put: Send) -> None:
    from fleet.control import db
    from fleet.control.threads import in_thread

    conn = await db.connect()
    try:
        assert (await in_thread(lambda: put(report(said(type_="RackCool"), said())))).status == 200
        old = "UPDATE report SET received_at = now() - interval '61 s', expires_at = expires_at - interval '61 s'"
        sql(old)
        assert await lapse(conn) == 1
        lapsed = {"RackCool": ("Unknown", "Expired", "cooling"), "RackPowered": ("True", "Reported", "power")}
        assert await in_thread(shown) == lapsed
        assert (await in_thread(lambda: put(report(said(type_="RackCool"))))).status == 200
        assert (await lapse(conn), (await in_thread(shown))["RackCool"]) == (0, ("True", "Reported", "cooling"))
    finally:
        await conn.close()


def test_discovery_says_that_conditions_can_be_put(put: Send) -> None:
    found = put(None, "admin", f"{BASE}", "GET").json["resources"]
    assert [r["verbs"] for r in found if r["name"] == "machines/conditions"] == [["get", "update"]]


REFUSED = {
    "built in": {"name": "x", "user": "dcim", "conditionTypes": ["UpToDate"]},
    "the kubelet's": {"name": "x", "user": "dcim", "conditionTypes": ["MemoryPressure"]},
    "a DaemonSet's": {"name": "x", "user": "dcim", "conditionTypes": ["daemonset/a/b"]},
    "no way": {"name": "x", "conditionTypes": ["A"]},
    "two ways": {"name": "x", "user": "dcim", "namespace": "n", "conditionTypes": ["A"]},
    "namespace not read": {"name": "x", "namespace": "n", "conditionTypes": ["A"]},
    "pods of a user": {"name": "x", "user": "dcim", "daemonSet": "d", "conditionTypes": ["A"]},
    "no type": {"name": "x", "user": "dcim", "conditionTypes": ["not a type"]},
    "no types": {"name": "x", "user": "dcim", "conditionTypes": []},
    "Fleet's name": {"name": "fleet", "user": "dcim", "conditionTypes": ["A"]},
}


@pytest.mark.usefixtures("small_fleet")
@pytest.mark.parametrize("reporter", list(REFUSED.values()), ids=list(REFUSED))
def test_a_reporter_that_could_speak_for_others_is_refused(reporter: Json) -> None:
    with pytest.raises(ApiError) as refused:
        declare(reporter)
    assert refused.value.code == 422
    assert "spec.reporters" in str(refused.value)


@pytest.mark.usefixtures("small_fleet")
def test_a_type_has_one_reporter() -> None:
    with pytest.raises(ApiError) as refused:
        declare(*({"name": n, "user": n, "conditionTypes": ["A"]} for n in "xy"))
    assert "belongs to reporter x already" in str(refused.value)


def test_kubectl_shows_whose_a_condition_is(put: Send, kubectl: Any) -> None:
    assert put(report(said("False", message="both feeds lost"))).status == 200
    text = kubectl("describe", "machine", "a1").stdout
    assert "Source:" in text and "power" in text and "both feeds lost" in text
    path = "{.status.conditions[?(@.type=='RackPowered')].source}"
    assert kubectl("get", "machine", "a1", "-o", f"jsonpath={path}").stdout == "power"


def test_a_machine_takes_its_reports_along_when_it_goes(put: Send) -> None:
    from fleet.api.actions import delete_object

    assert put(report(said())).status == 200

    def bare(live: Json) -> Json:
        live["metadata"]["finalizers"] = []
        return live

    change_object("machines", "a1", bare, write=Write(by=SYSTEM), verb="update")
    delete_object("machines", "a1", write=Write(by=SYSTEM))
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM report")
        assert cursor.fetchone() == (0,)
