"""H6: the list of the API: 16 clients, pages of 100 whole machines, random cursors and filters."""

from __future__ import annotations

import functools
import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from benchmarks.harness import Run
from benchmarks.world import World, machine_name

CLIENTS, PAGE = 16, 100
_ROUNDTRIPS = {"S": 8, "M": 20, "L": 20}  # pages a client fetches in one run


@dataclass(frozen=True, slots=True)
class Wish:
    """One request: where to go on, and a filter or two."""

    after: str
    cluster: int | None = None
    label: tuple[str, str] | None = None


class Measure:
    title = "API list, 16 clients, pages of 100 whole machines, random cursors and filters"
    target = "p50 at most 2x, p99 at most 4x floor; at least 20x DRF offset, 3x DRF cursor"

    def prepare(self, world: World) -> None:
        chance = random.Random(6)
        world.kept["clusters"] = [row[0] for row in world.sql("SELECT id FROM clusters_cluster ORDER BY id")]
        world.kept["cluster_names"] = dict(world.sql("SELECT id, name FROM clusters_cluster"))
        count = _ROUNDTRIPS[world.size]
        world.kept["wishes"] = [[self._wish(world, chance) for _ in range(count)] for _ in range(CLIENTS)]
        world.kept["expected"] = {}
        for wish in {w for wishes in world.kept["wishes"] for w in wishes}:
            where, params = _where(wish)
            found = world.sql(f"SELECT m.name FROM machine m WHERE {where} ORDER BY m.name LIMIT {PAGE}", params)
            world.kept["expected"][wish] = [row[0] for row in found]

    def _wish(self, world: World, chance: random.Random) -> Wish:
        cluster = chance.randrange(world.clusters)
        after = machine_name(chance.randrange(world.machines))
        inside = machine_name(cluster * world.per_cluster + chance.randrange(world.per_cluster))
        known = world.kept["clusters"][cluster]
        return chance.choice(
            [
                Wish(after),
                Wish(inside, known),
                Wish(inside, known, ("zone", "z1")),
                Wish(inside, known, ("team", f"team-{chance.randrange(50)}")),
            ]
        )

    def reset(self, world: World, who: str) -> None:
        """Nothing to put back: reading changes nothing."""

    # -- contenders ------------------------------------------------------------------------------------------------

    def floor(self, world: World) -> Run:
        """The columns of the page by a prepared statement on Django's connection, joined as they are."""
        return self._clients(world, _floor)

    def ours(self, world: World) -> Run:
        from django.http import HttpResponse

        from fleet.api.listing import list_view
        from fleet.api.rights import SYSTEM
        from fleet.api.storage import storage_for

        storage, names = storage_for("machines"), world.kept["cluster_names"]

        def fetch(wish: Wish) -> bytes:
            response = list_view(_request(wish, names), storage, SYSTEM)
            assert isinstance(response, HttpResponse)  # a page has a limit and is no stream
            return response.content

        return self._clients(world, fetch)

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {
            "DRF offset": lambda world: self._drf(world, "offset", 3),
            "DRF cursor": lambda world: self._drf(world, "cursor", 4),
        }

    def _drf(self, world: World, paging: str, pages: int | None) -> Run:
        from benchmarks.drf import fetcher

        return self._clients(world, fetcher(paging, PAGE), pages)

    def _clients(self, world: World, fetch: Callable[[Wish], bytes], pages: int | None = None) -> Run:
        """All clients at once, each with a connection of its own; latencies of single pages."""
        from django.db import connection

        times: list[float] = []
        bodies: dict[Wish, bytes] = {}
        failures: list[BaseException] = []

        def client(wishes: list[Wish]) -> None:
            try:
                fetch(wishes[0])  # connect, and prepare statements
                barrier.wait()
                for wish in wishes[:pages]:
                    began = time.perf_counter()
                    bodies[wish] = fetch(wish)
                    times.append(time.perf_counter() - began)
            except BaseException as error:  # reported by the main thread
                failures.append(error)
                barrier.abort()
            finally:
                connection.close()

        barrier = threading.Barrier(CLIENTS)
        threads = [threading.Thread(target=client, args=[wishes]) for wishes in world.kept["wishes"]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        ordered = sorted(times)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        return Run(len(times), bodies, {"p50": statistics.median(times) * 1_000, "p99": p99 * 1_000})

    # -- results ---------------------------------------------------------------------------------------------------

    def check(self, world: World, who: str, run: Run) -> None:
        """The right machines in the right order, whole."""
        for wish, body in run.result.items():
            found = orjson.loads(body)
            items = found["items"] if isinstance(found, dict) and "items" in found else found["results"]
            if who == "DRF offset":  # lands elsewhere for the same number of rows
                assert items, f"{who} found nothing for {wish}"
                continue
            names = [i["metadata"]["name"] if "metadata" in i else i["name"] for i in items]
            assert names == world.kept["expected"][wish], f"{who} gave other machines for {wish}"
            if who == "ours":
                assert all(len(i["status"]["conditions"]) >= 8 and i["spec"]["versions"] for i in items), (
                    "objects are not whole"
                )

    def figures(self, world: World) -> Mapping[str, float]:
        """One client alone, and the fleet's summary from the kept counters."""
        from django.db import connection

        from machines import counts

        storage_times, summary = [], []
        for _ in range(7):
            began = time.perf_counter()
            with connection.cursor() as cursor:
                assert sum(counts.totals(cursor).values()) == world.machines
            summary.append(time.perf_counter() - began)
            began = time.perf_counter()
            _storage_page()
            storage_times.append(time.perf_counter() - began)
        return {
            "fleet summary": sorted(summary)[3] * 1_000,
            "one page, storage alone": sorted(storage_times)[3] * 1_000,
        }


def _storage_page() -> None:
    from fleet.api.storage import ListQuery, storage_for

    storage: Any = storage_for("machines")
    objects, _, _ = storage.page_bytes(ListQuery(limit=PAGE))
    assert len(objects) == PAGE


def _where(wish: Wish) -> tuple[str, list[Any]]:
    parts, params = ["m.name > %s"], list[Any]([wish.after])
    if wish.cluster is not None:
        parts.append("m.cluster_id = %s")
        params.append(wish.cluster)
    if wish.label is not None:
        parts.append("m.labels @> %s::jsonb")
        params.append(orjson.dumps({wish.label[0]: wish.label[1]}).decode())
    return " AND ".join(parts), params


def _request(wish: Wish, names: Mapping[int, str]) -> Any:
    from django.conf import settings
    from django.test import RequestFactory

    from fleet.api import continuation

    query = {"limit": str(PAGE)}
    if wish.cluster is not None:
        query["fieldSelector"] = f"spec.clusterName={names[wish.cluster]}"
    if wish.label is not None:
        query["labelSelector"] = f"{wish.label[0]}={wish.label[1]}"
    filters = f"machines|{query.get('labelSelector', '')}|{query.get('fieldSelector', '')}"
    query["continue"] = continuation.encode(settings.SECRET_KEY, 1, wish.after, filters)
    return RequestFactory().get("/apis/fleet.dev/v1/machines", query, headers={"host": "localhost"})


_COLUMNS = "m.name, m.uid::text, s.rv, s.generation, m.labels::text, m.annotations::text, m.spec::text, s.phase, s.m_cond, q.body::text"


def _floor(wish: Wish) -> bytes:
    import psycopg
    from django.db import connection
    from django.http import HttpResponse

    connection.ensure_connection()
    raw: Any = connection.connection
    where, params = _where(wish)
    with psycopg.Cursor(raw) as cursor:
        text = f"SELECT {_COLUMNS} FROM machine m JOIN machine_state s ON s.id = m.id JOIN seen_set q ON q.id = s.seen_id WHERE {where} ORDER BY m.name LIMIT {PAGE + 1}"
        cursor.execute(text.encode(), params, prepare=True, binary=True)
        rows = cursor.fetchall()[:PAGE]
    items = ",".join(
        [
            f'{{"metadata":{{"name":"{name}","uid":"{uid}","resourceVersion":"{rv}","generation":{generation},"labels":{labels},"annotations":{annotations}}},"spec":{spec},'
            f'"status":{{"phase":"{phase}","conditions":[{",".join([_said(c) for c in conditions])}],{seen[1:-1]}}}}}'
            for name, uid, rv, generation, labels, annotations, spec, phase, conditions, seen in rows
        ]
    )
    return HttpResponse(f'{{"items":[{items}]}}'.encode(), content_type="application/json").content


@functools.cache
def _said(packed: int) -> str:
    """A condition of ordinary length."""
    return orjson.dumps(
        {
            "type": "PackagesUpToDate",
            "status": "True",
            "reason": "AsWanted",
            "message": "Everything is as it shall be.",
            "lastTransitionTime": str(packed & 0xFFFFFFFF),
        }
    ).decode()
