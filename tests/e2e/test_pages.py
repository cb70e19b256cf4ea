"""Pages in a browser: accessible in both themes, live as a whole, lists that are worked by hand and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from playwright.sync_api import Browser, Page, expect

from fleet.api.actions import Write, create_object, patch_object
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM
from fleet.control.kinds import API_VERSION
from tests.e2e.browser import chromium_running, page_of, violations
from tests.servers import People, Server

expect.set_options(timeout=30_000)  # what is awaited comes by an event; a busy machine may be slow
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
PAGES = ["/", "/clusters", "/clusters/a", "/clusters/a/nodes", "/machines", "/machines/a1/why", "/packages", "/safety", "/events", "/audit", "/kit"]  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with chromium_running() as browser:
        yield browser


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_breaks_a_rule_of_wcag(
    chromium: Browser, server: Server, people: People, small_fleet: list[str], theme: str
) -> None:
    with page_of(chromium, server, "admin", color_scheme=theme) as page:
        for path in PAGES:
            page.goto(path)
            assert violations(page) == [], path
        page.goto("/machines/a1/why?do=reboot")
        expect(page.locator("#do-reboot")).to_be_visible()
        assert violations(page) == []


_CONTENT = """() => {
  const main = document.querySelector("main").cloneNode(true);
  for (const time of main.querySelectorAll("time[data-at]")) time.textContent = "";
  for (const each of main.querySelectorAll(".flash")) each.classList.remove("flash");
  for (const each of main.querySelectorAll("[class='']")) each.removeAttribute("class");
  return main.innerHTML;
}"""


def _main(page: Page) -> str:
    """The page's content without the words of ages, which move by themselves, and without the tint of what just changed."""
    return str(page.evaluate(_CONTENT))


@pytest.mark.parametrize("path", ["/machines/a1/why", "/clusters/a", "/safety", "/safety/holds", "/faults", "/"])
def test_an_old_page_and_its_frames_are_a_reloaded_page(
    chromium: Browser, server: Server, people: People, small_fleet: list[str], path: str
) -> None:
    write = Write(by=SYSTEM)
    with page_of(chromium, server, "oper-a") as page:
        page.goto(path)
        page.wait_for_function("document.querySelector('.fresh').textContent === 'Live'")
        hold = {"target": {"machine": "a1"}, "reason": "row is moved", "until": _soon(), "owner": "olga"}
        create_object(
            "holds", {"apiVersion": API_VERSION, "kind": "Hold", "metadata": {"name": "row"}, "spec": hold}, write=write
        )
        patch_object("machines", "a1", lambda o: merge_patch(o, {"spec": {"rack": "r9"}}), write=write)
        patch_object(
            "clusters", "a", lambda o: merge_patch(o, {"spec": {"machineVersions": {"npd": "0.8"}}}), write=write
        )
        page.wait_for_function("(wanted) => Number(document.body.dataset.position) >= wanted", arg=_position())
        old = _main(page)
        page.reload()
        assert _main(page) == old


def _position() -> int:
    """Of the last write that everybody sees."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT fleet_horizon() - 1")
        return int(cursor.fetchone()[0])


def _soon() -> str:
    return (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_frames_wait_while_a_menu_is_open_and_come_when_it_closes(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/machines/a1/why")
        expect(page.locator(".fresh")).to_have_text("Live")
        page.locator("#more summary").click()
        patch_object("machines", "a1", lambda o: merge_patch(o, {"spec": {"rack": "r9"}}), write=Write(by=SYSTEM))
        expect(page.locator(".fresh")).to_contain_text("waiting")
        expect(page.locator("#m-head")).not_to_contain_text("r9")
        page.keyboard.press("Escape")
        expect(page.locator("#m-head")).to_contain_text("r9")


def test_a_page_without_its_socket_says_so_and_asks_for_itself(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "oper-a") as page:
        page.clock.install()
        page.route_web_socket("**/ws/live*", lambda socket: None)  # it opens and nothing ever comes
        page.goto("/machines/a1/why")
        expect(page.locator("#delayed")).to_be_hidden()
        patch_object("machines", "a1", lambda o: merge_patch(o, {"spec": {"rack": "r9"}}), write=Write(by=SYSTEM))
        page.clock.run_for(8_000)
        expect(page.locator(".fresh")).to_contain_text("Delayed by")
        expect(page.locator("#delayed")).to_be_hidden()
        expect(page.locator("#m-head")).not_to_contain_text("r9")
        page.clock.run_for(8_000)
        expect(page.locator("#delayed")).to_contain_text("asks again every 10 s")
        expect(page.locator("#m-head")).to_contain_text("r9")
        patch_object("machines", "a1", lambda o: merge_patch(o, {"spec": {"rack": "r8"}}), write=Write(by=SYSTEM))
        page.clock.run_for(11_000)
        expect(page.locator("#m-head")).to_contain_text("r8")


def test_rows_are_selected_by_key_and_held_together(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/machines")
        for key in ("j", "x", "j", "x"):
            page.keyboard.press(key)
        expect(page.locator("[data-selected]")).to_have_text("2 selected")
        page.get_by_role("button", name="Hold…").click()
        page.locator("#do-many input[name=reason]").fill("row is moved")
        page.get_by_role("button", name="Hold 2 machines").click()
        expect(page.locator("#toast")).to_contain_text("2 machines are held")
        page.goto("/safety")
        expect(page.locator("#s-holds li")).to_have_count(2)


def test_what_new_versions_would_do_stands_there_before_anybody_confirms(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/machines/a1/why?do=versions")
        plan = page.get_by_role("status", name="What it would do")
        expect(plan).to_contain_text("These are its pins already: nothing would change.")
        page.get_by_role("textbox", name="Versions").fill("pouch = 9.9")
        expect(plan).to_contain_text("No plan: ")
        page.get_by_role("textbox", name="Versions").fill("pouch")
        expect(plan).to_contain_text("“pouch” is no line of the form package = version.")
        assert violations(page) == []


def test_a_filter_is_typed_shown_as_tokens_and_taken_back(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "viewer") as page:
        page.goto("/machines")
        page.keyboard.press("/")
        page.keyboard.type("cluster:a")
        page.keyboard.press("Enter")
        page.wait_for_url("**/machines?q=cluster%3Aa")
        expect(page.locator("tbody tr")).to_have_count(2)
        page.keyboard.press("/")
        page.keyboard.type("rack:r1")
        page.keyboard.press("Enter")
        expect(page.locator(".tok")).to_have_count(2)
        expect(page.get_by_text("Nothing matches")).to_be_visible()
        page.keyboard.press("/")
        page.keyboard.press("Backspace")
        expect(page.locator(".tok")).to_have_count(1)
        expect(page.locator("tbody tr")).to_have_count(2)


def test_the_theme_is_kept_by_the_server_so_that_nothing_flashes(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "viewer", color_scheme="light") as page:
        page.goto("/")
        page.get_by_role("button", name="Switch light and dark").click()
        answer = page.goto("/clusters")
        assert answer is not None
        assert 'data-theme="dark"' in answer.text()


def test_a_narrow_screen_has_a_drawer_and_folds_its_tables(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "admin", viewport={"width": 390, "height": 844}) as page:
        page.goto("/machines")
        expect(page.get_by_role("navigation", name="Console")).to_be_hidden()
        page.get_by_role("button", name="Menu").click()
        expect(page.get_by_role("navigation", name="Console")).to_be_visible()
        expect(page.locator("thead")).to_be_hidden()
        for path in PAGES:
            page.goto(path)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, path
