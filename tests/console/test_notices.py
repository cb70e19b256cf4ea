"""Notices: who may takes one, everybody sees who did, and the overview counts those that nobody took."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from fleet.api.models import RoleBinding
from tests.console.test_safety import sql, trip

Browser = Callable[[str], Client]


@pytest.fixture
def told(small_fleet: list[str]) -> int:
    """The breaker of cluster a is open, and people are told so; the number of the notice."""
    trip()
    sql("SELECT notice_turn()")
    return int(sql("SELECT id FROM notice WHERE cluster = 'a'")[0][0])


def page(client: Client) -> str:
    text = client.get("/safety").content.decode()
    return text[text.index('id="s-notices"') : text.index('id="s-breakers"')]


def test_a_notice_stands_on_the_page_until_somebody_takes_it(told: int, browser_of: Browser) -> None:
    client = browser_of("oper-a")
    assert "The breaker of cluster a is open" in page(client)
    assert f'form="f-acknowledge" name="notice" value="{told}"' in page(client)
    assert "1 waits for somebody" in page(client)
    done = client.post("/safety/do", {"verb": "acknowledge", "notice": str(told)}, follow=True).content.decode()
    assert "you took it, and it is not told again." in done
    assert "<b>oper-a</b> took it" in page(browser_of("viewer")) and "0 wait for somebody" in page(client)
    assert sql("SELECT actor, verb, kind FROM audit WHERE kind = 'Notice'") == [("oper-a", "acknowledge", "Notice")]


def test_an_approver_who_may_not_write_takes_one_too(told: int, browser_of: Browser) -> None:
    user = get_user_model().objects.create_user(username="anna", password=None)
    RoleBinding.objects.create(user=user, role="approver", cluster="a")
    assert browser_of("anna").post("/safety/do", {"verb": "acknowledge", "notice": str(told)}).status_code == 303


def test_who_only_looks_is_told_whose_it_is(told: int, browser_of: Browser) -> None:
    text = page(browser_of("viewer"))
    assert (
        "Nobody took it yet." in text and "An operator or approver takes one." in text and "f-acknowledge" not in text
    )
    assert browser_of("viewer").post("/safety/do", {"verb": "acknowledge", "notice": str(told)}).status_code == 403
    assert 'id="s-notices" hidden' in browser_of("oper-b").get("/safety").content.decode()


@pytest.mark.parametrize(("number", "code"), [("999", 404), ("x", 400), ("", 400), ("9" * 30, 400)])
def test_a_notice_that_is_not_there_is_a_sentence(told: int, browser_of: Browser, number: str, code: int) -> None:
    assert browser_of("admin").post("/safety/do", {"verb": "acknowledge", "notice": number}).status_code == code


def test_a_second_one_is_told_who_was_first(told: int, browser_of: Browser) -> None:
    form = {"verb": "acknowledge", "notice": str(told)}
    browser_of("oper-a").post("/safety/do", form)
    answer = browser_of("admin").post("/safety/do", form)
    assert answer.status_code == 409 and "was acknowledged by oper-a already" in answer.content.decode()


def test_the_overview_counts_what_nobody_took(told: int, browser_of: Browser) -> None:
    assert '<a href="/safety#s-notices">1 notice</a> nobody took' in browser_of("oper-a").get("/").content.decode()
    assert "nobody took" not in browser_of("oper-b").get("/").content.decode()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE notice SET acked_at = now(), acked_by = 'x'")
    assert "nobody took" not in browser_of("admin").get("/").content.decode()
