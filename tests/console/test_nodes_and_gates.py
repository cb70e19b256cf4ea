"""Nodes and gates: counted by set, listed by the index of their cluster, and what a machine waits for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.template.loader import render_to_string
from django.test import Client
from django.test.utils import CaptureQueriesContext

from clusters.models import Cluster
from fleet.console import gates, nodes
from fleet.console.queries import rows
from fleet.control.kinds import Json

Browser = Callable[[str], Client]
BUDGET = 12


def status(name: str, **fields: Any) -> int:
    """Give a cluster a provider and these fields of its status; its id."""
    row = Cluster.objects.get(name=name)
    spec = row.spec | {"provider": "Imported", "kubeconfigCredential": "k"}
    Cluster.objects.filter(pk=row.pk).update(spec=spec, status=row.status | fields)
    return int(row.pk)


def node(cluster_id: int, name: str, machine: str = "", *, cordoned: bool = False, closed_by: str = "") -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO node (cluster_id, name, machine_id, unschedulable, closed_by, internal_ip, kubelet_version, created_at)
               VALUES (%s, %s, (SELECT id FROM machine WHERE name = %s), %s, %s, '10.9.0.7', 'v1.37.2', now())""",
            [cluster_id, name, machine, cordoned, closed_by],
        )


def report(machine: str, **conditions: str) -> None:
    """Conditions of a node or a reporter, packed as the watcher packs them."""
    with connection.cursor() as cursor:
        for type_, state in conditions.items():
            cursor.execute(
                "INSERT INTO condition_kind (bit, type, status, reason) VALUES (%s, %s, %s, 'Test') ON CONFLICT DO NOTHING",
                [0 if type_ == "NodeReady" else None, type_, state],
            )
            column = "x_cond" if type_ == "DiskHealthy" else "k_cond"
            cursor.execute(
                f"UPDATE machine_state SET {column} = {column} || (SELECT id::bigint << 32 FROM condition_kind WHERE type = %s AND status = %s AND reason = 'Test') WHERE name = %s",
                [type_, state, machine],
            )


@pytest.fixture
def cluster_id(small_fleet: list[str]) -> int:
    """Cluster a with two declared nodes, 22 undeclared, one cordoned by a person and one closed by Fleet."""
    counts = {"total": 24, "ready": 1, "open": 22, "unknown": 0, "undeclared": 22}
    found = status("a", nodes=counts)
    node(found, "a1", "a1", cordoned=True)
    node(found, "a2", "a2", cordoned=True, closed_by="fleet")
    for n in range(22):
        node(found, f"stray-{n:02}")
    report("a1", NodeReady="True", MemoryPressure="False", DiskHealthy="True")
    report("a2", NodeReady="False", MemoryPressure="False")
    other = status("b", nodes={"total": 1, "undeclared": 0})
    node(other, "b1", "b1")
    report("b1", NodeReady="True", MemoryPressure="True")
    return found


def test_conditions_are_counted_over_the_declared_nodes_of_one_cluster(cluster_id: int) -> None:
    assert nodes.reported(cluster_id, 2, {"NodeReady": True, "MemoryPressure": False}) == [
        nodes.Reported("NodeReady", 1, 1, 0, True),
        nodes.Reported("DiskHealthy", 1, 0, 1),
        nodes.Reported("MemoryPressure", 0, 2, 0, False),
    ]


@pytest.mark.parametrize(
    ("good", "parts"),
    [
        (True, [("s-open", "True", 3), ("s-repair", "False", 2), ("s-unknown", "no news", 1)]),
        (False, [("s-open", "False", 2), ("s-repair", "True", 3), ("s-unknown", "no news", 1)]),
        (None, [("s-true", "True", 3), ("s-false", "False", 2), ("s-unknown", "no news", 1)]),
    ],
)
def test_colour_is_status_only_where_it_is_known_what_is_good(
    good: bool | None, parts: list[tuple[str, str, int]]
) -> None:
    assert [(p.swatch, p.word, p.n) for p in nodes.Reported("X", 3, 2, 1, good).parts] == parts


