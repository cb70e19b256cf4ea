"""A person opens the console in the middle of a storm: 20,000 nodes of one cluster have gone not ready."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from fleet.control import db
from fleet.control.conditions import Condition
from machines.watch.ingest import Observed, write_conditions
from machines.watch.leases import Lease
from recovery.builtins import install
from recovery.orders import order, refuse_tripped
from recovery.reacting import react
from tests.e2e.browser import chromium_running, page_of, violations
from tests.machines.world import make, sql
from tests.servers import People, Server

expect.set_options(timeout=60_000)
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
NODES = 20_000
SICK = (
    Condition("NodeReady", "True", "KubeletReady"),
    Condition("KernelDeadlock", "True", "DockerHung", "task docker blocked for more than 120 seconds."),
)
_CLUSTER = """INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, phase)
VALUES (gen_random_uuid(), 'stormy', 0, 1, '{}', '{}', '[]', '[]', '{"idc": "fra1"}', '{}', now(), 'Running') RETURNING id::int"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with chromium_running() as browser:
        yield browser


def fleet() -> tuple[int, list[int]]:
    """A cluster of 20,000 machines in service."""
    ((cluster,),) = sql(_CLUSTER)
    ids = make(NODES, cluster_id=cluster, prefix="stormy", idc="fra1")
    sql("UPDATE machine_state SET phase = 'Running', observed_generation = generation WHERE cluster_id = %s", cluster)
    sql("UPDATE capacity SET in_service = true, down = false WHERE cluster_id = %s", cluster)
    sql("UPDATE work_item SET due_at = now() + interval '1 day' WHERE cluster_id = %s", cluster)
    sql(
        "INSERT INTO capacity_total VALUES (%s, %s) ON CONFLICT (cluster_id) DO UPDATE SET n = excluded.n",
        cluster,
        NODES,
    )
    sql(
        "INSERT INTO shard (cluster_id, holder, epoch, lease_until, fresh_at, state) VALUES (%s, 1, 1, now() + interval '1 hour', now() + interval '1 hour', 'Fresh')",
        cluster,
    )
    return cluster, ids


async def storm(cluster: int, ids: list[int], failed: list[BaseException]) -> None:
    """As the watcher and the chores do it: batch after batch, and everybody told why it waits."""
    try:
        conn = await db.connect()
        for at in range(0, len(ids), 1_000):
            seen = [Observed(i, SICK, ()) for i in ids[at : at + 1_000]]
            _, moved = await write_conditions(conn, Lease(cluster, 1, 1), seen)
            await react(conn, moved)
        await order(conn)
        while await refuse_tripped(conn):
            pass
        await conn.close()
    except BaseException as error:
        failed.append(error)


def rule_of_the_storm() -> None:
    """The built-in rule, without its minute of patience, and a playbook that one source may begin."""
    install()
    sql(
        'UPDATE recovery_faultrule SET spec = spec || \'{"holdSeconds": 0, "playbook": "component"}\' WHERE name = \'kernel-fault\''
    )


def test_in_a_storm_the_console_says_what_happens_what_fleet_does_and_what_it_refuses(
    chromium: Browser, server: Server, people: People
) -> None:
    rule_of_the_storm()
    cluster, ids = fleet()
    failed: list[BaseException] = []
    with page_of(chromium, server, "admin", viewport={"width": 1440, "height": 900}) as page:
        page.goto("/faults")
        raging = threading.Thread(target=lambda: asyncio.run(storm(cluster, ids, failed)))
        raging.start()
        _seen_live(page)
        raging.join()
        assert failed == []
        ((faults, repairs),) = sql("SELECT count(*), (SELECT count(*) FROM recovery_remediation) FROM recovery_fault")
        assert (faults, repairs) == (NODES, 50)
        _what_is_refused(page)
        _why_one_waits(page)


def _seen_live(page: Any) -> None:
    """Without a reload: the sentence, and the board with its counts."""
    expect(page.get_by_role("main")).to_contain_text(re.compile(r"Fleet repairs 50 machines"))


def _what_is_refused(page: Any) -> None:
    page.goto("/faults")
    expect(page.get_by_role("main")).to_contain_text("KernelFault")
    expect(page.get_by_role("main")).to_contain_text(re.compile(r"19.950"))
    assert violations(page) == []
    page.goto("/safety")
    expect(page.get_by_role("main")).to_contain_text("Cluster stormy")
    expect(page.get_by_role("main")).to_contain_text("Open")
    assert violations(page) == []


def _why_one_waits(page: Any) -> None:
    ((name,),) = sql("SELECT spec ->> 'machine' FROM recovery_fault WHERE phase = 'Confirmed' ORDER BY id DESC LIMIT 1")
    page.goto(f"/machines/{name}")
    expect(page.get_by_role("main")).to_contain_text(f"Why is nobody repairing KernelFault of {name}")
    expect(page.get_by_role("main")).to_contain_text("breaker")
