"""ReadinessRules: what they select, what is refused, whom they wake, how they count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import yaml
from django.db import connection as django_connection
from django.test.utils import CaptureQueriesContext

from fleet.api.actions import Write, change_object, create_object, delete_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control.conditions import Condition
from fleet.control.db import Connection
from fleet.control.kinds import API_VERSION
from fleet.control.threads import in_thread
from machines import packing
from machines.catalog import catalog
from machines.rule_storage import refresh_rules
from machines.rules import NOT_GATES, Rule, matching, rule_of
from tests.machines.test_watch import cluster
from tests.machines.world import make, sql
from tests.servers import Kubectl

Json = dict[str, Any]
WRITE = Write(SYSTEM)
GPU = {"selector": {"matchLabels": {"pool": "gpu"}}}


def rule(name: str = "r", target: Any = None, **spec: Any) -> Json:
    body = {"conditionType": "GPUHealthy", "target": GPU if target is None else target, **spec}
    return {"apiVersion": API_VERSION, "kind": "ReadinessRule", "metadata": {"name": name}, "spec": body}


def create(*args: Any, **spec: Any) -> None:
    create_object("readinessrules", rule(*args, **spec), write=WRITE)


def status(name: str = "r") -> Json:
    stored = storage_for("readinessrules").read(name)
    assert stored is not None
    found: Json = stored.obj["status"]
    return found


def counted(name: str = "r") -> tuple[int, int, int, int]:
    """(machines, held, released, unknown)."""
    found = status(name)
    return found["machines"], found["held"], found["released"], found["unknown"]


def effective(name: str = "r") -> tuple[str, str]:
    found = status(name)["conditions"][0]
    return found["status"], found["reason"]


def labelled(count: int, **labels: str) -> list[int]:
    """Machines with these labels, resting."""
    ids = make(count)
    sql("UPDATE machine SET labels = jsonb_build_object('pool', 'gpu') || %s::jsonb", orjson.dumps(labels).decode())
    sql("UPDATE work_item SET due_at = now() + interval '1 day', resting = true")
    return ids


def due() -> list[str]:
    found = sql("SELECT s.name FROM work_item w JOIN machine_state s ON s.id = w.object_id WHERE w.due_at <= now() ORDER BY 1")  # fmt: skip
    return [row[0] for row in found]


# -- the pure part ----------------------------------------------------------------------------------------------------

ALL = Rule("z-all", "A", match_all=True)
IN_A = Rule("a", "A", clusters=frozenset({"a"}))
OF_GPUS = Rule("gpus", "A", labels=(("pool", "gpu"), ("site", "x")))
NOBODY = Rule("nobody", "A")


@pytest.mark.parametrize(
    ("of", "labels", "names"),
    [
        ("a", {}, ["a", "z-all"]),
        ("b", {"pool": "gpu", "site": "x", "more": "y"}, ["gpus", "z-all"]),
        ("b", {"pool": "gpu"}, ["z-all"]),
        ("", {}, ["z-all"]),
    ],
    ids=["by cluster", "by all labels", "one label is missing", "outside every cluster"],
)
def test_rules_cover_machines_in_order_of_name(of: str, labels: dict[str, str], names: list[str]) -> None:
    assert [r.name for r in matching((ALL, OF_GPUS, NOBODY, IN_A), of, labels)] == names


@pytest.mark.parametrize("target", [{}, {"clusters": []}, {"selector": {"matchLabels": {}}}, {"selector": {}}, {"matchAll": None}, None], ids=str)  # fmt: skip
def test_a_stored_rule_without_a_target_covers_nothing(target: Any) -> None:
    assert not rule_of("r", {"conditionType": "A", "target": target}).covers("a", {"pool": "gpu"})


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize(
    "target",
    [
        {},
        {"clusters": []},
        {"clusters": None},
        {"clusters": [""]},
        {"selector": None},
        {"selector": {}},
        {"selector": {"matchLabels": {}}},
        {"matchAll": False},
        {"matchAll": True, "clusters": ["a"]},
        {"cluster": "a"},
    ],
    ids=str,
)
def test_an_empty_or_null_selector_is_refused_and_never_means_everything(target: Json) -> None:
    with pytest.raises(ApiError) as refused:
        create("r", target)
    assert refused.value.code in (400, 422)
    assert "spec.target" in str(refused.value)


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize("type_", sorted(NOT_GATES))
def test_what_follows_from_gates_is_no_gate(type_: str) -> None:
    with pytest.raises(ApiError) as refused:
        create(conditionType=type_)
    assert refused.value.code == 422
    assert NOT_GATES[type_] in str(refused.value)


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize("type_", ["UpToDate", "HostHealthy", "NodeReady", "daemonset/net/cilium"])
def test_what_fleet_itself_finds_out_may_be_a_gate(type_: str) -> None:
    create(conditionType=type_)
    assert status()["machines"] == 0


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize("spec", [{"target": {"matchAll": True}}, {"conditionType": "B"}], ids=str)
def test_what_a_rule_asks_of_whom_never_changes(spec: Json) -> None:
    create()
    with pytest.raises(ApiError) as refused:
        change_object("readinessrules", "r", lambda o: {**o, "spec": o["spec"] | spec}, write=WRITE, verb="update")
    assert "never changes" in str(refused.value)


# -- whom it wakes ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fleet_db")
def test_a_new_a_changed_and_a_deleted_rule_wake_the_machines_that_it_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machines.rule_storage.CHUNK", 2)  # as many chunks as a large fleet has
    ids = labelled(5)
    sql("UPDATE machine SET labels = '{}' WHERE id = %s", ids[0])
    rest = "UPDATE work_item SET due_at = now() + interval '1 day'"
    covered = [f"m-{n:04}" for n in range(1, 5)]
    create()
    assert due() == covered
    sql(rest)
    change_object("readinessrules", "r", lambda o: {**o, "spec": o["spec"] | {"dryRun": True}}, write=WRITE, verb="update")  # fmt: skip
    assert due() == covered
    sql(rest)
    delete_object("readinessrules", "r", write=WRITE)
    assert due() == covered


@pytest.mark.usefixtures("fleet_db")
async def test_passes_read_the_rules_with_the_other_shared_objects(conn: Connection) -> None:
    assert (await catalog(conn)).rules == ()
    await in_thread(lambda: create("b", {"clusters": ["x"]}, mode="BootstrapOnly", ttlSeconds=60))
    await in_thread(lambda: create("a", polarity="ForbidTrue", dryRun=True))
    wanted = (
        Rule("a", "GPUHealthy", polarity="ForbidTrue", dry_run=True, labels=(("pool", "gpu"),)),
        Rule("b", "GPUHealthy", mode="BootstrapOnly", ttl_seconds=60, clusters=frozenset({"x"})),
    )
    assert (await catalog(conn)).rules == wanted
    await in_thread(lambda: delete_object("readinessrules", "a", write=WRITE))
    assert (await catalog(conn)).rules == wanted[1:]


# -- how it counts ----------------------------------------------------------------------------------------------------


async def say(conn: Connection, column: str, answers: dict[int, str], type_: str = "GPUHealthy") -> None:
    """Put conditions on machines as watcher and reporters do."""
    for machine, answer in answers.items():
        one = [Condition(type_, answer, "Said")]  # type: ignore[arg-type]
        await packing.ensure_entries(conn, one)
        packed = packing.pack(one, [], datetime.now(UTC))
        sql(f"UPDATE machine_state SET {column} = %s, cond_true = cond_true | %s, cond_false = cond_false | %s WHERE id = %s", packed.array, packed.true, packed.false, machine)  # fmt: skip


@pytest.mark.parametrize(
    ("column", "type_"), [("k_cond", "GPUHealthy"), ("x_cond", "GPUHealthy"), ("m_cond", "HostHealthy")]
)
async def test_held_released_and_unknown_are_counted_by_what_conditions_say(
    conn: Connection, column: str, type_: str
) -> None:
    ids = labelled(5)
    await say(conn, column, {ids[0]: "True", ids[1]: "True", ids[2]: "False", ids[3]: "Unknown"}, type_)
    await in_thread(lambda: create("r", conditionType=type_))
    await in_thread(lambda: create("f", conditionType=type_, polarity="ForbidTrue"))
    assert (await in_thread(counted), await in_thread(lambda: counted("f"))) == ((5, 1, 2, 2), (5, 2, 1, 2))


async def test_a_rule_for_the_bootstrap_asks_no_open_node(conn: Connection) -> None:
    ids = labelled(3)
    await say(conn, "x_cond", {ids[0]: "False", ids[1]: "False"})
    sql("UPDATE machine_state SET is_node = true, open = id <> %s", ids[1])
    await in_thread(lambda: create(mode="BootstrapOnly"))
    assert await in_thread(counted) == (3, 1, 2, 0)


async def test_an_old_report_counts_as_unknown_where_a_ttl_is_set(conn: Connection) -> None:
    ids = labelled(2)
    await say(conn, "x_cond", {ids[0]: "True", ids[1]: "True"})
    for id_, age in ((ids[0], 100), (ids[1], 10)):
        sql("INSERT INTO report (machine_id, cluster_id, type, status, source, received_at) VALUES (%s, 0, 'GPUHealthy', 'True', 'x', now() - %s * interval '1 s')", id_, age)  # fmt: skip
    await in_thread(lambda: create(ttlSeconds=60, dryRun=True))
    assert await in_thread(counted) == (2, 0, 1, 1)


@pytest.mark.usefixtures("fleet_db")
def test_a_rule_says_whether_it_guards_anything() -> None:
    create("nobody", {"clusters": ["typo"]})
    labelled(2)
    create("dry", dryRun=True)
    create("all", {"matchAll": True})
    cluster("c1")
    create("empty", {"clusters": ["c1"]})
    assert {n: effective(n) for n in ("nobody", "dry", "all", "empty")} == {
        "nobody": ("False", "MatchesNothing"),
        "dry": ("False", "DryRun"),
        "all": ("True", "InForce"),
        "empty": ("False", "MatchesNothing"),
    }


@pytest.mark.usefixtures("fleet_db")
def test_counts_follow_the_machines_with_a_number_of_statements_that_does_not() -> None:
    create()

    def statements() -> int:
        with CaptureQueriesContext(django_connection) as seen:
            refresh_rules()
        return len(seen)

    labelled(1)
    few = statements()
    sql("DELETE FROM machine_state; DELETE FROM machine")
    labelled(300)
    assert (statements(), counted()) == (few, (300, 0, 0, 300))


# -- by kubectl -------------------------------------------------------------------------------------------------------


def test_kubectl_makes_shows_changes_and_deletes_a_rule(kubectl: Kubectl, small_fleet: list[str]) -> None:
    text = yaml.safe_dump(rule("gpus", {"clusters": ["a"]}, dryRun=True))
    assert "created" in kubectl("apply", "-f", "-", stdin=text).stdout
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=text).stdout
    header, line = kubectl("get", "rrule").stdout.splitlines()
    assert header.split()[:8] == ["NAME", "CONDITION", "POLARITY", "MODE", "TARGET", "HELD", "RELEASED", "UNKNOWN"]
    assert line.split()[:8] == ["gpus", "GPUHealthy", "RequireTrue", "Continuous", "cluster/a", "0", "0", "2"]
    in_force = text.replace("dryRun: true", "dryRun: false")
    assert (
        "serverside-applied" in kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=in_force).stdout
    )
    assert "condition met" in kubectl("wait", "rrule/gpus", "--for=condition=Effective", "--timeout=20s").stdout
    assert "InForce" in kubectl("describe", "rrule", "gpus").stdout
    for target in ("{}", "{matchAll: false}", "{clusters: []}", "{selector: {matchLabels: {}}}"):
        bad = text.replace("name: gpus", "name: bad").replace(
            "target:\n    clusters:\n    - a\n", f"target: {target}\n"
        )
        refused = kubectl("apply", "-f", "-", stdin=bad, ok=False)
        assert (refused.returncode, "spec.target" in refused.stderr) == (1, True), refused.stderr
    assert "exactly one of" in " ".join(kubectl("explain", "rrule.spec.target").stdout.lower().split())
    assert "deleted" in kubectl("delete", "rrule", "gpus").stdout
    assert kubectl("get", "readinessrules", "-o", "name").stdout == ""
