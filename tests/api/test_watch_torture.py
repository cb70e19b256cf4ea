"""Writers at full speed, watchers that come and go at random: no gap, no duplicate, no step back."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from tests.api.http import BASE, Http
from tests.servers import People, Server

NAMES = [f"c{n}" for n in range(12)]
WRITERS = 8
WRITES = int(os.environ.get("FLEET_TORTURE_WRITES", "150"))  # of each writer
CLASSES = f"{BASE}/machineclasses"
SELECTED = "?labelSelector=go%3Dyes&"


class Reflector:
    """What client-go's reflector does: list, watch from there, resume by the last version, list again when told to."""

    def __init__(self, http: Http, query: str, seed: int) -> None:
        self.http, self.query, self.random = http, query, random.Random(seed)
        self.known: dict[str, Any] = {}
        self.version = 0
        self.first = 0
        self.listed: set[str] = set()  # names that no event has come for since the list
        self.wrong: list[str] = []
        self.events = 0

    def list(self) -> None:
        body = self.http("GET", CLASSES + self.query).json
        self.known = {o["metadata"]["name"]: o for o in body["items"]}
        self.listed = set(NAMES)
        self.version = self.first = int(body["metadata"]["resourceVersion"])

    def watch(self) -> None:
        """Some events, or until nothing more comes, then the connection is dropped without a word."""
        left = self.random.randint(1, 60)
        path = f"{CLASSES}{self.query}watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={self.version}"
        for event in self.http.lines(path):
            self.take(event["type"], event["object"])
            left -= 1
            if not left:
                return

    def take(self, type_: str, obj: Any) -> None:
        version = int(obj["metadata"]["resourceVersion"])
        if version < self.version:
            self.wrong.append(f"{type_} {version} after {self.version}")
        self.version = version
        if type_ == "BOOKMARK":
            return
        self.events += 1
        name = obj["metadata"]["name"]
        before = self.known.get(name)
        if name in self.listed:
            # A list may show an object newer than its own version; the watch from there then brings it once more.
            self.listed.discard(name)
            before = None if type_ == "ADDED" else obj if type_ == "DELETED" else before or obj
        elif before is not None and int(before["metadata"]["resourceVersion"]) >= version:
            self.wrong.append(f"{name} {type_} again at {version}")
        if (type_ == "ADDED") != (before is None):
            self.wrong.append(f"{type_} of {name} at {version}, known: {before is not None}")
        self.known.pop(name, None)
        if type_ != "DELETED":
            self.known[name] = obj


def write_at_random(seed: int) -> None:
    """Create, change (labels in and out of the selection), delete and create again."""
    chance = random.Random(seed)
    write = Write(by=SYSTEM)
    try:
        for number in range(WRITES):
            name = chance.choice(NAMES)
            try:
                act_once(name, chance.random(), {"go": chance.choice(("yes", "no")), "n": f"{seed}-{number}"}, write)
            except ApiError as error:
                assert error.code in (404, 409), error  # another writer was quicker
    finally:
        connection.close()


def act_once(name: str, dice: float, labels: dict[str, str], write: Write) -> None:
    if dice < 0.15:
        delete_object("machineclasses", name, write=write)
    elif dice < 0.45:
        manifest = {"apiVersion": "fleet.dev/v1", "kind": "MachineClass", "metadata": {"name": name, "labels": labels}}
        create_object("machineclasses", manifest, write=write)
    else:
        patch_object(
            "machineclasses", name, lambda o: {**o, "metadata": {**o["metadata"], "labels": labels}}, write=write
        )


@pytest.fixture
def reflectors(server: Server, people: People) -> Iterator[list[Reflector]]:
    """Two of everything, two of a selection that objects enter and leave."""
    made = [
        Reflector(Http(server.http, people.headers("admin")), query, n)
        for n, query in enumerate(("?", "?", SELECTED, SELECTED))
    ]
    yield made
    for each in made:
        each.http._connection.close()


def test_watchers_that_resume_at_random_see_every_change_once_and_in_order(reflectors: list[Reflector]) -> None:
    writers = [threading.Thread(target=write_at_random, args=(seed,)) for seed in range(WRITERS)]
    done = threading.Event()

    def follow(reflector: Reflector) -> None:
        reflector.list()
        while not done.is_set():
            reflector.watch()

    followers = [threading.Thread(target=follow, args=(r,)) for r in reflectors]
    for thread in followers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in followers:
        thread.join()
    for reflector in reflectors:
        settle(reflector)
        assert reflector.wrong == [], (reflector.query, reflector.first, reflector.wrong)
        seen = reflector.known
        reflector.list()
        assert {n: o["metadata"]["labels"] for n, o in seen.items()} == {
            n: o["metadata"]["labels"] for n, o in reflector.known.items()
        }
        assert {n: o["metadata"]["resourceVersion"] for n, o in seen.items()} == {
            n: o["metadata"]["resourceVersion"] for n, o in reflector.known.items()
        }
    assert min(r.events for r in reflectors) > 50


def settle(reflector: Reflector) -> None:
    """Follow until a whole watch brings nothing but its last bookmark."""
    events = -1
    while events != reflector.events:
        events = reflector.events
        reflector.watch()
