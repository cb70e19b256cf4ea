"""Batches in a browser: told before they are asked for, and approved by a second person who types the exact count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from playwright.sync_api import Browser, expect

from fleet.api.actions import Write, create_object
from fleet.api.models import RoleBinding
from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.control.kinds import API_VERSION
from tests.e2e.browser import chromium_running, page_of, violations
from tests.e2e.test_machine_list import NARROW, two_pages
from tests.servers import People, Server

__all__ = ["two_pages"]
expect.set_options(timeout=30_000)
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with chromium_running() as browser:
        yield browser


@pytest.fixture
def asked(two_pages: int, settings: Any) -> str:
    """A batch over 120 machines that somebody asked for; its name."""
    settings.FLEET_REQUIRE_APPROVAL = True
    user = get_user_model().objects.get(username="viewer")
    RoleBinding.objects.create(user=user, role="approver", cluster="")
    spec = {"verb": "Reboot", "clusterName": "a", "target": {"fieldSelector": "spec.rack=r7"}, "reason": "New kernel."}
    obj = {"apiVersion": API_VERSION, "kind": "OperationBatch", "metadata": {"name": "reboot-r7"}, "spec": spec}
    create_object("operationbatches", obj, write=Write(by=Actor("olga", None, (("operator", "a"),))))
    return "reboot-r7"


def test_what_is_selected_is_told_and_begins(chromium: Browser, server: Server, people: People, two_pages: int) -> None:
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/machines?q=rack:r7")
        page.get_by_label("Select all on this page").check()
        page.get_by_role("button", name="Select all 120 that match").click()
        expect(page.get_by_role("button", name="Decommission…")).to_have_count(0)
        page.get_by_role("button", name="Drain…").click()
        expect(page.locator("#batch-h")).to_have_text("Drain 120 machines")
        expect(page.locator("#do-batch .plan")).to_contain_text("120 machines (120 in a)")
        go = page.get_by_role("button", name="Drain 120 machines")
        expect(go).to_be_disabled()
        page.get_by_role("textbox", name="Reason").fill("row is moved")
        page.locator("#do-batch input[name=count]").fill("120")
        expect(go).to_be_enabled()
        assert violations(page) == []
        go.click()
        page.wait_for_url("**/batches/drain-*")
        expect(page.locator("#b-head")).to_contain_text("not needed")
        expect(page.locator("#b-list")).to_contain_text("n001")
        assert violations(page) == []
    (made,) = storage_for("operationbatches").page(ListQuery()).objects
    assert (made["status"]["count"], made["spec"]["expect"]["count"]) == (120, 120)


def test_a_second_person_types_the_count_and_it_begins(
    chromium: Browser, server: Server, people: People, asked: str
) -> None:
    with page_of(chromium, server, "viewer", viewport=NARROW) as page:
        page.goto("/")
        expect(page.locator("#o-needs")).to_contain_text("Reboot of 120 machines")
        page.get_by_role("link", name="Reboot of 120 machines").click()
        expect(page.locator("#b-head")).to_contain_text("Another approver than olga must approve it.")
        expect(page.get_by_role("button", name="Cancel…")).to_have_count(0)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0
        page.get_by_role("button", name="Approve…").click()
        go = page.get_by_role("button", name="Approve 120 machines")
        page.locator("#do-approve input[name=count]").fill("119")
        expect(go).to_be_disabled()
        page.locator("#do-approve input[name=count]").fill("120")
        assert violations(page) == []
        go.click()
        expect(page.locator("#toast")).to_contain_text(f"{asked} is approved and begins")
        expect(page.locator("#b-head")).to_contain_text("viewer")
    approved = storage_for("operationbatches").read(asked)
    assert approved is not None
    assert approved.obj["status"]["approvedBy"] == "viewer"
