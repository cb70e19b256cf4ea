"""What one process keeps of nodes that it has listed: `python -m benchmarks.memory <who> <most> <url>=<cluster id> ...` prints bytes and nodes.

A process of its own for each, so that nothing of another run counts: memory (PSS) after a first small list, whose buffers every
reader needs once, and after all of the rest.
"""

from __future__ import annotations

import asyncio
import gc
import json
import struct
import sys
import urllib.request
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from clusters.kube import continue_of


def pss() -> int:
    """Bytes, after what is no longer needed has been let go."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def pages(url: str, most: int) -> Iterator[bytes]:
    """Pages of the nodes there, at most so many nodes."""
    go_on, left = "", most
    while left > 0:
        with urllib.request.urlopen(
            f"{url}/api/v1/nodes?limit={min(500, left)}" + (f"&continue={go_on}" if go_on else "")
        ) as answer:
            body = answer.read()
        yield body
        left -= 500
        go_on = continue_of(body)
        if not go_on:
            return


class Columns:
    """The floor: only what is compared and written, in columns: names, machine, two fingerprints, packed conditions."""

    def __init__(self) -> None:
        self.names, self.ends = bytearray(), array("I")
        self.machines, self.fields, self.conditions = array("q"), array("q"), array("q")
        self.packed = array("q")

    def take(self, body: bytes) -> int:
        from machines.watch.seen import fields_print, node_page

        nodes = node_page(body).items or []
        for node in nodes:
            self.names += node.metadata.name.encode()
            self.ends.append(len(self.names))
            self.machines.append(len(self.ends))
            self.fields.append(fields_print(node))
            self.conditions.append(hash(node.status.conditions))
            self.packed.extend(struct.unpack("<4q", bytes(32)))  # as many as a node of the simulation has conditions
        return len(nodes)


def keeper(who: str) -> tuple[Any, Callable[[bytes], int]]:
    """(what keeps, how it takes a page and says how many nodes that were)."""
    if who == "floor":
        columns = Columns()
        return columns, columns.take
    kept: list[Any] = []
    if who == "dict":

        def take(body: bytes) -> int:
            items = orjson.loads(body)["items"]
            kept.extend(items)
            return len(items)

        return kept, take
    from kubernetes.client import ApiClient

    api = ApiClient()

    def models(body: bytes) -> int:
        items = api.deserialize(body.decode(), "V1NodeList", "application/json").items
        kept.extend(items)
        return len(items)

    return kept, models


def listed(who: str, urls: list[str], most: int) -> tuple[int, int]:
    """(bytes, nodes) of a plain reader."""
    _, warm = keeper(who)
    for body in pages(urls[0], 500):
        warm(body)
    _, take = keeper(who)
    before, count = pss(), 0
    for url in urls:
        for body in pages(url, most - count):
            count += take(body)
        if count >= most:
            break
    return pss() - before, count


async def watched(given: list[tuple[int, str]]) -> tuple[int, int]:
    """(bytes, nodes) of the watcher: after a first small cluster, everything else."""
    from benchmarks.watching import Watching
    from fleet.control import db
    from fleet.control.endpoint import Endpoint

    subjects = [(number, Endpoint(url)) for number, url in given]
    conn = await db.connect()
    first = Watching(conn, subjects[:1])
    await first.start()
    await first.settled()
    before, rest = pss(), Watching(conn, subjects[1:])
    await rest.start()
    await rest.settled()
    after = pss()
    count = sum(len(w.view.cache) for w in rest.watches)
    for each in (first, rest):
        await each.stop()
    await conn.close()
    return after - before, count


def main() -> None:
    who, most, *given = sys.argv[1:]
    subjects = [(int(number), url) for url, _, number in (each.rpartition("=") for each in given)]
    if who == "ours":
        import django

        from machines.watch import memory

        django.setup()
        memory.set_apart()
        found = asyncio.run(watched(subjects))
    else:
        found = listed(who, [url for _, url in subjects[1:]], int(most))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
