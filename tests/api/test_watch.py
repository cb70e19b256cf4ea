"""Watching: whoever resumes anywhere misses nothing, sees nothing twice and never goes back."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from tests.servers import People, Server

BASE = "/apis/fleet.dev/v1/machineclasses"
WRITERS, WRITES = 6, 60


def call(
    server: Server, people: People, method: str, path: str, body: Any = None, content_type: str = "application/json"
) -> tuple[int, Any]:
    headers = {"Content-Type": content_type, **people.headers("admin")}
    response = urllib3.request(
        method, server.http + path, body=json.dumps(body) if body is not None else None, headers=headers, retries=False
    )
    return response.status, json.loads(response.data)


def machine_class(name: str, spec: Any) -> Any:
    return {"apiVersion": "fleet.dev/v1", "kind": "MachineClass", "metadata": {"name": name}, "spec": spec}


def write_at_random(server: Server, people: People, number: int) -> None:
    """Create, change and delete a few objects of one's own, and one that all writers share."""
    dice = random.Random(number)
    for turn in range(WRITES):
        name = "shared" if turn % 5 == 0 else f"w{number}-{dice.randrange(4)}"
        verb = dice.choice(("create", "change", "change", "delete"))
        if verb == "create":
            call(
                server,
                people,
                "POST",
                BASE,
                machine_class(name, {"versions": {"a": f"{number}.{turn}"}}),
            )
        elif verb == "change":
            patch = {"metadata": {"labels": {"turn": str(turn % 3)}}, "spec": {"versions": {"a": f"{number}.{turn}"}}}
            call(server, people, "PATCH", f"{BASE}/{name}", patch, "application/merge-patch+json")
        else:
            call(server, people, "DELETE", f"{BASE}/{name}")


def events(server: Server, people: People, query: str) -> Iterator[dict[str, Any]]:
    """Lines of one watch until the server ends it."""
    pool = urllib3.PoolManager()
    response = pool.request(
        "GET",
        f"{server.http}{BASE}?watch=1&{query}",
        headers=people.headers("admin"),
        preload_content=False,
        retries=False,
    )
    rest = b""
    try:
        for chunk in response.stream(4096):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines)
    finally:
        response.close()
        pool.clear()


class Reflector:
    """What a client keeps: the objects, and the position up to which it has seen everything."""

    def __init__(self, server: Server, people: People, selector: str) -> None:
        self.server, self.people, self.selector = server, people, selector
        self.objects: dict[str, dict[str, Any]] = {}
        self.steps_back = 0
        _, listed = call(server, people, "GET", f"{BASE}?{selector}")
        self.position = int(listed["metadata"]["resourceVersion"])
        self.objects = {o["metadata"]["name"]: o for o in listed["items"]}

    def follow(self, dice: random.Random, done: threading.Event) -> None:
        """Watch, hang up at a random moment, go on from the last position, until the writers are done and nothing more comes."""
        quiet = 0
        while quiet < 2:
            left, before = dice.randrange(1, 15), self.position
            for event in events(
                self.server, self.people, f"resourceVersion={self.position}&timeoutSeconds=2&{self.selector}"
            ):
                self.take(event)
                left -= 1
                if left == 0:
                    break
            quiet = quiet + 1 if done.is_set() and self.position == before else 0

    def take(self, event: dict[str, Any]) -> None:
        obj = event["object"]
        version = int(obj["metadata"]["resourceVersion"])
        self.steps_back += version <= self.position
        self.position = version
        if event["type"] == "DELETED":
            self.objects.pop(obj["metadata"]["name"], None)
        else:
            self.objects[obj["metadata"]["name"]] = obj


@pytest.mark.parametrize("selector", ["", "labelSelector=turn%3D1"], ids=["everything", "a label that comes and goes"])
def test_a_watcher_that_hangs_up_at_random_ends_with_what_is_there(
    server: Server, people: People, selector: str
) -> None:
    reflector = Reflector(server, people, selector)
    done = threading.Event()
    follower = threading.Thread(target=reflector.follow, args=(random.Random(7), done))
    writers = [threading.Thread(target=write_at_random, args=(server, people, n)) for n in range(WRITERS)]
    for thread in (follower, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    follower.join(60)
    assert not follower.is_alive()
    _, listed = call(server, people, "GET", f"{BASE}?{selector}")
    there = {o["metadata"]["name"]: o["spec"] for o in listed["items"]}
    assert {n: o["spec"] for n, o in reflector.objects.items()} == there
    assert reflector.steps_back == 0


def test_the_initial_list_ends_with_a_bookmark_that_says_so(
    server: Server, people: People, small_fleet: list[str]
) -> None:
    call(server, people, "POST", BASE, machine_class("one", {}))
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    found = list(events(server, people, query))
    assert [e["type"] for e in found[:2]] == ["ADDED", "BOOKMARK"]
    assert found[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert all(e["type"] == "BOOKMARK" for e in found[2:])


def test_a_scoped_reader_is_told_only_of_its_cluster(server: Server, people: People, small_fleet: list[str]) -> None:
    query = f"{server.http}/apis/fleet.dev/v1/machines?watch=1&timeoutSeconds=1"
    response = urllib3.request("GET", query, headers=people.headers("oper-a"), retries=False)
    names = [json.loads(line)["object"]["metadata"]["name"] for line in response.data.splitlines()]
    assert names == ["a1", "a2"]
