"""The machine list in a browser: sorted by its heads and its menu, acted on as a whole, by keyboard and on a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from fleet.api.actions import Write, create_object
from fleet.api.rights import SYSTEM
from fleet.control import db
from fleet.control.kinds import API_VERSION
from machines.bulk import NewMachine, create_machines
from tests.e2e.browser import chromium_running, page_of, violations
from tests.servers import People, Server

expect.set_options(timeout=30_000)  # what is awaited comes by an event; a busy machine may be slow
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
NARROW = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with chromium_running() as browser:
        yield browser


@pytest.fixture
def two_pages(small_fleet: list[str]) -> int:
    """120 machines more in cluster a, of rack r7: a page and a bit."""
    with db.connect_sync() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM clusters_cluster WHERE name = 'a'")
        (cluster_id,) = cursor.fetchone() or (0,)
        spec = {"clusterName": "a", "idc": "iad1", "rack": "r7"}
        create_machines(
            cursor, [NewMachine(f"n{n:03}", {**spec, "ip": f"10.9.2.{n}"}, cluster_id) for n in range(1, 121)]
        )
    return 120


def _first(page: Page) -> str:
    return page.locator("tbody tr td a").first.inner_text()


def test_a_head_is_a_link_that_sorts_and_turns_round(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "viewer") as page:
        page.goto("/machines")
        name = page.get_by_role("columnheader", name="Name")
        expect(name).to_have_attribute("aria-sort", "ascending")
        name.get_by_role("link").press("Enter")
        page.wait_for_url("**/machines?sort=-name")
        expect(name).to_have_attribute("aria-sort", "descending")
        assert _first(page) == "b1"
        page.get_by_role("link", name="Cluster", exact=True).click()
        page.wait_for_url("**/machines?sort=cluster")
        expect(page.get_by_role("columnheader", name="Cluster")).to_have_attribute("aria-sort", "ascending")
        expect(name).not_to_have_attribute("aria-sort", "ascending")
        page.keyboard.press("/")
        page.keyboard.type("cluster:b")
        page.keyboard.press("Enter")
        page.wait_for_url("**/machines?q=cluster%3Ab&sort=cluster")
        expect(page.locator("tbody tr")).to_have_count(1)


def test_the_order_is_chosen_from_a_menu_where_heads_are_folded_away(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "viewer", viewport=NARROW) as page:
        page.goto("/machines")
        expect(page.locator("thead")).to_be_hidden()
        page.locator("#order summary").press("Enter")
        inside = page.locator("#order > div").bounding_box()
        assert inside is not None
        assert inside["x"] >= 0
        assert inside["x"] + inside["width"] <= NARROW["width"]
        page.get_by_role("link", name="Newest first").click()
        page.wait_for_url("**/machines?sort=new")
        assert _first(page) == "b1"
        expect(page.locator("#order summary")).to_contain_text("Newest first")


def test_all_that_match_are_counted_chosen_and_held(
    chromium: Browser, server: Server, people: People, two_pages: int
) -> None:
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/machines?q=rack:r7")
        page.get_by_label("Select all on this page").check()
        expect(page.locator("[data-selected]")).to_have_text("100 selected")
        page.get_by_role("button", name="Select all 120 that match").press("Enter")
        expect(page.locator("[data-selected]")).to_have_text("All 120 that match are selected")
        assert violations(page) == []
        page.get_by_role("button", name="Hold…").click()
        expect(page.locator("#many-h")).to_have_text("Hold 120 machines")
        expect(page.locator("#do-many [data-says]")).to_contain_text("All that match rack:r7, as counted")
        go = page.get_by_role("button", name="Hold 120 machines")
        expect(go).to_be_disabled()
        page.locator("#do-many input[name=reason]").fill("row is moved")
        page.locator("#do-many input[name=count]").fill("100")
        expect(go).to_be_disabled()
        page.locator("#do-many input[name=count]").fill("120")
        assert violations(page) == []
        go.click()
        expect(page.locator("#toast")).to_contain_text("120 machines are held")
        assert page.url.endswith("/machines?q=rack%3Ar7")


def test_a_set_that_changed_meanwhile_is_refused_with_a_sentence(
    chromium: Browser, server: Server, people: People, two_pages: int
) -> None:
    with page_of(chromium, server, "oper-a", refused=409) as page:
        page.goto("/machines?q=rack:r7")
        page.get_by_label("Select all on this page").check()
        page.get_by_role("button", name="Select all 120 that match").click()
        page.get_by_role("button", name="Reconcile now…").click()
        page.locator("#do-many input[name=count]").fill("120")
        spec = {"clusterName": "a", "idc": "iad1", "rack": "r7", "ip": "10.9.3.1"}
        obj = {"apiVersion": API_VERSION, "kind": "Machine", "metadata": {"name": "late"}, "spec": spec}
        create_object("machines", obj, write=Write(by=SYSTEM))
        with page.expect_response("**/do/machines") as answer:
            page.get_by_role("button", name="Reconcile 120 machines").click()
        assert answer.value.status == 409
        expect(page.locator("main")).to_contain_text("121 machines now, 120 when you selected them")
        expect(page.locator("main")).to_contain_text("Nothing was changed")


def test_a_row_taken_back_takes_back_all_that_match(
    chromium: Browser, server: Server, people: People, two_pages: int
) -> None:
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/machines?q=rack:r7")
        page.get_by_label("Select all on this page").check()
        page.get_by_role("button", name="Select all 120 that match").click()
        page.get_by_label("Select n007").uncheck()
        expect(page.locator("[data-selected]")).to_have_text("99 selected")
        page.get_by_role("button", name="Hold…").click()
        expect(page.locator("#many-h")).to_have_text("Hold 99 machines")
        assert page.locator("#do-many input[name=hash]").count() == 0
        assert page.locator("#do-many input[name=name]").count() == 99


def test_a_narrow_screen_selects_its_page_and_all_that_match(
    chromium: Browser, server: Server, people: People, two_pages: int
) -> None:
    with page_of(chromium, server, "oper-a", viewport=NARROW) as page:
        page.goto("/machines")
        page.get_by_label("Select a1").check()
        page.get_by_role("button", name="All 100 here").click()
        page.get_by_role("button", name="Select all 122 machines").click()
        expect(page.locator("[data-selected]")).to_have_text("All 122 machines are selected")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0
        page.get_by_role("button", name="Select none").click()
        expect(page.locator(".selbar")).to_be_hidden()


def test_a_page_that_holds_all_offers_no_more(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "oper-a") as page:
        asked: list[str] = []
        page.on("request", lambda r: asked.append(r.url) if "/do/matching" in r.url else None)
        page.goto("/machines?q=cluster:a")
        page.get_by_label("Select all on this page").check()
        expect(page.locator("[data-selected]")).to_have_text("2 selected")
        expect(page.locator("[data-match-all]")).to_be_hidden()
        assert asked == []
