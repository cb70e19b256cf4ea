"""fleetctl: stops and resumes with nothing but the database, answers people in sentences, writes down who did what."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection

from fleet.api.authentication import token_is_good
from fleet.api.models import RoleBinding
from fleet.cli import environment
from fleet.cli.__main__ import main
from fleet.safety import switch
from simulator import faults
from simulator.demo import seed_demo

pytestmark = pytest.mark.usefixtures("fleet_db", "database")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> str:
    """DATABASE_URL as a shell would have it."""
    wanted = connection.get_connection_params()
    url = f"postgresql://{wanted['user']}@/{connection.settings_dict['NAME']}?host={wanted['host']}"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("FLEET_USER", "olga")
    return url


class Ctl:
    """Runs a command in this process and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        self.capsys.readouterr()
        done = main(arguments)
        said = self.capsys.readouterr()
        assert done == code, said.out + said.err
        assert "Traceback" not in said.err
        return said.err if code else said.out


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ctl:
    monkeypatch.setattr(environment.out, "_width", 200, raising=False)
    return Ctl(capsys)


def rows(sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall()) if cursor.description else []


def test_stop_and_resume_need_nothing_but_the_database(database: str) -> None:
    bare = {"DATABASE_URL": database, "PATH": os.environ["PATH"], "FLEET_USER": "olga"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "fleetctl", *arguments], env=bare, cwd="/", capture_output=True, text=True, timeout=30, check=False
        )

    stopped = run("stop", "--why", "power failure")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert switch.state().why == "power failure"
    assert "STOPPED" in run("status").stdout
    assert run("resume").returncode == 0
    assert not switch.state().stopped
    assert rows("SELECT actor, verb FROM audit ORDER BY pos") == [("olga", "stop"), ("olga", "resume")]


