"""H11: a fleet-wide permit decision for 1,000 machines at once: planned, unplanned in a storm, and refused by an open breaker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness import Run
from benchmarks.world import World
from fleet.safety.permits import Ask, permits

ASKED = 1_000


class Measure:
    title = (
        "one batch of 1,000 asks over all clusters, answered and committed: planned changes, a storm, an open breaker"
    )
    target = "at most 25x the floor, which inserts 1,000 rows of permits in one statement and decides nothing; at most 100 ms"

    def prepare(self, world: World) -> None:
        """Machines of racks and idcs, as a real fleet has them; asked are as many of each cluster."""
        world.sql("UPDATE capacity SET rack_id = machine_id / 40 + 1, idc_id = cluster_id % 3 + 1")
        world.sql("VACUUM ANALYZE capacity")
        each = ASKED // world.clusters + 1
        rows = world.sql(
            "SELECT machine_id FROM (SELECT machine_id, row_number() OVER (PARTITION BY cluster_id ORDER BY machine_id) AS n FROM capacity WHERE in_service) c WHERE n <= %s ORDER BY n, machine_id LIMIT %s",
            (each, ASKED),
        )
        self._ids = [row[0] for row in rows]

    def reset(self, world: World, who: str) -> None:
        for table in (
            "permit",
            "refusal",
            "breaker",
            "breaker_trial",
            "breaker_strike",
            "verb_start",
            "safety_safetypolicy",
        ):
            world.sql(f"DELETE FROM {table}")
            world.sql(f"VACUUM ANALYZE {table}")
        if "open" in who:
            world.sql("INSERT INTO breaker (dim, key, state, why) VALUES ('fleet', 0, 'open', 'x')")

    def floor(self, world: World) -> Run:
        """As many rows into a bare table of the same shape."""

        async def insert(conn: Any) -> int:
            cursor = await conn.execute(
                "INSERT INTO permit (machine_id, verb, unplanned, cost, draws, cluster_id, idc_id, model_id, rack_id, owner, expires_at)"
                " SELECT i, 'Restart', false, 1, true, 1, 1, 1, 1, 'op', now() + interval '10 min' FROM unnest(%s::bigint[]) AS u(i)",
                (self._ids,),
            )
            return int(cursor.rowcount)

        return Run(1, world.run(insert))

    def ours(self, world: World) -> Run:
        return self._ask(world, unplanned=False)

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {
            "ours, storm": lambda world: self._ask(world, unplanned=True),
            "ours, open": lambda world: self._ask(world, unplanned=True),
        }

    def _ask(self, world: World, *, unplanned: bool) -> Run:
        asks = [Ask(i, "Restart", unplanned, f"op-{i}") for i in self._ids]
        answers = world.run(lambda conn: permits(conn, asks))
        return Run(1, [(i, answers[i].ok, answers[i].reason) for i in self._ids])

    def check(self, world: World, who: str, run: Run) -> None:
        if who == "floor":
            assert run.result == ASKED
            return
        granted = [i for i, ok, _ in run.result if ok]
        reasons = {reason for _, ok, reason in run.result if not ok}
        stored = {row[0] for row in world.sql("SELECT machine_id FROM permit WHERE released_at IS NULL")}
        assert stored == set(granted), "the rows are not the answers"
        assert not reasons & {"SafetyUnavailable", "MachineUnknown"}, reasons
        per_cluster = world.sql(
            "SELECT count(DISTINCT p.rack_id), count(*), min(t.n) FROM permit p JOIN (SELECT cluster_id, count(*) AS n FROM capacity WHERE in_service GROUP BY 1) t USING (cluster_id) GROUP BY p.cluster_id"
        )
        if "open" in who:
            assert not granted and reasons == {"FleetBreaker"}
        elif "storm" in who:  # twenty per cent of a rack, fifty of a cluster, two hundred of the fleet
            assert len(granted) <= 200
            assert all(n <= min(50, 600, max(1, total * 3 // 100)) for _, n, total in per_cluster)
            assert max(row[0] for row in world.sql("SELECT count(*) FROM permit GROUP BY rack_id")) <= 8
        else:  # one rack of a cluster at a time, three quarters of the budget
            assert all(racks == 1 and n <= 40 for racks, n, _ in per_cluster)
            assert len(per_cluster) == world.clusters

    def figures(self, world: World) -> Mapping[str, float]:
        return {}
