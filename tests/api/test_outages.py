"""The API while its database is gone and comes back: refusals that say "come again", nothing lost, no repair by hand."""

from __future__ import annotations

import json
import threading
from typing import Any

from tests.api.http import BASE, Reply
from tests.api.world import World, cluster, until, world

__all__ = ["world"]


def test_a_killed_database_is_503_with_a_time_to_come_again_and_then_all_is_well_by_itself(world: World) -> None:
    world.make("before")
    answers: list[tuple[int, Any, str]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.1):
            answers.append(world.get(f"{BASE}/clusters/before"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        world.kill_database()
        until(lambda: any(code == 503 for code, _, _ in answers))
        world.start_database()
        marker = len(answers)
        until(lambda: any(code == 200 for code, _, _ in answers[marker:]))
    finally:
        done.set()
        asking.join()
    assert {code for code, _, _ in answers} <= {200, 503, 429}
    away = [(body, after) for code, body, after in answers if code == 503]
    assert all(body["reason"] == "ServiceUnavailable" and int(after) > 0 for body, after in away)
    assert all("Traceback" not in json.dumps(body) and "psycopg" not in json.dumps(body) for body, _ in away)
    world.make("after")


class Writer(threading.Thread):
    """Makes one cluster after the other, each under a name of its own."""

    def __init__(self, world: World, number: int, done: threading.Event) -> None:
        super().__init__()
        self.world, self.number, self.done = world, number, done
        self.made: list[str] = []
        self.refused: list[Reply] = []

    def run(self) -> None:
        turn = 0
        while not self.done.is_set():
            turn += 1
            name = f"w{self.number}-{turn}"
            reply = self.world.send("POST", f"{BASE}/clusters", cluster(name))
            if reply.status == 201:
                self.made.append(name)
            else:
                self.refused.append(reply)


def test_what_was_acknowledged_outlives_a_killed_database(world: World) -> None:
    world.stop()
    world.serve(FLEET_REQUESTS_PER_SECOND="0")
    done = threading.Event()
    writers = [Writer(world, number, done) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(2):
            before = [len(w.made) for w in writers]
            until(lambda before=before: all(len(w.made) > b + 3 for w, b in zip(writers, before, strict=True)))  # type: ignore[misc]
            refused = [len(w.refused) for w in writers]
            world.kill_database()
            until(lambda refused=refused: all(len(w.refused) > r for w, r in zip(writers, refused, strict=True)))  # type: ignore[misc]
            world.start_database()
        before = [len(w.made) for w in writers]
        until(lambda: all(len(w.made) > b for w, b in zip(writers, before, strict=True)))
    finally:
        done.set()
        for writer in writers:
            writer.join()
    refusals = [reply for writer in writers for reply in writer.refused]
    assert {reply.status for reply in refusals} == {503}
    assert all(int(reply.headers["Retry-After"]) > 0 and reply.json["kind"] == "Status" for reply in refusals)
    assert not any(b"Traceback" in reply.data or b"psycopg" in reply.data for reply in refusals)
    _, listed, _ = world.get(f"{BASE}/clusters")
    there = {each["metadata"]["name"] for each in listed["items"]}
    assert {name for writer in writers for name in writer.made} <= there
