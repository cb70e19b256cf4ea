"""H1: a full drift pass, from the tick to all work items committed, with 1 % of the machines drifted for three causes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from benchmarks.harness import Run
from benchmarks.world import World

_PREDICATE = """NOT paused AND (generation <> observed_generation OR desired_hash <> observed_hash)
  OR CASE WHEN open THEN (cond_false & close_true) | (cond_true & close_false) <> 0
          ELSE (cond_true & gate_true) = gate_true AND (cond_false & gate_false) = gate_false END"""


class Measure:
    title = "full drift pass: tick to all work items committed, 1 % drifted for 3 causes"
    target = "at most 1.5x floor; at least 30x the ORM; incremental at most 5 ms for 20 changes, 15 ms for 200"

    def prepare(self, world: World) -> None:
        """Every hundredth machine drifts: a new spec, a new set, a gate that would close it."""
        world.sql("UPDATE machine_state SET generation = 2 WHERE id % 300 = 1")
        world.sql("UPDATE machine_state SET desired_hash = 99 WHERE id % 300 = 101")
        world.sql(
            "UPDATE machine_state SET close_true = 2, cond_true = cond_true & ~2, cond_false = 2 WHERE id % 300 = 201"
        )
        world.sql("VACUUM (ANALYZE) machine_state")
        world.kept["drifted"] = world.sql("SELECT count(*) FROM machine_state WHERE drift <> 0")[0][0]
        assert world.kept["drifted"] == world.machines // 100

    def reset(self, world: World, who: str) -> None:
        """All at rest again, due later; the dead rows of the last run do not slow the next."""
        world.sql("UPDATE work_item SET due_at = now() + interval '1 hour', resting = true WHERE due_at <= now()")
        world.sql("VACUUM work_item")

    def floor(self, world: World) -> Run:
        """The predicate over the plain columns, nothing written."""
        return Run(result=world.sql(f"SELECT count(*) FROM machine_state WHERE {_PREDICATE}")[0][0])

    def ours(self, world: World) -> Run:
        from machines import hot

        return Run(result=world.run(hot.sweep))

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {"ORM loop": self._orm}

    def _orm(self, world: World) -> Run:
        """Instances of every machine, looked at in Python, one UPDATE per drifted machine."""
        from django.utils import timezone

        from fleet.control.models import WorkItem
        from machines.models import MachineState

        made = 0
        for state in MachineState.objects.iterator(chunk_size=2_000):
            if state.drift:
                made += WorkItem.objects.filter(kind=1, object_id=state.pk, holder=None, resting=True).update(
                    due_at=timezone.now(), resting=False
                )
        return Run(result=made)

    def check(self, world: World, who: str, run: Run) -> None:
        assert run.result == world.kept["drifted"], f"{who} found {run.result} of {world.kept['drifted']}"
        due = world.sql(
            "SELECT count(*) FROM work_item w JOIN machine_state s ON s.id = w.object_id WHERE w.due_at <= now() AND s.drift <> 0"
        )[0][0]
        assert due == (0 if who == "floor" else world.kept["drifted"]), f"after {who} {due} are due"
        assert world.sql("SELECT count(*) FROM work_item WHERE due_at <= now()")[0][0] == due, f"{who} made others due"

    def figures(self, world: World) -> Mapping[str, float]:
        """Incremental passes, and a full pass that finds nothing new; the median of seven."""
        from machines import hot

        found = {"nothing new": self._median(world, lambda: world.run(hot.sweep))}
        for count in sorted({min(n, world.machines // 100) for n in (20, 200)}):
            found[f"incremental, {count} changes"] = self._median(world, lambda: None, count)
        return found

    def _median(self, world: World, job: Callable[[], object], changes: int = 0) -> float:
        from machines import hot

        times = []
        for _ in range(7):
            self.reset(world, "ours")
            after = world.sql("SELECT fleet_horizon() - 1")[0][0]
            if changes:
                world.sql(
                    "INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT p + n * 4, (SELECT min(id) FROM machine_state) + n * 100, 0, 1, 2 FROM fleet_pos(%s) AS p, generate_series(1, %s) AS n",
                    [4 * changes + 8, changes],
                )
            else:
                world.run(hot.sweep)
            began = time.perf_counter()
            if changes:
                world.run(lambda conn, after=after: hot.sweep_changes(conn, after))  # type: ignore[misc]
            else:
                job()
            times.append(time.perf_counter() - began)
        return sorted(times)[3] * 1_000
