"""Clusters in a browser: made, upgraded and deleted, each told first; problems at their fields, by keyboard and on a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from clusters.models import Cluster
from clusters.planes import COMPONENTS
from clusters.status import Part, write_parts
from fleet.api.actions import Write, patch_object
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from tests.console.test_cluster_acts import local, version, versions
from tests.e2e.browser import chromium_running, page_of, violations
from tests.servers import People, Server

__all__ = ["local", "versions"]
expect.set_options(timeout=30_000)
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
NARROW = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with chromium_running() as browser:
        yield browser


def stands(name: str, at: str) -> None:
    """As the Cluster-Operator leaves it once the control plane is ready; a status that moves while a dialog is open."""
    row = Cluster.objects.get(name=name)
    well = [{"type": t, "status": "True", "reason": "Ready", "message": ""} for t in ("EtcdHealthy", "APIServerReachable", "Ready")]  # fmt: skip
    status = {"packageVersion": at, "kubernetesVersion": "1.36.3", "componentVersions": dict.fromkeys(COMPONENTS, at), "conditions": well}  # fmt: skip
    Cluster.objects.filter(pk=row.pk).update(status=status, phase="Running")


def spec_of(name: str) -> object:
    stored = storage_for("clusters").read(name)
    assert stored is not None
    return stored.obj["spec"].get("packageVersion")


def test_a_cluster_is_made_upgraded_and_deleted_and_each_is_told_first(
    chromium: Browser, server: Server, people: People, versions: None
) -> None:
    with page_of(chromium, server, "admin") as page:
        _create(page)
        stands("fresh", "k8s-1.36.3")
        page.reload()
        _upgrade(page)
        _delete(page)


def _create(page: Page) -> None:
    page.goto("/clusters")
    page.get_by_role("button", name="New cluster…").click()
    create = page.get_by_role("button", name="Create 1 cluster")
    expect(create).to_be_disabled()
    dialog = page.locator("#do-create")
    told = page.get_by_role("status", name="What it would make")
    expect(told).to_have_text("Still needed: Name.")
    dialog.get_by_label("Name", exact=True).fill("fresh")
    expect(told).to_have_text("Still needed: Meta cluster, Host of the API server.")
    expect(dialog.get_by_label("Credential of type kubeconfig")).to_be_hidden()
    dialog.get_by_label("Control plane").select_option("Local")
    expect(dialog.get_by_label("Meta cluster", exact=True)).to_be_hidden()
    dialog.get_by_label("Package version").select_option("k8s-1.36.3")
    pods = dialog.get_by_label("Addresses of pods")
    pods.fill("10.9.0.0/99")
    expect(page.locator("#at-spec-network-podCIDR")).to_contain_text("Must be a network such as")
    expect(pods).to_have_attribute("aria-describedby", "at-spec-network-podCIDR")
    expect(create).to_be_disabled()
    assert violations(page) == []
    pods.fill("10.9.0.0/16")
    expect(told).to_contain_text("Pods from 10.9.0.0/16, services from 10.96.0.0/12.")
    expect(create).to_be_enabled()
    create.click()
    page.wait_for_url("**/clusters/fresh")
    expect(page.locator("#toast")).to_contain_text("Cluster fresh is created.")


def _upgrade(page: Page) -> None:
    page.get_by_role("button", name="Change version…").click()
    told = page.locator("#do-upgrade").get_by_role("status", name="What it would do")
    expect(told.locator(".legs li b").first).to_have_text("Snapshot of etcd")
    go = page.locator("#upgrade-go")
    expect(go).to_have_text("Upgrade to k8s-1.37.2")
    assert violations(page) == []
    page.get_by_label("Package version").select_option("k8s-1.38.0")
    expect(told).to_contain_text("go to k8s-1.37.2 first")
    expect(go).to_be_disabled()
    page.get_by_label("Package version").select_option("k8s-1.37.2")
    expect(go).to_be_enabled()
    go.click()
    expect(page.locator("#toast")).to_contain_text("fresh is asked to go to k8s-1.37.2.")
    assert spec_of("fresh") == "k8s-1.37.2"


def _delete(page: Page) -> None:
    page.get_by_role("button", name="Delete…").click()
    dialog = page.locator("#do-delete")
    expect(dialog.get_by_role("status", name="What it would do")).to_contain_text("kept for 24 h")
    assert violations(page) == []
    go, typed = page.locator("#delete-go"), dialog.get_by_label("Type fresh, the name of the cluster")
    for wrong in ("fres", "1", "FRESH"):
        typed.fill(wrong)
        expect(go).to_be_disabled()
    typed.fill("fresh")
    expect(go).to_be_enabled()
    typed.press("Enter")
    expect(page.locator("#toast")).to_contain_text("fresh is being deleted.")
    expect(page.locator("#c-head")).to_contain_text("Leaving")
    expect(page.get_by_role("button", name="Delete…")).to_have_count(0)


def test_a_cluster_with_machines_cannot_be_deleted_by_typing_its_name(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    with page_of(chromium, server, "admin") as page:
        page.goto("/clusters/a?do=delete")
        dialog = page.locator("#do-delete")
        expect(dialog).to_contain_text("2 machines still name it")
        dialog.get_by_label("Type a, the name of the cluster").fill("a")
        expect(page.locator("#delete-go")).to_be_disabled()


def test_what_changed_while_the_dialog_was_open_is_told_and_nothing_is_done(
    chromium: Browser, server: Server, people: People, versions: None, local: object
) -> None:
    with page_of(chromium, server, "admin", refused=409) as page:
        page.goto("/clusters/a?do=upgrade")
        expect(page.locator("#upgrade-go")).to_be_enabled()
        stands("a", "k8s-1.37.2")
        page.locator("#upgrade-go").click()
        expect(page.get_by_role("alert")).to_contain_text("It has changed since you looked")
        assert spec_of("a") == "k8s-1.36.3"


def test_the_steps_of_an_upgrade_move_on_while_the_page_is_open(
    chromium: Browser, server: Server, people: People, local: object
) -> None:
    row = Cluster.objects.get(name="a")
    patch_object("clusters", "a", lambda o: merge_patch(o, {"spec": {"packageVersion": "k8s-1.37.2"}}), write=Write(by=SYSTEM))  # fmt: skip
    versions_of = row.status["componentVersions"]
    with page_of(chromium, server, "viewer") as page:
        page.goto("/clusters/a")
        expect(page.locator("#c-plane .steps li.later")).to_have_count(len(COMPONENTS) + 1)
        expect(page.locator(".fresh")).to_have_text("Live")
        for n, name in enumerate(COMPONENTS):
            step = {"name": name, "status": "Running", "startTime": "2026-11-25T20:00:00Z", "message": f"waits for {name}"}  # fmt: skip
            done = [{**step, "name": c, "status": "True"} for c in COMPONENTS[:n]]
            versions_of = versions_of | {name: "k8s-1.37.2"}
            part = Part({"componentVersions": versions_of, "steps": [*done, step], "snapshotFor": "k8s-1.37.2"})
            write_parts(storage_for("clusters"), {row.pk: part})
            expect(page.locator("#c-plane .steps li.now")).to_have_count(1)
            expect(page.locator("#c-plane .steps li.done")).to_have_count(n + 1)
            expect(page.locator("#plane-steps")).to_contain_text(f"Waits for {name}.")
        gone = {"status": "True", "startTime": "2026-11-25T20:00:00Z", "endTime": "2026-11-25T20:00:09Z"}
        steps = [{**gone, "name": c} for c in COMPONENTS]
        write_parts(storage_for("clusters"), {row.pk: Part({"packageVersion": "k8s-1.37.2", "steps": steps})})
        expect(page.locator("#c-plane .steps")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_dialogs_fit_a_narrow_screen_and_break_no_rule_of_wcag(
    chromium: Browser, server: Server, people: People, local: object, theme: str
) -> None:
    version("k8s-1.37.3", "1.37.3", machineVersions={"kubelet": "1.37.3"})
    with page_of(chromium, server, "admin", viewport=NARROW, color_scheme=theme) as page:
        for path, told in (("/clusters?do=create", "nothing is made"), ("/clusters/a?do=upgrade", "Snapshot"), ("/clusters/a?do=delete", "Refused")):  # fmt: skip
            page.goto(path)
            if "create" in path:
                page.locator("#do-create").get_by_label("Name", exact=True).fill("x")
                page.get_by_label("Control plane").select_option("")
            expect(page.locator("dialog[open] .plan")).to_contain_text(told)
            wide = page.evaluate("document.querySelector('dialog[open]').scrollWidth - document.querySelector('dialog[open]').clientWidth")  # fmt: skip
            assert wide <= 0, path
            assert violations(page) == [], path
