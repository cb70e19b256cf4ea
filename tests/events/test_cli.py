"""`fleetctl events`: look, publish, and see to what was set aside, in sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from fleet.cli import environment
from fleet.cli.__main__ import main
from tests.servers import People


class Ctl:
    """Runs a command in this process and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        self.capsys.readouterr()
        done = main(["events", *arguments])
        said = self.capsys.readouterr()
        assert done == code, said.out + said.err
        return said.err if code else said.out


@pytest.fixture
def ctl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, people: People, small_fleet: list[str]
) -> Ctl:
    wanted = connection.get_connection_params()
    url = f"postgresql://{wanted['user']}@/{connection.settings_dict['NAME']}?host={wanted['host']}"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("FLEET_USER", "olga")
    monkeypatch.setattr(environment.out, "_width", 200, raising=False)
    return Ctl(capsys)


def rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def test_a_fault_is_declared_and_found(ctl: Ctl) -> None:
    said = ctl(
        "publish", "dev.fleet.fault.declared", "--about", "machine/a1", "--data", "faultType=DiskFailure", "--message", "It clicks.", "--severity", "error",
    )  # fmt: skip
    assert "1 published" in said
    assert "It clicks." in ctl("list", "--machine", "a1", "--severity", "error", "--since", "5m")
    assert "It clicks." in ctl("list", "--text", "CLICKS", "--cluster", "a")
    assert "It clicks." not in ctl("list", "--cluster", "b")
    assert "It clicks." not in ctl("list", "--until", "5m")
    assert rows("SELECT data ->> 'by' FROM event WHERE source = '/fleetctl'") == [("olga",)]


def test_events_of_a_file_are_published_once(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "events.json"
    event = {"specversion": "1.0", "source": "/file", "type": "com.example.a", "subject": "a1"}
    file.write_text(json.dumps([{**event, "id": "1"}, {**event, "id": "2", "subject": "nobody"}]))
    assert "1 published, 0 known already, 1 set aside" in ctl("publish", "--file", str(file))
    assert "0 published, 2 known already" in ctl("publish", "--file", str(file))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["publish"], "say the TYPE of an event"),
        (["publish", "dev.fleet.machine.phase", "--about", "a1"], "types below dev.fleet. are Fleet's own"),
        (["publish", "dev.fleet.fault.declared", "--about", "a1"], "event.data.faultType is required"),
        (["publish", "x", "--data", "oops"], "write --data key=value"),
        (["publish", "--file", "/nowhere"], "cannot be read"),
        (["list", "--since", "yesterday"], "is no time"),
        (["list", "--severity", "loud"], "is no severity"),
        (["list", "--cluster", "nowhere"], "there is no cluster"),
        (["retry", "99"], "none of these waits"),
    ],
)
def test_what_cannot_be_done_is_told(arguments: list[str], sentence: str, ctl: Ctl) -> None:
    assert sentence in ctl(*arguments, code=1)


def test_what_was_set_aside_is_seen_tried_again_and_discarded(ctl: Ctl) -> None:
    for name in ("x", "y"):
        ctl("publish", "com.example.a", "--about", f"machine/{name}")
    said = ctl("dead-letters")
    assert "UnknownSubject" in said and "machine/x" in said and "ingest: 2 UnknownSubject" in said
    (first,), (second,) = rows("SELECT id FROM dead_letter ORDER BY id")
    assert "1 of 1 are tried again" in ctl("retry", str(first))
    assert "1 of 2 are gone" in ctl("discard", str(second), "99")
    assert rows("SELECT state FROM dead_letter") == [(1,)]
    assert rows("SELECT actor, verb FROM audit WHERE kind = 'DeadLetter' ORDER BY pos") == [
        ("olga", "retry"),
        ("olga", "discard"),
    ]
