"""Gates, events, safety and repair in a browser: accessible in both themes, narrow without a scroll bar, and their dialogs by hand."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from django.db import connection
from playwright.sync_api import Browser, Page, expect

from clusters.models import Cluster
from fleet.api.actions import Write, create_object, patch_object
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM
from fleet.api.storage import ListQuery, storage_for
from fleet.control.kinds import API_VERSION
from machines.rule_storage import refresh_rules
from tests.console.recovery_world import fault, operation, playbook, remediation, rule
from tests.console.test_cluster_acts import local, versions
from tests.console.test_cluster_care import SNAPSHOTS, saved
from tests.console.test_nodes_and_gates import report
from tests.e2e.browser import chromium_running, page_of, violations
from tests.servers import People, Server

__all__ = ["local", "saved", "versions"]
expect.set_options(timeout=30_000)
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
NARROW = {"width": 390, "height": 844}
WRITE = Write(by=SYSTEM)
PAGES = [
    "/gates", "/gates/disk", "/events?q=severity>normal&from=6h", "/machines/a1/events", "/machines/a1/why", "/safety", "/safety/policies", "/safety/policies/pay", "/safety/holds", "/safety/windows",
    "/safety/permits", "/safety/refusals", "/faults", "/faults/a1-componentcrash", "/rules", "/rules/crash", "/remediations", "/remediations/a2-1", "/playbooks", "/playbooks/fix", "/",
]  # fmt: skip
DIALOGS = [
    "/gates?do=create", "/gates/disk?do=change", "/gates/disk?do=delete", "/safety?do=hold", "/safety?do=stop", "/safety/policies?do=create", "/safety/policies/pay?do=change", "/safety/policies/pay?do=delete", "/machines/a1/why?do=confirm", "/machines/a1/why?do=abandon", "/faults/a1-componentcrash?do=clear", "/rules/crash?do=mode",
    "/remediations/a2-1?do=cancel", "/machines/a1/why?do=report", "/machines/a1/why?do=pause", "/clusters/a?do=pause",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with chromium_running() as browser:
        yield browser


@pytest.fixture
def trouble(small_fleet: list[str]) -> None:
    """Something of everything: a rule that holds, an open breaker, refusals, a hold, faults in each phase, a repair with evidence."""
    report("a1", DiskHealthy="False")
    spec = {"conditionType": "DiskHealthy", "target": {"matchAll": True}}
    create_object("readinessrules", {"apiVersion": API_VERSION, "kind": "ReadinessRule", "metadata": {"name": "disk"}, "spec": spec}, write=WRITE)  # fmt: skip
    refresh_rules()
    playbook()
    rule(mode="Active", playbook="fix")
    fault("a1", phase="NeedsPerson", rule="crash", repair=("LadderEnded", "Every rung was tried"))
    worked = fault("a2", "NicFailure", "Recovering", category="Hardware", remediation="a2-1")
    uid = str(uuid.uuid4())
    operation("a2", "a2-7", uid)
    remediation(worked, "Verifying", name="a2-1", rung=1, tried=[{"name": "restart", "operation": "a2-7", "phase": "Succeeded", "outcome": "DidNotHelp", "message": "still seen"}])  # fmt: skip
    windows = {
        "scope": {"cluster": "a"},
        "maxUnavailable": {"count": 1},
        "windows": [{"start": "22:30", "durationMinutes": 60}],
    }
    create_object("safetypolicies", {"apiVersion": API_VERSION, "kind": "SafetyPolicy", "metadata": {"name": "pay"}, "spec": windows}, write=WRITE)  # fmt: skip
    key = Cluster.objects.get(name="a").pk
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO breaker_strike (machine_id, cluster_id, idc_id, rack_id, at, failed) SELECT machine_id, cluster_id, idc_id, rack_id, now() - interval '2 min', false FROM capacity WHERE cluster_id = %s", [key])  # fmt: skip
        cursor.execute("SELECT breaker_trip('cluster', %s, '2 machines were taken by faults.')", [key])
        cursor.execute("SELECT notice_turn()")
        cursor.execute("INSERT INTO refusal (machine_id, cluster_id, verb, owner, reason, message, since) SELECT id, cluster_id, 'Reboot', 'x', 'ClusterBreaker', 'The breaker is open.', now() FROM machine WHERE name = 'a1'")  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_and_no_dialog_breaks_a_rule_of_wcag(
    chromium: Browser, server: Server, people: People, trouble: None, theme: str
) -> None:
    with page_of(chromium, server, "admin", color_scheme=theme) as page:
        for path in PAGES:
            page.goto(path)
            assert violations(page) == [], path
        for path in DIALOGS:
            page.goto(path)
            expect(page.locator("dialog[open]")).to_be_visible()
            assert violations(page) == [], path


def test_nothing_is_wider_than_a_narrow_screen(chromium: Browser, server: Server, people: People, trouble: None) -> None:  # fmt: skip
    with page_of(chromium, server, "admin", viewport=NARROW) as page:
        for path in [*PAGES, *DIALOGS]:
            page.goto(path)
            assert _wide(page, "document.documentElement") <= 0, path
            if path in DIALOGS:
                assert _wide(page, "document.querySelector('dialog[open]')") <= 0, path


def _wide(page: Page, what: str) -> int:
    return int(page.evaluate(f"{what}.scrollWidth - {what}.clientWidth"))


def test_a_rule_is_made_by_typing_what_it_would_hold(
    chromium: Browser, server: Server, people: People, small_fleet: list[str]
) -> None:
    report("a1", DiskHealthy="False")
    with page_of(chromium, server, "admin") as page:
        page.goto("/gates?do=create")
        dialog, go = page.locator("#do-create"), page.locator("#create-go")
        dialog.get_by_label("Name", exact=True).fill("disk")
        dialog.get_by_label("Condition", exact=True).fill("DiskHealthy")
        dialog.locator("[name=target]").select_option("clusters")
        expect(dialog.get_by_placeholder("pool=gpu")).to_be_hidden()
        dialog.get_by_placeholder("iad1-web, iad1-ads").fill("a")
        expect(go).to_be_enabled()  # it only counts
        dialog.locator("[name='spec.dryRun']").select_option("")
        typed = dialog.get_by_label("Type 1, the number of machines that it would hold")
        expect(typed).to_be_visible()
        expect(go).to_be_disabled()
        typed.fill("2")
        expect(go).to_be_disabled()
        typed.fill("1")
        expect(go).to_be_enabled()
        go.click()
        page.wait_for_url("**/gates/disk")
        expect(page.locator("#g-rows")).to_contain_text("a1")
        page.get_by_role("button", name="Delete…").click()
        expect(page.locator("#do-delete")).to_contain_text("1 machine that it holds may open")
        page.get_by_role("button", name="Delete 1 rule").click()
        expect(page.locator("#toast")).to_contain_text("Rule disk is gone")


def test_a_snapshot_is_restored_by_typing_the_name(
    chromium: Browser, server: Server, people: People, saved: object
) -> None:
    with page_of(chromium, server, "admin") as page:
        page.goto("/clusters/a")
        page.locator("#more summary").click()
        page.get_by_role("button", name="Restore a snapshot…").click()
        dialog = page.locator("#do-restore")
        expect(dialog.get_by_role("status", name="What it would do")).to_contain_text("is lost")
        expect(dialog).to_contain_text("It asks for k8s-1.36.3 from then on")
        assert violations(page) == []
        dialog.get_by_label("Version afterwards").select_option("")
        expect(dialog).to_contain_text("It still asks for k8s-1.37.2")
        go = page.locator("#restore-go")
        expect(go).to_be_disabled()
        dialog.get_by_label("Type a, the name of the cluster").fill("a")
        expect(go).to_be_enabled()
        go.click()
        expect(page.locator("#toast")).to_contain_text(f"a goes back to the snapshot {SNAPSHOTS[0]['name']}")


def test_a_breaker_is_reset_by_typing_its_name(chromium: Browser, server: Server, people: People, trouble: None) -> None:  # fmt: skip
    with page_of(chromium, server, "admin") as page:
        page.goto("/safety")
        page.get_by_role("button", name="Half-open now…").click()
        go, typed = page.locator("#reset-go"), page.get_by_label("Type its name, cluster/a")
        expect(go).to_be_disabled()
        typed.fill("cluster/b")
        expect(go).to_be_disabled()
        typed.fill("cluster/a")
        go.click()
        expect(page.locator("#toast")).to_contain_text("cluster/a:")


def test_who_asked_for_a_reset_has_no_button_for_the_second_word(chromium: Browser, server: Server, people: People, trouble: None) -> None:  # fmt: skip
    def asked(by: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE breaker SET asked_by = %s, asked_at = now() WHERE dim = 'cluster' AND state = 'open'", [by])  # fmt: skip

    with page_of(chromium, server, "admin") as page:
        asked("admin")
        page.goto("/safety")
        expect(page.locator("#s-breakers")).to_contain_text("admin asked for its reset")
        expect(page.locator("[data-set-breaker='cluster/a']")).to_be_hidden()
        asked("somebody")
        page.reload()
        expect(page.locator("[data-set-breaker='cluster/a']")).to_have_text("Say the same…")
        expect(page.locator(".fresh")).to_have_text("Live")
        asked("admin")  # a live frame brings the button anew, and it is hidden again
        expect(page.locator("[data-set-breaker='cluster/a']")).to_be_hidden()


def test_a_notice_is_taken_once(chromium: Browser, server: Server, people: People, trouble: None) -> None:
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/safety")
        told = page.locator("#s-notices li", has_text="The breaker of cluster a is open")
        told.get_by_role("button", name="I take it").click()
        expect(page.locator("#toast")).to_contain_text("you took it, and it is not told again.")
        expect(told).to_contain_text("oper-a took it")
        expect(told.get_by_role("button")).to_have_count(0)


def test_a_policy_tells_what_it_would_mean_before_it_is_saved(chromium: Browser, server: Server, people: People, trouble: None) -> None:  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("UPDATE capacity SET in_service = true, down = false")
    with page_of(chromium, server, "admin") as page:
        page.goto("/safety/policies/pay?do=change")
        dialog, go = page.locator("#do-change"), page.locator("#change-go")
        expect(dialog).to_contain_text("This is what it says already.")
        expect(go).to_be_disabled()
        dialog.get_by_label("At most, in machines").fill("many")
        expect(dialog).to_contain_text("It must be a number.")
        dialog.get_by_label("At most, in machines").fill("2")
        told = dialog.get_by_role("status", name="What it would mean now")
        expect(told).to_contain_text("2 may be")
        expect(told).to_contain_text("Now: 1 may be")
        expect(go).to_be_enabled()
        dialog.locator("[name='spec.breaker.disabled']").select_option("1")
        typed = dialog.get_by_label("Type 2, the number of machines without a breaker")
        expect(typed).to_be_visible()
        expect(go).to_be_disabled()
        dialog.locator("[name='spec.breaker.disabled']").select_option("")
        expect(typed).to_be_hidden()
        expect(go).to_be_enabled()
        go.click()
        expect(page.locator("#toast")).to_contain_text("Policy pay is changed")
        expect(page.locator("#p-says")).to_contain_text("2 machines")


def test_windows_of_a_policy_are_added_and_taken_out_and_limits_on_pods_are_set(chromium: Browser, server: Server, people: People, trouble: None) -> None:  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("UPDATE capacity SET in_service = true, down = false")
    with page_of(chromium, server, "admin") as page:
        page.goto("/safety/policies/pay?do=change")
        dialog, go = page.locator("#do-change"), page.locator("#change-go")
        told = dialog.get_by_role("status", name="What it would mean now")
        dialog.get_by_role("button", name="Add a window").click()
        added = dialog.get_by_role("group", name="Window 2")
        expect(added.get_by_label("Mon")).to_be_focused()
        expect(told).to_contain_text("Still needed: Begins at, Ends at.")
        added.get_by_label("Begins at").fill("00:00")
        added.get_by_label("Ends at").fill("24:00")
        added.get_by_label("Time zone").fill("Europe/Berln")
        expect(added).to_contain_text("did you mean Europe/Berlin?")
        assert violations(page) == []
        expect(go).to_be_disabled()
        added.get_by_label("Time zone").fill("Europe/Berlin")
        expect(told).to_contain_text("Open at all times.")
        dialog.get_by_role("button", name="Remove window 1").click()
        expect(dialog.get_by_role("group", name="Window 1")).to_contain_text("Begins at")
        expect(dialog.get_by_role("group", name="Window 2")).to_have_count(0)
        expect(dialog.get_by_role("button", name="Remove window 1")).to_be_focused()
        dialog.get_by_label("So many must start, in %").fill("90")
        expect(told).to_contain_text("Opens the breaker when under 90 % start, of at least 20 tried within 10 min.")
        go.click()
        expect(page.locator("#toast")).to_contain_text("Policy pay is changed")
        expect(page.locator("#p-says")).to_contain_text("every day 00:00–24:00 Europe/Berlin")
        expect(page.locator("#p-head")).to_contain_text("may begin at any time")


def test_a_new_policy_asks_only_what_its_scope_may_say(chromium: Browser, server: Server, people: People, trouble: None) -> None:  # fmt: skip
    with page_of(chromium, server, "admin") as page:
        page.goto("/safety/policies?do=create")
        dialog = page.locator("#do-create")
        expect(dialog.get_by_label("So many must start, in %")).to_be_visible()
        dialog.get_by_label("Covers").select_option("hardwareModel")
        expect(dialog.get_by_label("So many must start, in %")).to_be_hidden()
        expect(dialog.get_by_label("It opens at, in %")).to_be_hidden()
        dialog.get_by_label("Covers").select_option("rack")
        expect(dialog.get_by_label("It opens at, in %")).to_be_visible()
        expect(dialog.get_by_label("Planned changes go on in")).to_be_hidden()


def test_a_rule_on_trial_is_put_in_force_by_typing_what_it_would_act_on(chromium: Browser, server: Server, people: People, trouble: None) -> None:  # fmt: skip
    rule("slow", mode="Shadow", playbook="fix")
    fault("b1", "LoadHigh", "Confirmed", rule="slow", shadow=True)
    with page_of(chromium, server, "admin") as page:
        page.goto("/rules/slow")
        page.get_by_role("button", name="Change the mode…").click()
        dialog, go = page.locator("#do-mode"), page.locator("#mode-go")
        expect(dialog).to_contain_text("It found 1 live fault on trial: 1 in b.")
        expect(go).to_be_disabled()
        dialog.get_by_label("Mode").select_option("Disabled")
        expect(dialog).to_contain_text("It finds nothing from now on.")
        expect(go).to_be_enabled()
        dialog.get_by_label("Mode").select_option("Active")
        dialog.get_by_label("Type 1, the number of faults that would be acted on").fill("1")
        expect(go).to_be_enabled()
        go.click()
        expect(page.locator("#toast")).to_contain_text("Rule slow is in force.")


def test_the_page_of_the_api_shows_kinds_and_doors(chromium: Browser, server: Server, people: People) -> None:
    with page_of(chromium, server, "admin") as page:
        page.goto("/api/docs")
        expect(page.locator("#operations-tag-Machine")).to_be_visible()
        expect(page.locator("#operations-tag-Events")).to_be_visible()
        expect(page.locator("#operations-tag-Safety")).to_be_visible()


def test_all_changes_are_stopped_by_typing_the_count(chromium: Browser, server: Server, people: People, small_fleet: list[str]) -> None:  # fmt: skip
    with page_of(chromium, server, "admin") as page:
        page.goto("/safety")
        page.get_by_role("button", name="Stop all changes…").click()
        page.locator("#do-stop").get_by_label("Reason").fill("bad kernel")
        expect(page.locator("#stop-go")).to_be_disabled()
        page.locator("#do-stop").get_by_label("Type 3, the number of machines that it covers").fill("3")
        page.locator("#stop-go").click()
        expect(page.locator("#stopped")).to_contain_text("All changes are stopped by admin: bad kernel")


def test_a_hold_is_told_made_and_released(chromium: Browser, server: Server, people: People, small_fleet: list[str]) -> None:  # fmt: skip
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/safety/holds")
        page.keyboard.press("h")
        dialog = page.locator("#do-hold")
        told = dialog.get_by_role("status", name="What it would do")
        expect(told).to_contain_text("Still needed: Cluster, Reason.")
        dialog.get_by_label("Cluster", exact=True).fill("a")
        dialog.get_by_label("Reason").fill("quarter close")
        expect(told).to_contain_text("It covers 2 machines now.")
        page.get_by_role("button", name="Hold 2 machines").click()
        expect(page.locator("#s-holds li")).to_have_count(1)
        page.get_by_role("button", name="Release…").click()
        page.get_by_role("button", name="Release 1 hold").click()
        expect(page.locator("#s-holds")).to_contain_text("Nobody holds anything.")
        assert storage_for("holds").page(ListQuery()).objects == []


def test_new_events_wait_behind_a_chip_and_a_row_unfolds(chromium: Browser, server: Server, people: People, small_fleet: list[str]) -> None:  # fmt: skip
    with page_of(chromium, server, "admin") as page:
        page.goto("/events?q=machine:a1")
        expect(page.locator(".fresh")).to_have_text("Live")
        before = page.locator("tbody tr").count()
        patch_object("machines", "a1", lambda o: merge_patch(o, {"spec": {"rack": "r9"}}), write=WRITE)
        expect(page.locator("#newer")).to_have_text("1 newer")
        expect(page.locator("tbody tr")).to_have_count(before)
        page.locator("#newer").click()
        expect(page.locator("tbody tr")).to_have_count(before + 1)
        page.locator("tbody tr summary").first.click()
        expect(page.locator(".envelope").first).to_contain_text('"specversion": "1.0"')


def test_a_range_is_dragged_out_of_the_histogram(chromium: Browser, server: Server, people: People, small_fleet: list[str]) -> None:  # fmt: skip
    with page_of(chromium, server, "admin") as page:
        page.goto("/events?q=kind:machine")
        box = page.locator("#e-histogram svg").bounding_box()
        assert box is not None
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.5, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"], y, steps=5)
        expect(page.locator(".pick")).to_be_visible()
        page.mouse.up()
        page.wait_for_url("**/events?q=kind*from=*to=*")
        expect(page.locator("h1 + .sub")).to_have_text("a range of the past, not live")
        page.locator(".chips a", has_text="Any time").click()
        page.wait_for_url("**/events?q=kind%3Amachine")


def test_a_repair_moves_on_while_its_page_is_open(chromium: Browser, server: Server, people: People, trouble: None) -> None:  # fmt: skip
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/remediations/a2-1")
        expect(page.locator(".fresh")).to_have_text("Live")
        expect(page.locator("#x-ladder .rungs .now")).to_have_count(1)
        with connection.cursor() as cursor:
            cursor.execute("WITH u AS (UPDATE recovery_remediation SET phase = 'Succeeded', ended_at = now(), status = status || '{\"message\": \"reboot repaired it.\"}', rv = fleet_pos() WHERE name = 'a2-1' RETURNING rv, id, cluster_id) INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 16, 2 FROM u")  # fmt: skip
            cursor.execute("NOTIFY fleet_log")
        expect(page.locator("#x-head")).to_contain_text("Repaired by reboot.")
        expect(page.locator("#x-ladder .rungs .done")).to_have_count(1)


def test_a_fault_is_reported_and_said_to_be_over(chromium: Browser, server: Server, people: People, small_fleet: list[str]) -> None:  # fmt: skip
    playbook("hardware")
    with page_of(chromium, server, "oper-a") as page:
        page.goto("/machines/a1/why?do=report")
        dialog = page.locator("#do-report")
        dialog.get_by_label("Type").select_option("NicFailure")
        dialog.get_by_label("What was seen").fill("CRC errors since noon")
        page.get_by_role("button", name="Report 1 fault").click()
        expect(page.locator("#m-faults")).to_contain_text("CRC errors since noon")
        page.locator("#m-faults a", has_text="NicFailure").click()
        page.get_by_role("button", name="It is over…").click()
        page.get_by_role("button", name="Clear 1 fault").click()
        expect(page.locator("#f-head")).to_contain_text("Over")
