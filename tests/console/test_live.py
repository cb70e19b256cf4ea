"""Live pages: rendered once for all who see the same, sent only where they differ, gone with the last reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import orjson
import pytest

from fleet.api.rights import Actor
from fleet.console import live
from fleet.console.page import Missing, Page
from fleet.control.kinds import MACHINE

ADMIN = Actor("olga", 1, (("admin", ""),))
OTHER_ADMIN = Actor("piet", 2, (("admin", ""),))
VIEWER = Actor("vera", 3, (("viewer", "a"),))


class FakeHub:
    """A log that moves when the test says so."""

    def __init__(self) -> None:
        self.position = 1
        self.age = 0.0
        self._moved = asyncio.Event()

    def changed_since(self, kinds: Iterable[int], position: int) -> bool:
        return self.position > position

    async def wait_for_news(self, seconds: float) -> None:
        await asyncio.wait_for(self._moved.wait(), seconds)

    def move(self) -> None:
        """One more write."""
        self.position += 1
        self._moved.set()
        self._moved = asyncio.Event()


class Stage:
    """What stands in for database and templates: fragments to render, and who rendered how often."""

    def __init__(self) -> None:
        self.hub = FakeHub()
        self.fragments = {"a": "<p id=a>1</p>", "b": "<p id=b>1</p>"}
        self.rendered: list[str] = []

    def render(self, actor: Actor, path: str) -> tuple[Page, dict[str, str]]:
        self.rendered.append(actor.name)
        if path == "/gone":
            raise Missing("gone")
        return Page("x", "x", {}, kinds=frozenset({MACHINE})), dict(self.fragments)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    made = Stage()

    async def hub() -> FakeHub:
        return made.hub

    monkeypatch.setattr(live, "running_hub", hub)
    monkeypatch.setattr(live, "render", made.render)
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.001)
    monkeypatch.setattr(live, "topics", live.Topics())
    yield made


async def _rendered_after(topic: live.Topic, change: Callable[[], None]) -> None:
    """Until the topic was rendered after that change."""
    moved = topic.moved
    change()
    await asyncio.wait_for(moved.wait(), 5)


async def test_readers_with_the_same_rights_share_one_rendering(stage: Stage) -> None:
    async with live.topics.reading("/", ADMIN) as one, live.topics.reading("/", OTHER_ADMIN) as two:
        await one.ready.wait()
        assert one is two
        assert stage.rendered == ["olga"]


async def test_other_rights_or_another_address_are_another_topic(stage: Stage) -> None:
    async with (
        live.topics.reading("/", ADMIN) as one,
        live.topics.reading("/", VIEWER) as two,
        live.topics.reading("/clusters", ADMIN) as three,
    ):
        assert len({id(one), id(two), id(three)}) == 3


async def test_a_topic_ends_with_its_last_reader(stage: Stage) -> None:
    async with live.topics.reading("/", ADMIN) as topic:
        async with live.topics.reading("/", ADMIN):
            await topic.ready.wait()
        assert not topic.task.done()
    assert topic.task.done()


async def test_a_topic_is_rendered_again_when_the_log_has_moved(stage: Stage) -> None:
    async with live.topics.reading("/", ADMIN) as topic:
        await topic.ready.wait()
        stage.fragments["a"] = "<p id=a>2</p>"
        await _rendered_after(topic, stage.hub.move)
        assert topic.fragments["a"] == "<p id=a>2</p>"
        assert not topic.behind


async def test_an_object_that_is_gone_ends_the_topic_with_that_reason(stage: Stage) -> None:
    async with live.topics.reading("/gone", ADMIN) as topic:
        await topic.ready.wait()
        assert isinstance(topic.failure, Missing)


class Told(live.LiveConsumer):
    """A connection that keeps what it sends."""

    def __init__(self) -> None:
        self.sent: dict[str, bytes] = {}
        self.frames: list[Any] = []

    async def send(  # type: ignore[override]
        self, text_data: str | None = None, bytes_data: bytes | None = None, close: bool = False
    ) -> None:
        self.frames.append(orjson.loads(text_data or "{}"))


async def test_a_connection_sends_what_differs_and_says_what_is_gone(stage: Stage) -> None:
    told = Told()
    async with live.topics.reading("/", ADMIN) as topic:
        await topic.ready.wait()
        beat = await told._send(topic, 0.0)
        assert {f["id"] for f in told.frames[0]["fragments"]} == {"a", "b"}
        assert await told._send(topic, beat) == beat
        assert len(told.frames) == 1
        stage.fragments = {"a": "<p id=a>2</p>"}
        await _rendered_after(topic, stage.hub.move)
        await told._send(topic, beat)
        assert told.frames[1]["fragments"] == [{"id": "a", "html": "<p id=a>2</p>"}, {"id": "b", "html": ""}]


async def test_silence_is_a_heartbeat_unless_the_log_cannot_be_read(stage: Stage) -> None:
    told = Told()
    async with live.topics.reading("/", ADMIN) as topic:
        await topic.ready.wait()
        await told._send(topic, 0.0)
        await told._send(topic, 0.0)
        assert "fragments" not in told.frames[1]
        stage.hub.age = 60.0
        await told._send(topic, 0.0)
        assert len(told.frames) == 2
