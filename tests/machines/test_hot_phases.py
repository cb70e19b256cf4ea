"""Phases: record moves exactly the pairs that the django-fsm declaration names."""

from __future__ import annotations

from fleet.control import work
from fleet.control.db import Connection
from fleet.control.kinds import MACHINE
from machines import hot
from machines.phases import LEGAL
from tests.machines import world


def test_the_declaration_is_what_the_semantics_lists() -> None:
    assert sorted(LEGAL) == sorted(world.LEGAL)


async def test_record_moves_exactly_the_declared_pairs(conn: Connection) -> None:
    pairs = [(source, target) for source in world.PHASES for target in world.PHASES]
    ids = world.make(len(pairs))
    for machine, (source, _) in zip(ids, pairs, strict=True):
        world.sql("UPDATE machine_state SET phase = %s WHERE id = %s", source, machine)
    rows = await world.claimed(conn, 1)
    wished = dict(zip(ids, pairs, strict=True))
    done = await hot.record(conn, 1, [world.outcome(r, phase=wished[r.id][1]) for r in rows])
    reached = dict(world.sql("SELECT id, phase FROM machine_state"))
    allowed = {m for m, (s, t) in wished.items() if s == t or f"{s}>{t}" in LEGAL}
    assert {d.id for d in done if d.lawful} == allowed
    assert reached == {m: t if m in allowed else s for m, (s, t) in wished.items()}


async def test_an_illegal_target_writes_all_but_the_phase_tells_it_and_backs_off(conn: Connection) -> None:
    (machine,) = world.make(1)
    (row,) = await world.claimed(conn, 1)
    (done,) = await hot.record(conn, 1, [world.outcome(row, phase="Retired", next_seconds=1)])
    assert (done.ok, done.changed, done.lawful) == (True, True, False)
    assert world.sql("SELECT phase, observed_generation, cond_true <> 0 FROM machine_state") == [("Pending", 1, True)]
    assert world.sql("SELECT type, data ->> 'reason', severity FROM event") == [
        ("dev.fleet.machine.phase-illegal", "PhaseIllegal", 2)
    ]
    assert world.sql("SELECT attempts, resting, due_at > now() + interval '50 s' FROM work_item") == [(1, False, True)]
    assert world.sql("SELECT phase, n FROM count_delta") == [("Pending", 1)]
    await work.wake_async(conn, MACHINE, [machine])
    assert [r.phase for r in await world.claimed(conn, 1)] == ["Pending"]
