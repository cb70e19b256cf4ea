"""The breakers in SQL against a small model in plain Python, over whatever order of asks, ends, failures, resets and hours.

Fixed examples by default; `HYPOTHESIS_PROFILE=long` runs many more, other ones each time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.safety.conftest import LATER
from tests.simulator.conftest import dsn

SIZES = {"a": 12, "b": 10, "c": 5}
LIMIT = {"a": 3, "b": 2, "c": 2}
WINDOW, GRACE, TTL = 600.0, 60.0, 300.0
MACHINES = st.integers(1, sum(SIZES.values()))
OWNERS = st.sampled_from(["one", "two"])


@dataclass
class Breaker:
    """As the rules say: closed, open since the last strike, or half-open with so many at a time."""

    limit: int
    by_people: bool = False
    state: str = "closed"
    allow: int = 0
    last: float = 0.0
    counted_from: float = -1e9
    trials: set[int] = field(default_factory=set)  # permits


@dataclass
class Permit:
    """A grant; `ended` is when its right ends or when it was given back."""

    machine: int
    owner: str
    ended: float
    released: bool = False


class Model:
    """What the breakers of three clusters and of the fleet shall do."""

    def __init__(self) -> None:
        self.now = 0.0
        self.breakers = {"fleet": Breaker(200, by_people=True)} | {
            name: Breaker(limit) for name, limit in LIMIT.items()
        }
        self.strikes: list[tuple[float, int]] = []
        self.permits: list[Permit] = []
        self.down: set[int] = set()

    def cluster(self, machine: int) -> str:
        return "a" if machine <= 12 else "b" if machine <= 22 else "c"

    def places(self, machine: int) -> list[str]:
        return ["fleet", self.cluster(machine)]

    def counted(self, place: str) -> set[int]:
        after = max(self.breakers[place].counted_from, self.now - WINDOW)
        return {m for at, m in self.strikes if at >= after and place in self.places(m)}

    def held(self, machine: int) -> Permit | None:
        return next((p for p in self.permits if p.machine == machine and not p.released), None)

    def open(self, place: str) -> None:
        breaker = self.breakers[place]
        breaker.last = self.now
        if breaker.state == "open":
            return
        breaker.state, breaker.allow, breaker.trials = "open", 0, set()
        if place != "fleet" and sum(b.state == "open" for n, b in self.breakers.items() if n != "fleet") >= 3:
            self.open("fleet")

    def half(self, place: str) -> None:
        breaker = self.breakers[place]
        breaker.state, breaker.allow, breaker.trials, breaker.counted_from = "half-open", 1, set(), self.now

    def turn(self) -> None:
        for place, breaker in self.breakers.items():
            if breaker.state == "open" and not breaker.by_people and breaker.last + WINDOW <= self.now:
                self.half(place)
            elif breaker.state == "half-open":
                tried = [self.permits[i] for i in breaker.trials]
                good = sum(p.released and p.machine not in self.down for p in tried)
                if any(p.machine in self.down and p.ended <= self.now - GRACE for p in tried):
                    self.open(place)
                elif good >= breaker.allow and breaker.allow * 2 >= breaker.limit:
                    breaker.state, breaker.allow, breaker.trials = "closed", 0, set()
                elif good >= breaker.allow:
                    breaker.allow, breaker.trials = breaker.allow * 2, set()

    def ask(self, machine: int, owner: str, unplanned: bool) -> str:
        """The reason of a refusal, or ""."""
        held = self.held(machine)
        if held is not None and held.owner != owner and held.ended > self.now:
            return "OperationInProgress"
        renewed = held is not None and held.owner == owner
        for place in [] if renewed else self.places(machine):
            breaker = self.breakers[place]
            if breaker.state == "open":
                return "FleetBreaker" if place == "fleet" else "ClusterBreaker"
            if breaker.state == "half-open" and len(breaker.trials) >= breaker.allow:
                return "HalfOpen"
        if held is None:
            held = Permit(machine, owner, 0.0)
            self.permits.append(held)
        held.owner, held.ended = owner, self.now + TTL
        for place in [] if renewed else self.places(machine):
            if self.breakers[place].state == "half-open":
                self.breakers[place].trials.add(self.permits.index(held))
        if unplanned and not renewed:
            self.strikes.append((self.now, machine))
            for place in self.places(machine):
                if self.breakers[place].state != "open" and len(self.counted(place)) >= self.breakers[place].limit:
                    self.open(place)
        return ""

    def fail(self, machine: int) -> None:
        self.strikes.append((self.now, machine))
        self.turn()
        for place in self.places(machine):
            breaker = self.breakers[place]
            again = breaker.state == "half-open" and (
                place != "fleet" or any(self.permits[i].machine == machine for i in breaker.trials)
            )
            if again or breaker.state == "open" or len(self.counted(place)) >= breaker.limit:
                self.open(place)

    def reset(self, place: str) -> None:
        self.turn()
        breaker = self.breakers[place]
        if breaker.state == "open":
            self.half(place)
        elif breaker.state == "half-open":
            breaker.state, breaker.allow, breaker.trials, breaker.counted_from = "closed", 0, set(), self.now


class Breakers(RuleBasedStateMachine):
    """The same steps on both sides; after each, both stand alike."""

    @initialize()
    def begin(self) -> None:
        self.model = Model()
        self.conn = psycopg.connect(dsn(), autocommit=True)
        self.starts: list[tuple[float, str, int]] = []
        for table in (
            "permit",
            "refusal",
            "breaker",
            "breaker_trial",
            "breaker_strike",
            "capacity",
            "machine",
            "machine_state",
            "safety_safetypolicy",
            "clusters_cluster",
        ):
            self.conn.execute(f"DELETE FROM {table}".encode())
        self.conn.execute("ALTER TABLE permit ALTER COLUMN id RESTART WITH 1")
        for number, (name, size) in enumerate(SIZES.items(), 1):
            first = {"a": 1, "b": 13, "c": 23}[name]
            self.conn.execute(
                "INSERT INTO capacity (machine_id, cluster_id, in_service, down) SELECT i, %s, true, false FROM generate_series(%s::int, %s) i",
                (number, first, first + size - 1),
            )
            self.conn.execute(  # so many more that no budget is met
                "INSERT INTO capacity (machine_id, cluster_id, in_service, down) SELECT 1000 * %s + i, %s, true, false FROM generate_series(1, 60) i",
                (number, number),
            )
            self.conn.execute(
                "INSERT INTO clusters_cluster (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at)"
                " VALUES (%s, gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now())",
                (number, name),
            )
            self.conn.execute(
                "INSERT INTO safety_safetypolicy (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at)"
                " VALUES (gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', jsonb_build_object('scope', jsonb_build_object('cluster', %s::text), 'maxUnavailable', '{\"percent\": 100}'::jsonb, 'breaker', jsonb_build_object('count', %s::int)), '{}', now())",
                (f"wide-{name}", name, LIMIT[name]),
            )

    def step(self) -> None:
        self.model.now += 0.001  # as on the other side, no two steps are at one moment

    @rule(machines=st.lists(MACHINES, min_size=1, max_size=6, unique=True), owner=OWNERS, unplanned=st.booleans())
    def ask(self, machines: list[int], owner: str, unplanned: bool) -> None:
        self.step()
        rows = self.conn.execute(
            "SELECT reason FROM permit_batch('Restart', %s, %s, '300 s', %s::bigint[])", (unplanned, owner, machines)
        ).fetchall()
        self.model.turn()
        for machine, (reason,) in zip(machines, rows, strict=True):
            before = len(self.model.strikes)
            assert reason == self.model.ask(machine, owner, unplanned)
            if len(self.model.strikes) > before:
                self.starts.append((self.model.now, self.model.cluster(machine), machine))

    @rule(machine=MACHINES)
    def end_well(self, machine: int) -> None:
        self.step()
        self.conn.execute("UPDATE capacity SET down = false WHERE machine_id = %s", (machine,))
        self.conn.execute(
            "UPDATE permit SET released_at = clock_timestamp() WHERE machine_id = %s AND released_at IS NULL",
            (machine,),
        )
        self.model.down.discard(machine)
        held = self.model.held(machine)
        if held is not None:
            held.released, held.ended = True, min(held.ended, self.model.now)

    @precondition(lambda self: any(b.trials for b in self.model.breakers.values()))
    @rule()
    def end_all_trials_well_and_ask_for_more(self) -> None:
        """So that rounds are reached that single steps hardly ever come to."""
        for machine in sorted({self.model.permits[i].machine for b in self.model.breakers.values() for i in b.trials}):
            self.end_well(machine)
        self.ask([13, 14, 15, 16, 1, 2, 3, 4, 5, 6], "three", False)

    @rule(machine=MACHINES)
    def go_down(self, machine: int) -> None:
        self.conn.execute("UPDATE capacity SET down = true WHERE machine_id = %s", (machine,))
        self.model.down.add(machine)

    @rule(machine=MACHINES)
    def fail(self, machine: int) -> None:
        self.step()
        self.conn.execute("SELECT breaker_failed(ARRAY[%s]::bigint[], ARRAY['failed'])", (machine,))
        self.model.fail(machine)

    @rule(seconds=st.sampled_from([30, 61, 300, 361, 600]))
    def wait(self, seconds: int) -> None:
        self.conn.execute(LATER, (f"{seconds} seconds",))
        self.model.now += seconds

    @rule()
    def tick(self) -> None:
        self.step()
        self.conn.execute("SELECT breaker_tick()")
        self.model.turn()

    @precondition(lambda self: any(b.state != "closed" for b in self.model.breakers.values()))
    @rule(place=st.sampled_from(["fleet", "a", "b", "c"]))
    def reset(self, place: str) -> None:
        self.step()
        dim, key = ("fleet", 0) if place == "fleet" else ("cluster", "abc".index(place) + 1)
        self.conn.execute("SELECT breaker_reset(%s, %s, 'olga', false)", (dim, key))
        self.model.reset(place)
        self.starts = [s for s in self.starts if place not in ("fleet", s[1])]  # people's word begins the count anew

    @rule()
    def restart(self) -> None:
        self.conn.close()
        self.conn = psycopg.connect(dsn(), autocommit=True)

    @invariant()
    def both_stand_alike(self) -> None:
        if not hasattr(self, "model"):
            return
        stored = {
            "fleet" if dim == "fleet" else "abc"[key - 1]: (state, allow)
            for dim, key, state, allow in self.conn.execute("SELECT dim, key, state, allow FROM breaker").fetchall()
        }
        for place, breaker in self.model.breakers.items():
            assert stored.get(place, ("closed", 0)) == (breaker.state, breaker.allow), place

    @invariant()
    def no_window_ever_held_more_starts_than_the_limit(self) -> None:
        """From the starts themselves, by another way than the model's."""
        for at, cluster, _ in getattr(self, "starts", []):
            window = {m for when, where, m in self.starts if where == cluster and at <= when <= at + WINDOW - 1}
            assert len(window) <= LIMIT[cluster]

    def teardown(self) -> None:
        if hasattr(self, "conn"):
            self.conn.close()


@pytest.mark.usefixtures("fleet_db")
def test_the_breakers_do_what_their_model_does_whatever_happens_in_which_order() -> None:
    long = os.environ.get("HYPOTHESIS_PROFILE") == "long"
    run_state_machine_as_test(
        Breakers,
        settings=settings(
            max_examples=400 if long else 60,
            stateful_step_count=60 if long else 30,
            derandomize=not long,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
