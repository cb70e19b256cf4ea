"""ReadinessRules in the console: what they hold is listed by answer, told before it is done, and confirmed by its count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.api.actions import Write, create_object
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.console import gate_rules, queries
from fleet.console.gates import rule_address
from fleet.control.kinds import API_VERSION, Json
from machines.rule_storage import refresh_rules
from tests.console.test_nodes_and_gates import report

Browser = Callable[[str], Client]
BUDGET = 12
ALL: Json = {"matchAll": True}
NEW = {"verb": "create", "metadata.name": "disk", "spec.conditionType": "DiskHealthy", "target": "clusters", "spec.target.clusters": "a, b"}  # fmt: skip


def declare(name: str, target: Json, **spec: Any) -> None:
    obj = {"apiVersion": API_VERSION, "kind": "ReadinessRule", "metadata": {"name": name}, "spec": {"conditionType": "DiskHealthy", "target": target, **spec}}  # fmt: skip
    create_object("readinessrules", obj, write=Write(by=SYSTEM))
    refresh_rules()


def rule(name: str = "disk") -> Json | None:
    stored = storage_for("readinessrules").read(name)
    return stored.obj if stored else None


@pytest.fixture
def reported(small_fleet: list[str]) -> None:
    """a1 says no, b1 says yes, of a2 nobody knows."""
    report("a1", DiskHealthy="False")
    report("b1", DiskHealthy="True")


def foresee(client: Client, path: str, **form: str) -> dict[str, Any]:
    response = client.post(path, form)
    assert response.status_code == 200, response.content
    found: dict[str, Any] = response.json()
    return found


def test_the_list_tells_what_each_rule_holds_the_worst_first(reported: None, browser_of: Browser) -> None:
    declare("aaa", {"clusters": ["b"]})
    declare("disk", ALL)
    declare("trial", ALL, dryRun=True)
    client = browser_of("viewer")
    client.get("/gates")
    with CaptureQueriesContext(connection) as found:
        text = client.get("/gates").content.decode()
    assert len(found) <= BUDGET
    body = text[text.index("<tbody") :]
    assert body.index('id="rule-disk"') < body.index('id="rule-aaa"') < body.index('id="rule-trial"')
    assert '<a href="/gates/disk" class="warn">disk</a> holds 1 machine.' in text
    assert 'aria-label="Machines by answer: 1 held, 1 no news, 1 released"' in text
    assert "Only counts" in body
    assert "do-create" not in text


@pytest.mark.parametrize(("which", "name"), [("held", "a1"), ("unknown", "a2"), ("released", "b1")])
def test_the_page_lists_machines_by_their_answer(reported: None, browser_of: Browser, which: str, name: str) -> None:
    declare("disk", ALL)
    client = browser_of("admin")
    client.get("/gates/disk")
    with CaptureQueriesContext(connection) as found:
        text = client.get(f"/gates/disk?which={which}").content.decode()
    assert len(found) <= BUDGET, [q["sql"][:120] for q in found.captured_queries]
    rows = text[text.index('id="g-rows"') : text.index("By hand")]
    assert [n for n in ("a1", "a2", "b1") if f"/machines/{n}/why" in rows] == [name]
    assert "closed until DiskHealthy is True; 1 may open, of 1 nobody knows." in text


def test_who_sees_one_cluster_sees_its_machines_only(reported: None, browser_of: Browser) -> None:
    declare("disk", ALL)
    text = browser_of("oper-b").get("/gates/disk?which=held").content.decode()
    assert "/machines/a1/why" not in text
    assert "It holds no machine that you may see." in text


def test_pages_of_machines_follow_each_other(reported: None, browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(gate_rules, "PAGE", 1)
    report("a2", DiskHealthy="False")
    declare("disk", ALL)
    client = browser_of("admin")
    first = client.get("/gates/disk").content.decode()
    assert "/machines/a1/why" in first and "which=held&amp;after=a1" in first
    second = client.get("/gates/disk?which=held&after=a1").content.decode()
    assert "/machines/a2/why" in second and "Next 100" not in second


def test_what_takes_too_long_to_list_says_so(reported: None, browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    declare("disk", ALL)

    def slow(*_: Any) -> list[int]:
        raise queries.TooSlow

    monkeypatch.setattr(gate_rules, "_ids", slow)
    assert "could not be looked through in 3 s" in browser_of("admin").get("/gates/disk").content.decode()


@pytest.mark.parametrize("path", ["/gates/nobody", "/gates/disk?which=x"])
def test_what_is_not_there_is_a_sentence(reported: None, browser_of: Browser, path: str) -> None:
    declare("disk", ALL)
    assert browser_of("admin").get(path).status_code == 404
    assert browser_of("admin").get("/gates/disk?after=%00'").status_code == 200
    assert browser_of("stranger").get("/gates/disk").status_code == 403


def test_a_rule_that_would_hold_machines_takes_their_count(reported: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    found = foresee(client, "/do/gates/foresee", **NEW)
    assert found["may"] and found["must"] == "1"
    assert "It takes capacity: 1 machine of 3 answers no." in found["html"]
    assert "kubectl create -f -" in found["html"]
    assert rule() is None
    for count in ("", "2"):
        assert client.post("/do/gates", NEW | {"count": count}).status_code == 400
    assert rule() is None
    done = client.post("/do/gates", NEW | {"count": "1"})
    assert done.status_code == 303 and done["Location"].startswith("/gates/disk?did=")
    made = rule()
    assert made is not None
    assert made["spec"] == {"conditionType": "DiskHealthy", "target": {"clusters": ["a", "b"]}}


def test_another_count_than_the_one_that_was_told_changes_nothing(reported: None, browser_of: Browser) -> None:
    report("a2", DiskHealthy="False")
    answer = browser_of("admin").post("/do/gates", NEW | {"count": "1", "told": "1"})
    assert answer.status_code == 409
    assert "would hold 2 machines now, 1 when you looked" in answer.content.decode()
    assert rule() is None


def test_a_rule_that_only_counts_takes_no_count_until_it_is_put_in_force(reported: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    dry = NEW | {"spec.dryRun": "1"}
    found = foresee(client, "/do/gates/foresee", **dry)
    assert found["must"] == "" and "in force it would hold 1 of 3 machines" in found["html"]
    assert client.post("/do/gates", dry).status_code == 303
    made = rule()
    assert made is not None
    form = {"verb": "change", "resourceVersion": made["metadata"]["resourceVersion"], "spec.dryRun": ""}
    told = foresee(client, "/gates/disk/foresee", **form)
    assert told["must"] == "1" and "kubectl patch readinessrule disk" in told["html"]
    assert client.post("/gates/disk/do", form).status_code == 400
    assert client.post("/gates/disk/do", form | {"count": "1"}).status_code == 303
    now = rule()
    assert now is not None and "dryRun" not in now["spec"]


def test_a_milder_rule_takes_no_count_and_another_version_is_refused(reported: None, browser_of: Browser) -> None:
    declare("disk", ALL)
    client = browser_of("admin")
    was = rule()
    assert was is not None
    form = {"verb": "change", "resourceVersion": was["metadata"]["resourceVersion"], "spec.mode": "BootstrapOnly", "spec.ttlSeconds": "600"}  # fmt: skip
    assert foresee(client, "/gates/disk/foresee", **form)["must"] == ""
    assert client.post("/gates/disk/do", form | {"resourceVersion": "1"}).status_code == 409
    assert client.post("/gates/disk/do", form).status_code == 303
    now = rule()
    assert now is not None and (now["spec"]["mode"], now["spec"]["ttlSeconds"]) == ("BootstrapOnly", 600)


@pytest.mark.parametrize(
    ("form", "field", "said"),
    [
        ({"metadata.name": "Not A Name"}, "metadata.name", ""),
        ({"spec.conditionType": "Ready"}, "spec.conditionType", "cannot be a gate"),
        ({"spec.target.clusters": ""}, "spec.target.clusters", "empty list"),
        ({"target": "selector", "spec.target.selector.matchLabels": ""}, "spec.target.selector.matchLabels", "empty selector"),
        ({"spec.ttlSeconds": "5"}, "spec.ttlSeconds", "30"),
        ({"spec.ttlSeconds": "soon"}, "spec.ttlSeconds", "integer"),
    ],
    ids=["name", "condition", "clusters", "labels", "ttl", "ttl type"],
)  # fmt: skip
def test_each_problem_stands_at_its_field(
    reported: None, browser_of: Browser, form: dict[str, str], field: str, said: str
) -> None:
    client = browser_of("admin")
    found = foresee(client, "/do/gates/foresee", **(NEW | form))
    assert not found["may"]
    assert said in found["fields"][field], found
    assert client.post("/do/gates", NEW | form | {"count": "1"}).status_code == 422
    assert rule() is None


def test_a_label_without_a_value_is_told(reported: None, browser_of: Browser) -> None:
    form = NEW | {"target": "selector", "spec.target.selector.matchLabels": "pool"}
    assert "“pool” is no label of the form key=value" in foresee(browser_of("admin"), "/do/gates/foresee", **form)["html"]  # fmt: skip


def test_a_rule_is_deleted_and_what_it_gives_free_is_told(reported: None, browser_of: Browser) -> None:
    declare("disk", ALL)
    client = browser_of("admin")
    found = foresee(client, "/gates/disk/foresee", verb="delete")
    assert found["may"] and "1 machine that it holds may open" in found["html"]
    assert rule() is not None
    done = client.post("/gates/disk/do", {"verb": "delete"})
    assert done["Location"].startswith("/gates?did=")
    assert rule() is None


@pytest.mark.parametrize("who", ["viewer", "oper-a"])
def test_only_an_admin_of_the_fleet_writes_rules(reported: None, browser_of: Browser, who: str) -> None:
    declare("disk", ALL)
    client, before = browser_of(who), rule()
    assert "changed by an admin of the whole fleet" in client.get("/gates/disk").content.decode()
    assert client.post("/do/gates/foresee", NEW | {"metadata.name": "x"}).status_code == 403
    assert client.post("/do/gates", NEW | {"metadata.name": "x"}).status_code == 403
    for verb in ("change", "delete"):
        assert client.post("/gates/disk/foresee", {"verb": verb}).status_code == 403
        assert client.post("/gates/disk/do", {"verb": verb}).status_code == 403
    assert rule() == before


def test_an_act_that_there_is_not_is_refused(reported: None, browser_of: Browser) -> None:
    declare("disk", ALL)
    for path, verb in (("/do/gates", "delete"), ("/gates/disk/do", "create"), ("/gates/disk/do", "explode")):
        assert browser_of("admin").post(path, {"verb": verb}).status_code == 400


def test_gates_lead_to_their_rule() -> None:
    assert rule_address("ReadinessRule gpu") == "/gates/gpu"
    assert rule_address("cluster a") == rule_address("Machine") == rule_address("") == ""
