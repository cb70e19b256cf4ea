"""The order of the machine list: what the address says, what its heads offer, what it does with what it cannot."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.console import machine_list, queries

Browser = Callable[[str], Client]
BUDGET = 12


def rows(text: str) -> list[str]:
    """Names of the rows as they stand."""
    return re.findall(r'<tr id="row-([^"]+)"', text)


def page(client: Client, **query: str) -> str:
    """The list of that address."""
    response = client.get("/machines", query)
    assert response.status_code == 200
    return response.content.decode()


@pytest.fixture
def troubled(small_fleet: list[str]) -> list[str]:
    """a2 needs a person; a1 and b1 run."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE machine_state SET phase = CASE WHEN name = 'a2' THEN 'Failed' ELSE 'Running' END, cond_true = 6"
        )
    return small_fleet


@pytest.mark.parametrize(
    ("sort", "names", "head", "aria"),
    [
        ("", ["a1", "a2", "b1"], "Name", "ascending"),
        ("name", ["a1", "a2", "b1"], "Name", "ascending"),
        ("-name", ["b1", "a2", "a1"], "Name", "descending"),
        ("trouble", ["a2", "a1", "b1"], "State", "descending"),
        ("cluster", ["a1", "a2", "b1"], "Cluster", "ascending"),
        ("-cluster", ["b1", "a1", "a2"], "Cluster", "descending"),
        ("new", ["b1", "a2", "a1"], "Declared", "descending"),
    ],
)
def test_the_address_sorts_and_one_head_says_so(
    troubled: list[str], browser_of: Browser, sort: str, names: list[str], head: str, aria: str
) -> None:
    text = page(browser_of("viewer"), sort=sort)
    assert rows(text) == names
    told = re.findall(r'<th[^>]*aria-sort="(\w+)"[^>]*>(?:<a[^>]*>)?(\w+)', text)
    assert told == [(aria, head)]


@pytest.mark.parametrize("sort", ["-name", "trouble", "cluster", "-cluster", "new"])
def test_a_sorted_page_keeps_the_budget_of_queries(troubled: list[str], browser_of: Browser, sort: str) -> None:
    client = browser_of("admin")
    page(client, sort=sort)
    with CaptureQueriesContext(connection) as asked:
        page(client, sort=sort, q="a")
    assert len(asked) <= BUDGET, [q["sql"][:120] for q in asked.captured_queries]


@pytest.mark.parametrize("sort", ["name", "-name", "trouble", "cluster", "-cluster", "new"])
def test_pages_follow_each_other_through_their_links(
    troubled: list[str], browser_of: Browser, sort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = browser_of("viewer")
    whole = rows(page(client, sort=sort))
    monkeypatch.setattr(queries, "MACHINE_PAGE", 1)
    seen, href = [], f"/machines?sort={sort}"
    for _ in whole:
        text = client.get(href).content.decode()
        seen += rows(text)
        link = re.search(r'rel="next" href="([^"]+)"', text)
        href = link[1].replace("&amp;", "&") if link else ""
    assert (seen, href) == (whole, "")


def test_a_filter_keeps_the_order_and_the_order_keeps_the_filter(troubled: list[str], browser_of: Browser) -> None:
    text = page(browser_of("viewer"), sort="-name", q="cluster:a")
    assert rows(text) == ["a2", "a1"]
    assert 'href="/machines?sort=-name" aria-label="Remove cluster a"' in text
    assert "/machines?q=cluster%3Aa+state%3Abad&amp;sort=-name" in text
    assert "/machines?q=cluster%3Aa&amp;sort=trouble" in text
    assert '<input type="hidden" name="sort" value="-name">' in text


@pytest.mark.parametrize("sort", ["-name", "trouble", "cluster", "new"])
def test_a_word_is_sorted_among_what_it_means(troubled: list[str], browser_of: Browser, sort: str) -> None:
    client = browser_of("viewer")
    assert sorted(rows(page(client, sort=sort, q="a"))) == ["a1", "a2"]
    assert rows(page(client, sort=sort, q="SN2")) == ["b1"]
    assert rows(page(client, sort=sort, q="a cluster:b")) == []


def test_a_word_that_means_too_many_is_not_sorted_and_says_so(
    troubled: list[str], browser_of: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "BY_NAME", 1)
    text = page(browser_of("viewer"), sort="-name", q="a")
    assert "More than 1 names begin with “a”: too many to sort." in text
    assert 'aria-sort="ascending"><a' in text


def test_a_filter_that_takes_too_long_to_sort_falls_back_to_the_names(
    troubled: list[str], browser_of: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(5)")

    monkeypatch.setattr(machine_list, "ordered", slow)
    monkeypatch.setattr(machine_list, "_SORT_SECONDS", 0.1)
    text = page(browser_of("viewer"), sort="trouble")
    assert "The list stands by name; name a cluster to sort it." in text
    assert rows(text) == ["a1", "a2", "b1"]


@pytest.mark.parametrize("sort", ["fast", "NAME", "--name", "trouble;drop", "\x00", "x" * 3000])
def test_what_is_no_order_gets_a_sentence_and_the_names(troubled: list[str], browser_of: Browser, sort: str) -> None:
    text = page(browser_of("viewer"), sort=sort)
    assert "is no order. Orders are name, -name, trouble" in text
    assert rows(text) == ["a1", "a2", "b1"]


@pytest.mark.parametrize(
    ("sort", "after"),
    [
        ("trouble", "a1"),
        ("trouble", "cluster:a:a1"),
        ("cluster", "trouble:Failed:1:a2"),
        ("name", "trouble:Failed:1:a2"),
        ("name", "a\x00"),
        ("new", "new:all:99999999999999999999999"),
    ],
)
def test_a_place_in_another_order_shows_the_first_page_and_says_so(
    troubled: list[str], browser_of: Browser, sort: str, after: str
) -> None:
    text = page(browser_of("viewer"), sort=sort, after=after)
    assert "That page belongs to another order. This is the first page." in text
    assert len(rows(text)) == 3


def test_an_operator_of_one_cluster_sorts_only_what_it_sees(troubled: list[str], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    for sort in ("-name", "trouble", "cluster", "-cluster", "new"):
        assert sorted(rows(page(client, sort=sort))) == ["a1", "a2"]


@pytest.mark.parametrize(
    ("query", "command"),
    [
        ({"q": "cluster:a phase:Failed"}, "--field-selector spec.clusterName=a,status.phase=Failed<"),
        ({"q": "-cluster:a label:pool=gpu -label:old"}, "--field-selector &#x27;spec.clusterName!=a&#x27; -l &#x27;pool=gpu,!old&#x27;<"),
        ({"sort": "cluster"}, "kubectl get machines --sort-by=.spec.clusterName<"),
        ({"q": "state:bad cluster:a"}, "--field-selector spec.clusterName=a  # kubectl does not select by state:bad<"),
        ({"q": "cluster:\"x'; reboot\""}, "spec.clusterName=x&#x27;&quot;&#x27;&quot;&#x27;; reboot&#x27;<"),
        ({"q": "\"rack:r1\nreboot\""}, "# kubectl does not select by rack:r1 reboot<"),
    ],
)  # fmt: skip
def test_the_copied_command_lists_the_same_or_says_what_it_leaves_out(
    troubled: list[str], browser_of: Browser, query: dict[str, str], command: str
) -> None:
    assert command in page(browser_of("viewer"), **query)
