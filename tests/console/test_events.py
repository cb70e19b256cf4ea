"""Events: found by filter and range, counted by time, unfolded to the CloudEvent; and the whole story of one machine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.api.actions import Write, create_object, patch_object
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM, Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.console import event_search, queries, records
from fleet.console.event_filters import EventFilter, Range, join, parse, read_range
from fleet.console.event_pages import histogram
from fleet.console.event_search import BARS, Bar, Counted
from fleet.console.filters import FilterError
from fleet.control.kinds import API_VERSION

Browser = Callable[[str], Client]
BUDGET = 12
NOW = datetime(2026, 11, 26, 15, 0, tzinfo=UTC)
ADMIN = Actor("admin", bindings=(("admin", ""),))


def tell(name: str, message: str, *, severity: int = 0, type_: str = "machine.phase", minutes: int = 0, source: str = "/machines", **data: Any) -> None:  # fmt: skip
    """An event of a machine, so many minutes ago."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO event (pos, n, at, object_id, cluster_id, kind, severity, type, source, data)
               SELECT fleet_pos(), 0, now() - %s * interval '1 min', id, cluster_id, 1, %s, %s, %s, %s::jsonb FROM machine WHERE name = %s""",
            [minutes, severity, f"dev.fleet.{type_}" if not type_.startswith("com.") else type_, source, orjson.dumps({"name": name, "message": message, **data}).decode(), name],
        )  # fmt: skip


@pytest.fixture
def told(small_fleet: list[str]) -> None:
    tell("a1", "Install kubelet: the disk is full.", severity=2, reason="DiskFull")
    tell("a2", "npd drifted.", severity=1, type_="machine.drifted", minutes=90)
    tell("b1", "Went to Running.", minutes=3_000)


def names(client: Client, query: str) -> list[str]:
    """Machines that the events of the page are about, in order."""
    text = client.get(f"/events?{query}").content.decode()
    body = text[text.index("<tbody") :] if "<tbody" in text else ""
    return [part.split('"')[0].removesuffix("/why") for part in body.split('href="/machines/')[1:]]


def test_the_page_stays_within_its_budget_with_filter_and_range(told: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    for query in ("", "q=machine:a1+full&from=6h", "q=severity:error+-by:nobody&from=7d&to=1m"):
        client.get(f"/events?{query}")
        with CaptureQueriesContext(connection) as found:
            assert client.get(f"/events?{query}").status_code == 200
        assert len(found) <= BUDGET, [q["sql"][:100] for q in found.captured_queries]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("severity:error", ["a1"]),
        ("severity>normal", ["a2", "a1"]),
        ("severity>=error", ["a1"]),
        ("type:machine.drifted", ["a2"]),
        ("type:dev.fleet.machine.drifted", ["a2"]),
        ("reason:DiskFull", ["a1"]),
        ("name:a2 type:machine.drifted", ["a2"]),
        ("DISK full", ["a1"]),
        ("cluster:b type:machine.phase", ["b1"]),
        ("-cluster:b severity>normal -severity:error", ["a2"]),
        ("machine:a1 severity:error", ["a1"]),
        ("kind:machine cluster:nobody", []),
        ("machine:nobody", []),
        ("'100%'", []),
    ],
)
def test_events_are_found_by_the_language_of_filters(told: None, browser_of: Browser, q: str, expected: list[str]) -> None:  # fmt: skip
    assert names(browser_of("admin"), f"q={quote(q)}") == expected


@pytest.mark.parametrize(
    ("q", "said"),
    [
        ("machin:a1", "Did you mean “machine”?"),
        ("severity:bad", "Severities are normal, warning, error."),
        ("kind:machina", "Did you mean “machine”?"),
        ("machine:a1 machine:a2", "One machine at a time"),
        ("'a1", "A quote is not closed."),
    ],
)
def test_what_cannot_be_read_is_told_and_nothing_is_filtered(told: None, browser_of: Browser, q: str, said: str) -> None:  # fmt: skip
    text = browser_of("admin").get(f"/events?q={quote(q)}").content.decode()
    assert said in text and "Nothing was filtered." in text


@pytest.mark.parametrize(
    "address", ["from=yesterday", "to=%00", "from=1m&to=2h", "position=x", "position=9999999999999999999-1"]
)
def test_strange_addresses_are_answered(told: None, browser_of: Browser, address: str) -> None:
    assert browser_of("admin").get(f"/events?{address}").status_code == 200


def test_a_range_of_time_narrows_list_and_histogram(told: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    assert names(client, "q=type:machine.phase&from=1h") == ["a1"]
    assert names(client, "q=type:machine.drifted&from=2h&to=1h") == ["a2"]
    text = client.get("/events?q=severity>normal&from=2h").content.decode()
    assert "0 normal events, 1 warning, 1 error" in text
    assert "a range of the past, not live" in client.get("/events?from=2h&to=1h").content.decode()


def test_a_mark_of_time_bounds_what_is_read(told: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO position_mark (at, pos) VALUES (now() - interval '1 min', fleet_horizon() + (1::bigint << 50))")  # fmt: skip
    assert event_search.find(ADMIN, EventFilter(), Range(since=datetime.now(UTC))).rows == []
    assert (
        len(event_search.find(ADMIN, parse("severity:error"), Range(since=datetime.now(UTC) - timedelta(hours=1))).rows)
        == 1
    )


def test_pages_follow_each_other_without_gap_or_repeat(told: None, browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    whole = [(r["pos"], r["n"]) for r in event_search.find(ADMIN, EventFilter(), Range()).rows]
    seen, before = list[tuple[int, int]](), None
    while True:
        found = event_search.find(ADMIN, EventFilter(), Range(), before, limit=2)
        seen += [(r["pos"], r["n"]) for r in found.rows]
        before = found.next
        if before is None:
            break
    assert seen == whole


def test_a_search_that_ends_early_says_how_far_it_looked(told: None, browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(event_search, "STRETCH", 2)
    client = browser_of("admin")
    text = client.get("/events?q=nothing-like-it").content.decode()
    assert "Nothing among the 2 events back to" in text
    assert "Look further back" in text


def test_rows_unfold_to_the_cloud_event(told: None, browser_of: Browser) -> None:
    text = browser_of("admin").get("/events?q=severity:error").content.decode()
    assert "&quot;specversion&quot;: &quot;1.0&quot;" in text
    assert "&quot;subject&quot;: &quot;a1&quot;" in text


def test_who_sees_one_cluster_reads_and_counts_its_events_only(told: None, browser_of: Browser) -> None:
    client = browser_of("oper-b")
    assert set(names(client, "q=kind:machine")) == {"b1"}
    assert names(client, "q=machine:a1") == []
    assert "0 errors" in client.get("/events?from=24h").content.decode()


def test_what_takes_too_long_is_told(told: None, browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any) -> Any:
        raise queries.TooSlow

    monkeypatch.setattr(event_search, "count", slow)
    assert "The histogram was given up after 3 s" in browser_of("admin").get("/events").content.decode()
    monkeypatch.setattr(event_search, "find", slow)
    assert "Looking took more than 3 s" in browser_of("admin").get("/events").content.decode()


def test_the_histogram_stacks_by_severity_and_greys_what_was_not_counted() -> None:
    bars = [Bar()] * BARS
    bars[10], bars[71] = Bar(6, 2, 2), Bar(0, 0, 1)
    drawn = histogram(Counted(NOW - timedelta(hours=6), NOW, tuple(bars), from_bar=5))
    assert [r.swatch for r in drawn.rects] == ["s-bad", "s-warn", "s-ink3", "s-bad"]
    assert sum(float(r.height) for r in drawn.rects[:3]) == pytest.approx(60, abs=0.3)
    assert float(drawn.cut) == pytest.approx(1000 / BARS * 5, abs=0.1)
    assert drawn.said == "6 normal events, 2 warnings, 3 errors, 26 Nov 09:00 to 26 Nov 15:00 UTC"


def test_bars_and_rows_tell_the_same(told: None) -> None:
    counted = event_search.count(ADMIN, parse("severity>normal"), Range(), datetime.now(UTC), timedelta(hours=2))
    assert sum(b.error for b in counted.bars) == 1 and sum(b.warning for b in counted.bars) == 1
    assert counted.bars[-1].error == 1


@pytest.mark.parametrize(
    "text", ["machine:a1 severity>normal 'the disk'", "type:machine.phase -by:olga", "by:'o''hara x'"]
)
def test_a_filter_is_written_as_it_is_read(text: str) -> None:
    parsed = parse(text)
    assert parse(join(parsed.tokens, parsed.words)) == parsed


@pytest.mark.parametrize(("text", "expected"), [("15m", timedelta(minutes=15)), ("2d", timedelta(days=2))])
def test_a_range_may_be_said_from_now_back(text: str, expected: timedelta) -> None:
    assert read_range(text, "", NOW).since == NOW - expected
    assert read_range("2026-11-26T14:00", "", NOW).since == datetime(2026, 11, 26, 14, tzinfo=UTC)
    with pytest.raises(FilterError, match="ends before it begins"):
        read_range("1h", "2h", NOW)


# -- the story of a machine ---------------------------------------------------------------------------------------------


@pytest.fixture
def story(small_fleet: list[str], browser_of: Browser) -> None:
    """What Fleet, people, a reporter and another tool tell of a1."""
    tell("a1", "Went to Running.")
    tell("a1", "GPUHealthy went from True to False: dead.", type_="machine.condition", by="npd")
    tell(
        "a1",
        "OOM killed process 17.",
        severity=1,
        type_="machine.node-event",
        source="/kubernetes",
        reason="OOMKilling",
    )
    tell("a1", "Fan 3 is slow.", severity=1, type_="com.vendor.fan", source="https://bmc.example/feed")
    client = browser_of("oper-a")
    client.post("/machines/a1/do", {"verb": "reconcile"})
    client.post("/machines/a1/do", {"verb": "hold", "reason": "forensics", "hours": "4"})
    olga = Actor("olga", bindings=(("operator", "a"),), address="10.1.1.7")
    patch_object("machines", "a1", lambda o: merge_patch(o, {"spec": {"rack": "r9"}}), write=Write(by=olga))
    create_object("holds", {"apiVersion": API_VERSION, "kind": "Hold", "metadata": {"name": "other"}, "spec": {"target": {"machine": "a2"}, "reason": "x", "until": storage_for("holds").page(ListQuery()).objects[0]["spec"]["until"]}}, write=Write(by=SYSTEM))  # fmt: skip


def test_one_page_tells_the_whole_story_of_a_machine(story: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    client.get("/machines/a1/events")
    with CaptureQueriesContext(connection) as found:
        text = client.get("/machines/a1/events").content.decode()
    assert len(found) <= BUDGET, [q["sql"][:100] for q in found.captured_queries]
    told = text[text.index('id="m-events"') :]
    for part in ("Went to Running.", "GPUHealthy went from True", "OOM killed", "Fan 3 is slow.", "oper-a asked for a look at Machine a1.", "oper-a made Hold", "10.1.1.7"):  # fmt: skip
        assert part in told, part
    assert "rack: r9" in told and told.count("Machine was changed by olga.") == 1
    assert "Hold other" not in told


@pytest.mark.parametrize(
    ("by", "has", "lacks"),
    [
        ("fleet", "Went to Running.", "olga"),
        ("people", "Machine was changed by olga.", "Fan 3"),
        ("reporters", "GPUHealthy went", "OOM killed"),
        ("tools", "Fan 3 is slow.", "GPUHealthy went"),
    ],
)
def test_the_story_can_be_cut_to_who_tells(story: None, browser_of: Browser, by: str, has: str, lacks: str) -> None:
    text = browser_of("admin").get(f"/machines/a1/events?by={by}").content.decode()
    told = text[text.index('id="m-events"') : text.index("As a list with filters")]
    assert has in told
    assert lacks not in told


def test_without_the_right_to_the_audit_trail_events_stand_alone(story: None, browser_of: Browser) -> None:
    text = browser_of("oper-a").get("/machines/a1/events").content.decode()
    assert "Machine was changed by olga." in text
    assert "rack: r9" not in text and "10.1.1.7" not in text
    assert "which approvers and admins of the whole fleet read" in text


def test_nobody_else_tells(small_fleet: list[str], browser_of: Browser) -> None:
    assert browser_of("admin").get("/machines/a1/events?by=ghosts").status_code == 404


def test_a_reporter_is_no_person() -> None:
    row = {"type": "dev.fleet.machine.condition", "source": "/machines"}
    assert records.origin_of(row, {"by": "npd"}) == "reporters"
    assert (
        records.origin_of({"type": "dev.fleet.machine.phase", "source": "/machines"}, {"by": "system:fleet"}) == "fleet"
    )
