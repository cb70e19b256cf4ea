"""Acts from the console: on many machines, on holds, by a person's word; log in and its lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from fleet.api.storage import ListQuery, storage_for
from tests.servers import People

Browser = Callable[[str], Client]
HOLD = {"verb": "hold", "reason": "row is moved", "hours": "4"}


def _held() -> list[str]:
    return sorted(h["spec"]["target"]["machine"] for h in storage_for("holds").page(ListQuery()).objects)


def test_selected_machines_are_held_and_released_together(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    done = client.post("/do/machines", HOLD | {"name": ["a1", "a2"], "back": "/machines?q=cluster%3Aa"})
    assert done.status_code == 303
    assert done["Location"].startswith("/machines?q=cluster%3Aa&did=2+machines+are+held")
    assert _held() == ["a1", "a2"]
    client.post("/do/machines", {"verb": "release", "name": ["a1", "a2"]})
    assert _held() == []


def test_many_stop_at_the_first_refusal_and_say_how_far_they_came(small_fleet: list[str], browser_of: Browser) -> None:
    done = browser_of("oper-a").post("/do/machines", HOLD | {"name": ["a1", "b1"]}, follow=True)
    assert "1 machine of 2 done, then refused" in done.content.decode()
    assert _held() == ["a1"]


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"verb": "hold", "reason": "x"}, "select 1 to 100 machines"),
        ({"verb": "reboot", "name": "a1"}, "one of hold, release, reconcile"),
        (HOLD | {"name": [f"m{n}" for n in range(21)]}, "type 21, the number of machines"),
        (HOLD | {"name": [f"m{n}" for n in range(101)], "count": "101"}, "select 1 to 100 machines"),
    ],
    ids=["none", "verb", "count", "too many"],
)
def test_a_bad_selection_changes_nothing(
    small_fleet: list[str], browser_of: Browser, form: dict[str, str], sentence: str
) -> None:
    response = browser_of("admin").post("/do/machines", form)
    assert response.status_code == 400
    assert sentence in response.content.decode()
    assert _held() == []


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/machines/../../evil", "javascript:x"])
def test_the_way_back_never_leaves_the_list(small_fleet: list[str], browser_of: Browser, back: str) -> None:
    done = browser_of("admin").post("/do/machines", HOLD | {"name": "a1", "back": back})
    assert done["Location"].startswith("/machines")
    assert "example" not in done["Location"]


def test_a_viewer_has_no_buttons_and_its_post_is_refused(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("viewer")
    text = client.get("/machines").content.decode()
    assert "do-many" not in text
    assert 'type="checkbox" value=' not in text
    assert client.post("/do/machines", HOLD | {"name": "a1"}).status_code == 403
    assert _held() == []


def test_a_hold_offers_its_undo(small_fleet: list[str], browser_of: Browser) -> None:
    text = browser_of("oper-a").post("/machines/a1/do", HOLD, follow=True).content.decode()
    assert "a1 is held until" in text
    assert ">Undo</button>" in text


def test_a_hold_is_released_on_the_safety_page_by_who_may_write_there(
    small_fleet: list[str], browser_of: Browser
) -> None:
    browser_of("admin").post("/machines/a1/do", HOLD)
    (name,) = (h["metadata"]["name"] for h in storage_for("holds").page(ListQuery()).objects)
    assert browser_of("oper-b").post("/safety/do", {"verb": "release", "hold": name}).status_code == 403
    assert browser_of("oper-a").post("/safety/do", {"verb": "release", "hold": name}).status_code == 303
    assert _held() == []


def test_releasing_what_nobody_holds_says_so(small_fleet: list[str], browser_of: Browser) -> None:
    response = browser_of("oper-a").post("/machines/a1/do", {"verb": "release"})
    assert response.status_code == 400
    assert "no hold names a1" in response.content.decode()


@pytest.mark.parametrize(
    "form",
    [
        {"annotation": "fleet.dev/resume-rollout", "value": "4961c15e30dfbdba"},
        {"annotation": "fleet.dev/accept-diff", "value": "../../etc"},
        {"annotation": "fleet.dev/accept-diff", "value": ""},
    ],
)
def test_a_word_is_given_for_a_hash_only(small_fleet: list[str], browser_of: Browser, form: dict[str, str]) -> None:
    response = browser_of("admin").post("/machines/a1/do", {"verb": "confirm"} | form)
    assert response.status_code == 400
    assert "a hash that Fleet shows" in response.content.decode()


def test_every_page_forbids_inline_code_and_has_one_heading(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    for path in ("/", "/clusters", "/clusters/a", "/machines", "/machines/a1/why", "/packages", "/safety", "/kit"):
        response = client.get(path)
        text = response.content.decode()
        assert "default-src 'none'" in response["Content-Security-Policy"], path
        assert "unsafe" not in response["Content-Security-Policy"], path
        assert " style=" not in text, path
        assert " onclick=" not in text, path
        assert text.count("<h1") == 1, path


def test_five_wrong_passwords_lock_the_user_with_a_sentence(people: People) -> None:
    user = get_user_model().objects.get(username="viewer")
    user.set_password("correct-horse-battery")
    user.save()
    client = Client()
    wrong = {"username": "viewer", "password": "wrong"}
    answers = [client.post("/login", wrong, REMOTE_ADDR="10.1.1.1") for _ in range(5)]
    assert "User or password is wrong." in answers[0].content.decode()
    assert answers[-1].status_code == 429
    assert "Too many wrong passwords" in answers[-1].content.decode()
    right = {"username": "viewer", "password": "correct-horse-battery"}
    assert client.post("/login", right, REMOTE_ADDR="10.1.1.1").status_code == 429
    assert client.post("/login", right, REMOTE_ADDR="10.1.1.2").status_code == 302


def test_what_a_change_of_versions_would_do_is_told_and_nothing_is_done(
    small_fleet: list[str], browser_of: Browser
) -> None:
    before = storage_for("machines").read("a1")
    assert before is not None
    shown = before.obj["metadata"]["resourceVersion"]
    client = browser_of("oper-a")

    def told(lines: str, version: str = shown) -> Any:
        form = {"versions": lines, "resourceVersion": version}
        response = client.post("/machines/a1/foresee", form)
        assert response.status_code == 200
        return response.json()

    assert told("pouch = 9.9")["plan"][0].startswith("No plan: ")
    assert told("pouch = 1.0") == {"plan": [], "why": ""}
    assert told("pouch")["why"] == "“pouch” is no line of the form package = version."
    assert "has been modified" in told("pouch = 9.9", "1")["why"]
    assert storage_for("machines").read("a1") == before


@pytest.mark.parametrize(
    ("who", "path", "code"), [("viewer", "a1", 403), ("oper-b", "a1", 403), ("admin", "nobody", 404)]
)
def test_a_plan_is_told_to_who_may_make_the_change(
    small_fleet: list[str], browser_of: Browser, who: str, path: str, code: int
) -> None:
    response = browser_of(who).post(f"/machines/{path}/foresee", {"versions": "pouch = 2"})
    assert response.status_code == code
    assert response.json()["why"]