def test_stopping_twice_names_who_was_first(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    ctl("stop", "--why", "fire")
    monkeypatch.setenv("FLEET_USER", "pavel")
    assert "by olga: fire" in ctl("stop", "--why", "me too")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stop"], "Missing option '--why'"),
        (["stop", "--why", " "], "Say why"),
        (["dance"], "No such command 'dance'"),
        (["why", "cluster/a"], "write machine/NAME"),
        (["why", "machine/none"], "no machine named 'none'"),
        (["diff", "none"], "no machine named 'none'"),
        (["token", "create", "--user", "none", "--name", "x"], "there is no user 'none'"),
        (["token", "revoke", "fleet_"], "no good token begins"),
        (["role", "grant", "none", "king"], "'king' is no role"),
        (["hold", "all", "--why", "x"], "'all' is no target"),
        (["hold", "machine/a", "--why", "x", "--for", "soon"], "no span of time"),
        (["hold", "everything", "--why", "x", "--for", "31d"], "more than 30 days"),
        (["release", "none"], "not found"),
        (["faults", "inject", "gremlin", "--all"], "no fault 'gremlin'"),
        (["faults", "inject", "hang"], "Name machines"),
        (["faults", "inject", "hang", "--machine", "none"], "no simulated machine named none"),
        (["faults", "weather", "7"], "between 0 and 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_a_sentence(ctl: Ctl, arguments: list[str], words: str) -> None:
    said = ctl(*arguments, code=2 if words.startswith(("Missing", "No such")) else 1)
    assert words in said


def test_a_database_that_is_not_there_is_said_in_a_sentence(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://fleet@/fleet?host={tmp_path}")
    assert "the database does not answer" in ctl("status", code=1)
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    assert "DATABASE_URL is not set" in ctl("stop", "--why", "fire", code=1)


def test_tokens_are_made_listed_and_revoked_and_each_is_written_down(ctl: Ctl) -> None:
    ctl("user", "create", "robot", "--robot")
    text = ctl("token", "create", "--user", "robot", "--name", "ci", "--days", "1").strip()
    assert token_is_good(text)
    listed = ctl("token", "list")
    assert text[:12] in listed
    assert text not in listed
    ctl("token", "revoke", text[:12])
    assert not token_is_good(text)
    assert "revoked" in ctl("token", "list")
    assert [row[0] for row in rows("SELECT kind || ' ' || verb FROM audit ORDER BY pos")] == [
        "User create",
        "Token create",
        "Token revoke",
    ]
    assert text not in str(rows("SELECT * FROM audit"))


def test_a_password_comes_by_a_pipe_and_a_weak_one_is_refused(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe = tmp_path / "password"
    for password, code in (("short", 1), ("a long enough sentence", 0)):
        pipe.write_text(password + "\n")
        with pipe.open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            ctl("user", "create", "vera", code=code)
    assert get_user_model().objects.get(username="vera").check_password("a long enough sentence")


def test_roles_are_given_and_taken(ctl: Ctl) -> None:
    ctl("user", "create", "robot", "--robot")
    ctl("role", "grant", "robot", "operator")
    assert "no cluster 'x'" in ctl("role", "grant", "robot", "operator", "--cluster", "x", code=1)
    assert list(RoleBinding.objects.values_list("role", "cluster")) == [("operator", "")]
    ctl("role", "revoke", "robot", "operator")
    assert "is not operator" in ctl("role", "revoke", "robot", "operator", code=1)


def test_the_audit_trail_is_verified_and_a_changed_row_is_found(ctl: Ctl) -> None:
    ctl("stop", "--why", "fire")
    ctl("resume")
    assert "2 rows, unbroken" in ctl("audit", "verify")
    rows("SET session_replication_role = replica")
    rows("UPDATE audit SET actor = 'nobody' WHERE verb = 'stop'")
    rows("SET session_replication_role = DEFAULT")
    assert "tampered" in ctl("audit", "verify", code=1)


def test_status_shows_clusters_budgets_and_refusals(ctl: Ctl) -> None:
    seed_demo(clusters=1, machines=40)
    rows("UPDATE capacity SET in_service = true, down = machine_id - (SELECT min(machine_id) FROM capacity) < 2")
    rows(
        "SELECT * FROM permit_batch('Reboot', false, 'op', '1 minute', ARRAY(SELECT machine_id FROM capacity WHERE NOT down))"
    )
    said = ctl("status")
    assert re.search(r"iad1-web +Pending 40 +40 +2 +1", said)
    assert "refused, ClusterBudget: 38 machines. In cluster iad1-web 2 of 40 machines are unavailable" in said
    assert "loop: 40 due" in said


def test_a_hold_is_made_and_released(ctl: Ctl) -> None:
    seed_demo(clusters=1, machines=3)
    assert "hold/mine until" in ctl("hold", "machine/iad1-r01-u01", "--why", "disk", "--for", "90m", "--name", "mine")
    assert rows("SELECT spec ->> 'owner', status ->> 'phase' FROM safety_hold") == [("olga", "Effective")]
    ctl("release", "hold/mine")
    assert rows("SELECT count(*) FROM safety_hold") == [(0,)]


def test_faults_are_put_on_listed_and_cleared(ctl: Ctl) -> None:
    seed_demo(clusters=1, machines=3)
    faults.set_weather(0)
    assert "hang: takes the command and never answers, on 1 machine." in ctl(
        "faults", "inject", "hang", "--machine", "machine/iad1-r01-u02"
    )
    assert re.search(r"iad1-r01-u02 +hang", ctl("faults", "list"))
    ctl("faults", "clear", "--cluster", "iad1-web")
    assert "hang" not in ctl("faults", "list")
    ctl("faults", "weather", "0.5")
    assert rows("SELECT rate FROM simulated_weather") == [(0.5,)]


def test_a_restored_database_acts_on_nothing_of_before(ctl: Ctl) -> None:
    seed_demo(clusters=1, machines=3)
    rows("SELECT * FROM permit_batch('Reload', false, 'op', '1 hour', ARRAY(SELECT id FROM machine))")
    rows("UPDATE work_item SET holder = 7, due_at = now() + interval '1 minute' WHERE kind = 1")
    [(epochs, horizon)] = rows("SELECT sum(epoch), fleet_horizon() FROM work_item WHERE kind = 1")
    said = ctl("restored", "--yes", "--why", "disk failure, backup of Monday")
    assert "Incarnation 2" in said
    assert rows("SELECT incarnation FROM installation") == [(2,)]
    assert rows("SELECT count(*), sum(epoch) FROM work_item WHERE kind = 1 AND holder IS NULL AND due_at <= now()") == [
        (3, epochs + 3)
    ]
    assert rows("SELECT count(*) FROM permit WHERE expires_at > now()") == [(0,)]
    assert rows("SELECT fleet_horizon() > %s", horizon) == [(True,)]
    assert rows(
        "SELECT ok, reason FROM permit_batch('Reload', false, 'op', '1 hour', ARRAY(SELECT min(id) FROM machine))"
    ) == [(False, "Held")]


def test_what_differs_on_a_machine_is_shown(ctl: Ctl) -> None:
    seed_demo(clusters=1, machines=1)
    rows(
        """UPDATE machine_fact SET plan = '{"diffs": [{"kind": "file", "name": "/etc/a", "wanted": "sha256 1", "seen": "sha256 2", "disruption": "Reload", "diff": "-a\n+b"}]}'""".replace(
            "\n", "\\n"
        )
    )
    said = ctl("diff", "machine/iad1-r01-u01")
    assert "file /etc/a: wanted sha256 1, seen sha256 2 (disruption Reload)\n-a\n+b" in said


def test_why_answers_each_question_with_its_rungs(ctl: Ctl) -> None:
    seed_demo(clusters=1, machines=1)
    said = ctl("why", "machine/iad1-r01-u01")
    assert "Why is iad1-r01-u01 not at its final state?" in said
    assert re.search(r"^  (yes|NO|\?|-) +\S", said, re.MULTILINE)


def test_why_asks_the_ledger_too_and_grants_nothing(ctl: Ctl) -> None:
    seed_demo(clusters=1, machines=40)
    rows("UPDATE capacity SET in_service = true, down = machine_id - (SELECT min(machine_id) FROM capacity) = 1")
    said = ctl("why", "machine/iad1-r01-u01", "--verb", "Drain")
    assert "May Drain begin on iad1-r01-u01 now?" in said
    assert "  yes The kill switch is off" in said
    assert "  NO  The budget in cluster iad1-web has room  In cluster iad1-web 1 of 40 machines is unavailable" in said
    assert "now, as a repair?" in ctl("why", "machine/iad1-r01-u01", "--repair")
    assert rows("SELECT count(*) FROM permit") == [(0,)]


def test_safety_shows_breakers_budgets_notices_and_a_reset_is_a_word_of_people(ctl: Ctl) -> None:
    seed_demo(clusters=1, machines=40)
    rows("UPDATE capacity SET in_service = true, down = false")
    rows("SELECT breaker_trip('cluster', id::int, 'Pods cannot be created.') FROM clusters_cluster")
    rows("SELECT notice_turn()")
    said = ctl("safety")
    assert re.search(r"cluster/iad1-web +open +0 +8", said)
    assert "cluster/iad1-web is open: Pods cannot be created. It lets one through after " in said
    assert re.search(r"cluster/iad1-web +40 +0 +1 +1", said)
    assert (
        "page: The breaker of cluster iad1-web is open: Pods cannot be created. Take it: fleetctl acknowledge 1" in said
    )
    assert "Yours: The breaker of cluster iad1-web is open" in ctl("acknowledge", "1")
    assert "is half-open" not in said
    assert "cluster/iad1-web: half-open." in ctl("breaker", "reset", "cluster/iad1-web")
    assert "There is no breaker cluster/typo" in ctl("breaker", "reset", "cluster/typo", code=1)
    assert rows("SELECT actor, verb, name FROM audit WHERE kind IN ('Breaker', 'Notice') ORDER BY pos") == [
        ("olga", "acknowledge", "1"),
        ("olga", "reset", "cluster/iad1-web"),
    ]