def test_no_page_reads_the_states_of_the_whole_fleet_for_one_cluster(cluster_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO machine_state (id, name, cluster_id) SELECT 9000000 + i, 'n' || i, 9000 + i % 10 FROM generate_series(1, 20000) i")  # fmt: skip
        cursor.execute("INSERT INTO node (cluster_id, name, machine_id) SELECT cluster_id, name, id FROM machine_state WHERE id > 9000000")  # fmt: skip
        cursor.execute("ANALYZE node; ANALYZE machine_state")
    plan = "\n".join(r["QUERY PLAN"] for r in rows(f"EXPLAIN {nodes._REPORTED}", [9003]))
    assert "Index Scan using machine_state_pkey" in plan, plan
    assert "Seq Scan on" not in plan.replace("Seq Scan on condition_kind", ""), plan


def test_the_page_of_a_cluster_tells_its_nodes_within_its_budget(cluster_id: int, browser_of: Browser) -> None:
    client = browser_of("admin")
    client.get("/clusters/a")
    with CaptureQueriesContext(connection) as queries:
        text = client.get("/clusters/a").content.decode()
    assert len(queries) <= BUDGET, [q["sql"][:120] for q in queries.captured_queries]
    assert "stray-19" in text
    assert "stray-20" not in text
    assert '/clusters/a/nodes?which=undeclared">2 more' in text
    assert "shown, never touched" in text
    cordoned = text[text.index("Cordoned by a person") : text.index("Undeclared</a>")]
    assert ">a1<" in cordoned
    assert ">a2<" not in cordoned


def test_all_nodes_of_a_kind_stand_on_a_page_of_their_own(
    cluster_id: int, browser_of: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = browser_of("oper-a")
    with CaptureQueriesContext(connection) as queries:
        text = client.get("/clusters/a/nodes").content.decode()
    assert len(queries) <= BUDGET
    assert "stray-21" in text
    assert "Next 100" not in text
    monkeypatch.setattr(nodes, "PAGE", 20)
    first = client.get("/clusters/a/nodes?which=undeclared").content.decode()
    assert "which=undeclared&amp;after=stray-19" in first
    assert "stray-20" not in first
    second = client.get("/clusters/a/nodes?which=undeclared&after=stray-19").content.decode()
    assert "stray-20" in second and "stray-19" not in second.split("<tbody")[1]
    people = client.get("/clusters/a/nodes?which=cordoned").content.decode()
    assert "/machines/a1/why" in people
    assert "/machines/a2/why" not in people


def test_nodes_of_another_cluster_and_of_another_kind_are_refused(cluster_id: int, browser_of: Browser) -> None:
    assert browser_of("oper-b").get("/clusters/a/nodes").status_code == 403
    assert browser_of("admin").get("/clusters/nobody/nodes").status_code == 404
    assert browser_of("admin").get("/clusters/a/nodes?which=x' OR true").status_code == 404
    assert browser_of("admin").get("/clusters/a/nodes?after=%00").status_code == 200


def test_plain_hosts_have_neither_nodes_nor_gates(small_fleet: list[str], browser_of: Browser) -> None:
    text = browser_of("admin").get("/clusters/a").content.decode()
    assert '<section class="panel" id="c-nodes" hidden></section>' in text
    assert '<section class="panel" id="c-gates" hidden></section>' in text


GATES = [
    {"conditionType": "NodeReady", "polarity": "RequireTrue", "mode": "Continuous", "source": "cluster a", "held": 0, "released": 24, "unknown": 0},
    {"conditionType": "KernelDeadlock", "polarity": "ForbidTrue", "mode": "BootstrapOnly", "source": "ReadinessRule gpu", "held": 3, "released": 20, "unknown": 1, "dryRun": True},
]  # fmt: skip


def test_gates_of_a_cluster_tell_what_they_hold(cluster_id: int, browser_of: Browser) -> None:
    status("a", gates=GATES)
    text = browser_of("viewer").get("/clusters/a").content.decode()
    panel = text[text.index('id="c-gates"') : text.index('id="c-layer"')]
    assert panel.index("KernelDeadlock") < panel.index("NodeReady")
    assert "must be False, counts until the node opens" in panel
    assert "must be True, also closes an open node" in panel
    assert "Only counts" in panel
    assert 'aria-label="KernelDeadlock: 20 released, 3 held, 1 no news"' in panel


def test_a_cluster_without_gates_says_so(cluster_id: int, browser_of: Browser) -> None:
    assert "No gate is declared" in browser_of("admin").get("/clusters/a").content.decode()
    row = Cluster.objects.get(name="a")
    Cluster.objects.filter(pk=row.pk).update(spec=row.spec | {"readinessGates": [{"conditionType": "NodeReady"}]})
    assert "1 gate is declared; how many nodes" in browser_of("admin").get("/clusters/a").content.decode()


WAITING: Json = {
    "readinessGates": [
        {"conditionType": "NodeReady", "polarity": "RequireTrue", "mode": "Continuous", "source": "cluster a", "status": "True", "reason": "KubeletReady", "message": "", "since": "2026-11-25T20:00:00Z", "owner": "watcher"},
        {"conditionType": "DiskHealthy", "polarity": "RequireTrue", "mode": "Continuous", "source": "cluster a", "status": "False", "reason": "Slow", "message": "disk sda is <slow>", "since": "2026-11-25T21:00:00Z", "owner": "reporter npd"},
        {"conditionType": "GpuReady", "polarity": "RequireTrue", "mode": "BootstrapOnly", "source": "ReadinessRule gpu", "status": "Unknown", "reason": "NotReported", "message": "", "since": "2026-11-25T22:00:00Z", "owner": "reporter gpu"},
    ],
    "scheduling": {"state": "Closed", "reason": "GateHolds", "message": "gate DiskHealthy does not hold", "since": "2026-11-25T21:00:05Z"},
}  # fmt: skip


def test_what_a_machine_waits_for_comes_first_with_owner_and_since() -> None:
    found = gates.of_machine({"status": WAITING})
    assert found is not None
    assert [(g.type, g.answer, g.said, g.owner) for g in found.gates] == [
        ("DiskHealthy", "no", "Disk sda is <slow>.", "reporter npd"),
        ("GpuReady", "unknown", "NotReported.", "reporter gpu"),
        ("NodeReady", "holds", "KubeletReady.", "watcher"),
    ]
    assert found.sentence == "Waits for 2 of 3 gates."
    assert (found.tone, found.word, found.message) == ("warn", "Closed by Fleet", "Gate DiskHealthy does not hold.")


@pytest.mark.parametrize(
    ("state", "tone", "word"),
    [
        ("Open", "ok", "Open for pods"),
        ("Closed", "warn", "Closed by Fleet"),
        ("CordonedByPerson", "held", "Cordoned by a person"),
        ("NotANode", "off", "No node"),
        ("Joining", "busy", "Joins the cluster"),
        ("Strange", "unknown", "Strange"),
    ],
)
def test_how_a_node_stands_is_said_in_a_word(state: str, tone: str, word: str) -> None:
    found = gates.of_machine({"status": {"scheduling": {"state": state}}})
    assert found is not None
    assert (found.tone, found.word, found.sentence) == (tone, word, "No gate is declared for it.")


@pytest.mark.parametrize("obj", [{}, {"status": {}}, {"status": {"readinessGates": [], "scheduling": {}}}])
def test_nothing_is_shown_of_what_is_not_known(obj: Json) -> None:
    assert gates.of_machine(obj) is None
    assert "<h2>" not in render_to_string("console/_machine_gates.html", {"waits": None})


def test_a_dry_gate_is_waited_for_by_nobody_and_comes_last() -> None:
    dry = {"conditionType": "Trial", "status": "False", "dryRun": True}
    found = gates.of_machine({"status": {**WAITING, "readinessGates": [dry, *WAITING["readinessGates"]]}})
    assert found is not None
    assert found.gates[-1].type == "Trial"
    assert found.sentence == "Waits for 2 of 3 gates. 1 more gate only counts."


def test_an_open_node_waits_for_nothing() -> None:
    found = gates.of_machine({"status": {**WAITING, "scheduling": {"state": "Open"}}})
    assert found is not None
    assert found.sentence == "2 of 3 gates do not hold now."


def test_the_page_of_a_machine_tells_what_it_waits_for(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("viewer")
    assert '<section class="panel" id="m-gates" hidden></section>' in client.get("/machines/a1").content.decode()
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO scheduling (machine_id, cluster_id, state, reason, message, gates)
               SELECT id, cluster_id, 'Closed', 'GateHolds', 'gate DiskHealthy does not hold', %s FROM machine WHERE name = 'a1'""",
            [json.dumps(WAITING["readinessGates"])],
        )
    text = client.get("/machines/a1").content.decode()
    panel = text[text.index('id="m-gates"') : text.index('id="m-why"')]
    assert "Gate DiskHealthy does not hold. Waits for 2 of 3 gates." in panel
    assert "Disk sda is &lt;slow&gt;." in panel
    assert "reporter npd" in panel
    assert text.count("Closed by Fleet") == 2  # the head says it too
