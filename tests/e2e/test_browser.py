"""Pages in a real browser: they live, they obey the CSP, they work by keyboard, in light, dark and narrow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import Browser, Page, sync_playwright

from fleet.api.actions import Write, patch_object
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM
from tests.servers import People, Server

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGES = [
    "/",
    "/clusters",
    "/clusters/a",
    "/machines",
    "/machines/a1/why",
    "/machines/a1/plan",
    "/machines/a1/yaml",
    "/packages",
    "/safety",
    "/events",
    "/audit",
    "/api/docs",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; missing is a failure in CI and a skip elsewhere."""
    if not Path(CHROMIUM).exists():
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed: apt install chromium")
        pytest.skip("Chromium is not installed")
    # playwright's sync API runs an event loop in this thread, which Django takes for async code.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


class Watched:
    """A page whose complaints are kept."""

    def __init__(self, browser: Browser, server: Server, people: People, who: str, **options: Any) -> None:
        from django.contrib.auth import get_user_model

        client = Client()
        client.force_login(get_user_model().objects.get(username=who))
        self.context = browser.new_context(base_url=server.http, **options)
        self.context.add_cookies(
            [{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": server.http}]
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))


@pytest.mark.parametrize(
    "look",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}],
    ids=["light", "dark", "narrow"],
)
def test_every_page_loads_without_a_complaint_and_fits_its_width(
    chromium: Browser,
    server: Server,
    people: People,
    small_fleet: list[str],
    look: dict[str, Any],
    tmp_path: Path,
) -> None:
    watched = Watched(chromium, server, people, "admin", **look)
    for path in PAGES:
        response = watched.page.goto(path)
        assert response is not None
        assert response.status == 200, path
        watched.page.screenshot(path=tmp_path / f"{path.strip('/').replace('/', '-') or 'overview'}.png")
        if path != "/api/docs":
            assert watched.page.locator("h1").count() == 1, path
            width = watched.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert width <= 0, f"{path} is {width} px too wide"
    assert watched.complaints == []
    watched.context.close()


def test_a_machine_page_changes_without_a_reload(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    watched = Watched(chromium, server, people, "viewer")
    watched.page.goto("/machines/a1/why")
    watched.page.get_by_text("1, seen 0").wait_for()
    patch_object("machines", "a1", lambda live: merge_patch(live, {"spec": {"rack": "r9"}}), write=Write(by=SYSTEM))
    watched.page.get_by_text("2, seen 0").wait_for(timeout=10_000)
    assert watched.page.locator("#m-head").get_by_text("iad1 / r9").count() == 1
    live = watched.page.locator("#m-head").inner_html()
    watched.page.reload()
    assert watched.page.locator("#m-head").inner_html() == live
    assert watched.complaints == []
    watched.context.close()


def test_the_keyboard_alone_reaches_everything(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    watched = Watched(chromium, server, people, "oper-a")
    page = watched.page
    page.goto("/")
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_url("**/machines")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/machines/a1/why")
    page.keyboard.press("]")
    page.wait_for_url("**/machines/a1/plan")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("h")
    page.locator("#do-hold input[name=reason]").fill("forensics")
    page.keyboard.press("Enter")
    page.wait_for_url("**/machines/a1/why?did=*")
    assert page.get_by_text("a1 is held until").count() == 1
    assert watched.complaints == []
    watched.context.close()


def test_a_destructive_button_waits_for_the_count(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    watched = Watched(chromium, server, people, "oper-a")
    watched.page.goto("/machines/a1/why?do=reboot")
    button = watched.page.locator("#reboot-go")
    assert button.is_disabled()
    watched.page.locator("[data-must]").fill("2")
    assert button.is_disabled()
    watched.page.locator("[data-must]").fill("1")
    assert button.is_enabled()
    watched.context.close()


def test_log_in_says_nothing_but_that_it_was_wrong(chromium: Browser, server: Server, people: People) -> None:
    context = chromium.new_context(base_url=server.http)
    page = context.new_page()
    page.goto("/machines")
    page.wait_for_url("**/login?next=/machines")
    page.locator("[name=username]").fill("nobody")
    page.locator("[name=password]").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    assert page.get_by_role("alert").count() == 1
    context.close()
