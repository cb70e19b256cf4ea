"""Faults and rules in the console: the board, the list, why nobody repairs it, and what people may say to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.api.storage import storage_for
from fleet.console import fault_queries, queries, repair
from fleet.console.fault_filters import FAULTS, ListFilter
from fleet.console.fault_filters import parse as parse_filter
from fleet.console.filters import FilterError
from fleet.control.kinds import Json
from recovery.figures import refresh_figures
from recovery.models import Fault
from tests.console.recovery_world import fault, playbook, remediation, rule

Browser = Callable[[str], Client]
BUDGET = 12


@pytest.fixture
def sick(small_fleet: list[str]) -> dict[str, Fault]:
    """a1 needs a person, a2 is under repair, b1 is only suspected; a rule on trial found something too."""
    playbook()
    rule(mode="Active", playbook="fix")
    made = {
        "a1": fault("a1", phase="NeedsPerson", rule="crash", repair=("RepairedTooOften", "This machine was repaired 3 times within 24 hours"), minutes=90),
        "a2": fault("a2", "NicFailure", "Recovering", category="Hardware", remediation="a2-1", minutes=10),
        "b1": fault("b1", phase="Suspected", minutes=1),
        "trial": fault("b1", "KernelFault", phase="Confirmed", shadow=True, rule="crash"),
        "over": fault("a1", "DiskPressure", phase="Resolved", minutes=3_000),
    }  # fmt: skip
    remediation(made["a2"], name="a2-1")
    return made


def named(text: str) -> list[str]:
    """Names of faults in the list, in order."""
    body = text[text.rindex("<tbody") :] if 'id="row-' in text else ""
    return [part.split('"')[0] for part in body.split('href="/faults/')[1:]]


def test_the_page_tells_what_needs_a_person_first(sick: dict[str, Fault], browser_of: Browser) -> None:
    client = browser_of("admin")
    client.get("/faults")
    with CaptureQueriesContext(connection) as found:
        text = client.get("/faults").content.decode()
    assert len(found) <= BUDGET, [q["sql"][:100] for q in found.captured_queries]
    assert named(text) == ["a1-componentcrash", "b1-componentcrash", "a2-nicfailure"]
    assert '<a href="/faults?q=phase:NeedsPerson" class="bad">1 fault</a> needs you; ' in text
    assert "Fleet repairs 1 machine</a>; 1 more fault is seen and not worked on." in text
    assert '<span class="count bad">1</span>' in text
    assert "This machine was repaired 3 times within 24 hours" in text


def test_the_board_counts_by_type_and_cluster(sick: dict[str, Fault], browser_of: Browser) -> None:
    text = browser_of("admin").get("/faults").content.decode()
    board = text[text.index('id="f-board"') : text.index("data-filter")]
    assert "3 live faults" in board
    assert board.index("ComponentCrash") < board.index("NicFailure")
    assert 'href="/faults?q=type%3AComponentCrash%20cluster%3Aa"' in board
    assert "KernelFault" not in board and "DiskPressure" not in board
    other = browser_of("oper-b").get("/faults").content.decode()
    assert (
        "1 live fault," in other and "NicFailure" not in other[other.index('id="f-board"') : other.index("data-filter")]
    )
    assert named(other) == ["b1-componentcrash"]
    assert '<span class="count bad">' not in other


def test_many_clusters_share_a_column(sick: dict[str, Fault]) -> None:
    from tests.console.test_events import ADMIN

    board = fault_queries.board(ADMIN, most=1)
    assert board.clusters == ("a",)
    assert [[c.n for c in line[3]] for line in board.lines] == [[1, 1], [1, 0]]
    assert board.total.n == 3 and board.total.needs == 1


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("cluster:a", ["a1-componentcrash", "a2-nicfailure"]),
        ("type:NicFailure", ["a2-nicfailure"]),
        ("-category:Hardware", ["a1-componentcrash", "b1-componentcrash"]),
        ("phase:Resolved", ["a1-diskpressure"]),
        ("age>1h", ["a1-componentcrash"]),
        ("age<5m", ["b1-componentcrash"]),
        ("shadow:yes", ["b1-kernelfault"]),
        ("rule:crash", ["a1-componentcrash", "b1-kernelfault"]),
        ("machine:a2", ["a2-nicfailure"]),
        ("nicfailure", ["a2-nicfailure"]),
        ("severity:error", []),
    ],
)
def test_faults_are_filtered(sick: dict[str, Fault], browser_of: Browser, q: str, expected: list[str]) -> None:
    text = browser_of("admin").get(f"/faults?q={quote(q)}").content.decode()
    assert named(text) == expected, q


@pytest.mark.parametrize(("q", "said"), [("typ:x", "Did you mean “type”?"), ("phase:Gone", "There are Open"), ("category:Hardwear", "Did you mean “Hardware”?")])  # fmt: skip
def test_what_cannot_be_read_is_told(sick: dict[str, Fault], browser_of: Browser, q: str, said: str) -> None:
    text = browser_of("admin").get(f"/faults?q={quote(q)}").content.decode()
    assert said in text and "Nothing was filtered." in text
    with pytest.raises(FilterError):
        parse_filter(q, FAULTS)


def test_pages_of_faults_follow_each_other(sick: dict[str, Fault], browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("fleet.console.fault_pages.PAGE", 1)
    client, seen, path = browser_of("admin"), list[str](), "/faults"
    for _ in range(3):
        text = client.get(path).content.decode()
        seen += named(text)[:1]
        path = text.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&") if 'rel="next"' in text else ""
    assert seen == ["a1-componentcrash", "b1-componentcrash", "a2-nicfailure"] and path == ""
    assert client.get("/faults?after=x'--").status_code == 200


def test_what_takes_too_long_is_told(sick: dict[str, Fault], browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def slow(*_: Any, **__: Any) -> Any:
        raise queries.TooSlow

    monkeypatch.setattr(fault_queries, "board", slow)
    assert "Looking took more than 3 s" in browser_of("admin").get("/faults").content.decode()


def test_a_fault_tells_what_speaks_for_it_and_why_it_is_not_repaired(sick: dict[str, Fault], browser_of: Browser) -> None:  # fmt: skip
    client = browser_of("oper-a")
    client.get("/faults/a1-componentcrash")
    with CaptureQueriesContext(connection) as found:
        text = client.get("/faults/a1-componentcrash").content.decode()
    assert len(found) <= BUDGET, [q["sql"][:100] for q in found.captured_queries]
    assert "pouch.service does &lt;not&gt; run." in text
    assert '<span class="bad">It needs you</span>: This machine was repaired 3 times' in text
    assert text.count("This machine was repaired 3 times") == 2, "in the sentence once, and in the ladder"
    assert "Why is nobody repairing it?" in text
    assert "pouch.service failed" in text and "1 independent source" in text
    assert 'data-open="#do-retry" data-set-fault="a1-componentcrash"' in text
    assert "Nothing was tried yet." in text


def test_a_fault_under_repair_leads_to_its_remediation(sick: dict[str, Fault], browser_of: Browser) -> None:
    text = browser_of("viewer").get("/faults/a2-nicfailure").content.decode()
    assert '<a href="/remediations/a2-1">repairs it</a>' in text
    assert text.count('href="/remediations/a2-1"') >= 2
    assert "do-clear" not in text


def test_a_fault_that_is_over_says_so(sick: dict[str, Fault], browser_of: Browser) -> None:
    assert "It is over:" in browser_of("admin").get("/faults/a1-diskpressure").content.decode()


@pytest.mark.parametrize(("who", "name", "code"), [("oper-b", "a1-componentcrash", 403), ("admin", "nobody", 404), ("stranger", "a1-componentcrash", 403)])  # fmt: skip
def test_other_clusters_and_other_names_are_refused(sick: dict[str, Fault], browser_of: Browser, who: str, name: str, code: int) -> None:  # fmt: skip
    assert browser_of(who).get(f"/faults/{name}").status_code == code


# -- people's words -------------------------------------------------------------------------------------------------------


def phase_of(name: str) -> str:
    return str(Fault.objects.get(name=name).phase)


def test_a_person_says_that_it_is_over_or_to_be_tried_again(sick: dict[str, Fault], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    assert browser_of("viewer").post("/faults/a1-componentcrash/do", {"verb": "retry"}).status_code == 403
    assert browser_of("oper-b").post("/faults/a1-componentcrash/do", {"verb": "clear"}).status_code == 403
    assert phase_of("a1-componentcrash") == "NeedsPerson"
    assert client.post("/faults/a1-componentcrash/do", {"verb": "retry"}).status_code == 303
    assert phase_of("a1-componentcrash") == "Confirmed"
    back = client.post("/do/faults", {"verb": "clear", "fault": "a1-componentcrash", "back": "a1"})
    assert back["Location"].startswith("/machines/a1/why?did=")
    assert phase_of("a1-componentcrash") == "Resolved"


def test_what_a_remediation_works_on_is_not_cleared(sick: dict[str, Fault], browser_of: Browser) -> None:
    answer = browser_of("oper-a").post("/faults/a2-nicfailure/do", {"verb": "clear"})
    assert answer.status_code == 409
    assert "a2-1 works on it; cancel that first" in answer.content.decode()
    assert browser_of("oper-a").post("/faults/a2-nicfailure/do", {"verb": "explode"}).status_code == 400


def test_a_fault_is_reported_from_the_page_of_its_machine(small_fleet: list[str], browser_of: Browser) -> None:
    playbook("hardware")
    client = browser_of("oper-a")
    assert "Report a fault…" in client.get("/machines/a1").content.decode()
    form = {"verb": "report", "type": "NicFailure", "reason": "CRC errors since noon"}
    assert client.post("/machines/a1/report", form | {"reason": ""}).status_code == 400
    assert client.post("/machines/b1/report", form).status_code == 403
    assert client.post("/machines/a1/report", form).status_code == 303
    made = Fault.objects.get(machine_id=Fault.objects.get().machine_id)
    assert (made.type, made.phase, made.spec["declaredBy"]) == ("NicFailure", "Confirmed", "oper-a")


# -- the machine and the overview -----------------------------------------------------------------------------------------


def test_a_machine_says_why_nobody_repairs_it(sick: dict[str, Fault], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    client.get("/machines/a1")
    with CaptureQueriesContext(connection) as found:
        text = client.get("/machines/a1").content.decode()
    assert len(found) <= BUDGET, [q["sql"][:100] for q in found.captured_queries]
    assert "ComponentCrash: it needs a person." in text
    panel = text[text.index('id="m-faults"') : text.index('id="m-gates"')]
    assert "1 is live" in panel and "DiskPressure" not in panel
    why = text[text.index("Why is nobody repairing it?") :]
    assert why.index("it was not given to a person") < why.index("Nothing stands against the repair")
    assert 'data-open="#do-retry" data-set-fault="a1-componentcrash">Try again…' in why
    under = client.get("/machines/a2").content.decode()
    assert "NicFailure: Fleet repairs it." in under
    assert "Why is nobody repairing it?" not in under


def test_a_machine_that_is_well_shows_no_faults(small_fleet: list[str], browser_of: Browser) -> None:
    text = browser_of("admin").get("/machines/a1").content.decode()
    assert '<section class="panel" id="m-faults" hidden></section>' in text
    assert "Why is nobody repairing it?" not in text


def test_the_overview_tells_faults_that_need_a_person_and_what_is_repaired(sick: dict[str, Fault], browser_of: Browser) -> None:  # fmt: skip
    text = browser_of("admin").get("/").content.decode()
    needs = text[text.index('id="o-needs"') : text.index('id="o-refused"')]
    assert '<a href="/faults/a1-componentcrash">a1: ComponentCrash</a>' in needs
    assert "say that it is over" in needs
    assert '<a href="/faults/a1-componentcrash" class="bad">1 fault</a> needs you' in text
    doing = text[text.index('id="o-doing"') : text.index('id="o-events"')]
    assert 'href="/remediations?q=phase:Repairing">1</a>' in doing
    assert "a1: ComponentCrash" not in browser_of("oper-b").get("/").content.decode()


def test_many_of_a_type_are_one_need(sick: dict[str, Fault], browser_of: Browser) -> None:
    fault("a2", phase="NeedsPerson")
    text = browser_of("admin").get("/").content.decode()
    assert "2 machines: ComponentCrash" in text
    assert "/faults?q=type%3AComponentCrash%20phase%3ANeedsPerson%20cluster%3Aa" in text


def rungs(**more: Any) -> list[tuple[str, str]]:
    """(answer, explanation) of the ladder of one fault."""
    from django.utils import timezone

    base: Json = {"name": "x", "type": "ComponentCrash", "phase": "Confirmed", "rule": "crash", "shadow": False, "sources": ["fleet"], "first_seen": timezone.now(), "status": {}, "remediation": None, "remediation_phase": None, "remediation_status": {}, "phase_at": None, "playbook": None}  # fmt: skip
    found = repair.ladder([base | more])
    assert found is not None
    return [(r["answer"], r["explanation"]) for r in found["rungs"]]


@pytest.mark.parametrize(
    ("more", "at", "said"),
    [
        ({"shadow": True}, 0, "Rule crash is on trial"),
        ({"phase": "Open", "status": {"message": "it fell"}}, 1, "It fell. It is seen, and its hold time still runs."),
        ({"phase": "Suspected"}, 1, "Only fleet says so"),
        ({"phase": "NeedsPerson", "status": {"repair": {"message": "no playbook repairs it"}}}, 2, "No playbook repairs it."),
        ({"status": {"repair": {"reason": "ClusterBudget", "message": "the budget is used up"}}}, 3, "The budget is used up."),
        ({"phase": "Recovering", "remediation": "r", "remediation_phase": "Waiting", "remediation_status": {"reason": "OneSource", "message": "two are asked for"}}, 3, "Two are asked for."),
    ],
    ids=["trial", "open", "suspected", "person", "refused", "waiting"],
)  # fmt: skip
def test_the_first_no_decides_and_later_rungs_are_not_asked(more: Json, at: int, said: str) -> None:
    found = rungs(**more)
    assert [a for a, _ in found] == ["holds"] * at + ["no"] + ["notAsked"] * (4 - at)
    assert said in found[at][1]


def test_a_repair_under_way_stops_nowhere() -> None:
    found = rungs(
        phase="Recovering", remediation="r", remediation_phase="Repairing", remediation_status={"message": "runs"}
    )
    assert [a for a, _ in found] == ["holds"] * 5
    assert repair.ladder([]) is None


def test_a_persons_word_is_told_as_one(small_fleet: list[str]) -> None:
    assert repair.sources_of({"sources": ["person:olga", "word-of-a-person"]}) == "olga"


# -- rules ----------------------------------------------------------------------------------------------------------------


def test_rules_tell_what_they_found_and_how_far_they_are_trusted(sick: dict[str, Fault], browser_of: Browser) -> None:
    Fault.objects.filter(name="a1-diskpressure").update(
        rule="crash", confirmed_at=None, created_at=sick["a1"].created_at
    )
    refresh_figures()
    client = browser_of("viewer")
    for path in ("/rules", "/rules/crash"):
        client.get(path)
        with CaptureQueriesContext(connection) as found:
            text = client.get(path).content.decode()
        assert len(found) <= BUDGET, [q["sql"][:100] for q in found.captured_queries]
    assert "It is in force. In 30 days it saw 3 faults: 2 confirmed, 1 went away before they counted." in text
    assert "66 %" in text
    assert "ComponentsHealthy is False (UnitNotRunning)" in text
    assert '<a href="/playbooks/fix">fix</a>' in text
    rows = text[text.index('id="r-faults"') :]
    assert "/faults/b1-kernelfault" in rows and "/faults/a1-diskpressure" in rows
    assert "do-mode" not in text


def mode_of(name: str = "crash") -> str:
    stored = storage_for("faultrules").read(name)
    assert stored is not None
    return str(stored.obj["spec"].get("mode"))


def test_a_rule_is_put_in_force_by_the_count_of_what_it_would_act_on(sick: dict[str, Fault], browser_of: Browser) -> None:  # fmt: skip
    client = browser_of("admin")
    assert client.post("/rules/crash/do", {"verb": "mode", "mode": "Shadow"}).status_code == 303
    assert mode_of() == "Shadow"
    assert 'data-foresee="/rules/crash/foresee"' in client.get("/rules/crash").content.decode()
    form = {"verb": "mode", "mode": "Active", "told": "1"}
    assert client.post("/rules/crash/do", form | {"count": "2"}).status_code == 400
    assert client.post("/rules/crash/do", form | {"told": "0", "count": "0"}).status_code == 409
    assert client.post("/rules/crash/do", form | {"count": "1", "seen": "1"}).status_code == 409
    assert mode_of() == "Shadow"
    assert client.post("/rules/crash/do", form | {"count": "1"}).status_code == 303
    assert mode_of() == "Active"
    assert client.post("/rules/crash/do", {"verb": "mode", "mode": "Loud"}).status_code == 400


@pytest.mark.parametrize(
    ("was", "wanted", "must", "told"),
    [
        pytest.param("Shadow", "Active", "3", ("It found 3 live faults on trial: 2 in a, 1 in b.", "1 is confirmed: its repair begins at once, by the playbook fix", "2 are not confirmed yet"), id="in force"),
        pytest.param("Active", "Shadow", "", ("2 live faults would be on trial: nothing is done about them", "1 fault is under repair or with a person, and stays there"), id="on trial"),
        pytest.param("Active", "Disabled", "", ("2 live faults would be over, unless another rule finds them", "3 faults on trial are counted no more", "It finds nothing from now on."), id="switched off"),
        pytest.param("Disabled", "Disabled", "", ("This is its mode already.",), id="the same"),
    ],
)  # fmt: skip
def test_a_mode_tells_first_what_it_would_do(
    small_fleet: list[str], browser_of: Browser, was: str, wanted: str, must: str, told: tuple[str, ...]
) -> None:
    playbook()
    rule(mode=was, playbook="fix")
    fault("a1", "DiskPressure", "Open", rule="crash")
    fault("a2", "DiskPressure", "Confirmed", rule="crash")
    fault("a1", "KernelFault", "NeedsPerson", rule="crash")
    for machine, phase in (("a1", "Confirmed"), ("a2", "Suspected"), ("b1", "Open")):
        fault(machine, "LoadHigh", phase, rule="crash", shadow=True)
    answer = browser_of("admin").post("/rules/crash/foresee", {"mode": wanted}).json()
    assert answer["must"] == must and answer["may"] is (was != wanted)
    text = " ".join(answer["html"].split())
    assert [said for said in told if said not in text] == []
    assert mode_of() == was


def test_a_mode_that_is_none_and_a_rule_that_is_not_there_are_refused(sick: dict[str, Fault], browser_of: Browser) -> None:  # fmt: skip
    client = browser_of("admin")
    assert not client.post("/rules/crash/foresee", {"mode": "Loud"}).json()["may"]
    assert client.post("/rules/nobody/foresee", {"mode": "Active"}).status_code == 404
    assert browser_of("oper-a").post("/rules/crash/foresee", {"mode": "Shadow"}).status_code == 403


@pytest.mark.parametrize("who", ["viewer", "oper-a"])
def test_only_an_admin_of_the_fleet_changes_a_rule(sick: dict[str, Fault], browser_of: Browser, who: str) -> None:
    assert browser_of(who).post("/rules/crash/do", {"verb": "mode", "mode": "Disabled"}).status_code == 403
    assert mode_of() == "Active"
    assert browser_of(who).get("/rules/nobody").status_code == 404


def test_a_filter_is_shown_back_as_it_was_read() -> None:
    parsed = parse_filter("age>1h -type:NicFailure 'two words'", FAULTS)
    assert parse_filter(parsed.text, FAULTS) == parsed
    assert ListFilter().text == ""
