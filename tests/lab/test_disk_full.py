"""PostgreSQL on a disk that is full: refusals with a reason, nothing lost that was acknowledged, and all goes on by itself once there is room."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fleet.api.authentication import REMEMBER_SECONDS
from fleet.dev.supervisor import Supervisor
from lab.command import run
from tests.api.http import BASE, Reply
from tests.api.world import WAIT_SECONDS, World, cluster

pytestmark = [pytest.mark.lab, pytest.mark.faults]
SIZE = "320m"  # a database of Fleet's after its migrations, and its log


class Disk:
    """A file system of its own that can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "fleet-test", folder])

    def fill(self) -> None:
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                while _wrote(file.fileno(), b"\0" * size):
                    pass

    def free(self) -> None:
        (self.folder / "filler").unlink()

    def close(self) -> None:
        run(["umount", self.folder])


def _wrote(handle: int, data: bytes) -> bool:
    try:
        return os.write(handle, data) == len(data)
    except OSError:  # full
        return False


class Story:
    """A Fleet on that disk, its database under the supervisor of `make up`, and what it answered."""

    def __init__(self, world: World, disk: Disk) -> None:
        self.world, self.disk = world, disk
        self.supervisor = Supervisor({}, world.home, quiet=True)
        self.supervisor.watch(world.postgres)
        self.made: list[str] = []
        self.replies: list[Reply] = []
        self._names = (f"c{number}" for number in itertools.count())

    def write(self) -> int:
        """Make one cluster more; the answer's code."""
        name = next(self._names)
        reply = self.world.send("POST", f"{BASE}/clusters", cluster(name))
        self.replies.append(reply)
        if reply.status == 201:
            self.made.append(name)
        return reply.status

    def until(self, holds: Callable[[], bool]) -> None:
        """Meanwhile the supervisor watches."""
        end = time.monotonic() + WAIT_SECONDS
        while not holds():
            assert time.monotonic() < end, "it never came to be"
            self.supervisor.tick()
            time.sleep(0.05)

    @property
    def refused(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.status != 201]

    @property
    def log(self) -> str:
        file = self.world.home / "fleet.log"
        return file.read_text() if file.exists() else ""

    def listed(self) -> set[str]:
        _, found, _ = self.world.get(f"{BASE}/clusters")
        return {each["metadata"]["name"] for each in found["items"]}

    def check(self) -> None:
        """No answer but 201 and a clean 503, and all that was acknowledged is there."""
        assert {reply.status for reply in self.refused} <= {503}
        for reply in self.refused:
            assert reply.json["kind"] == "Status" and int(reply.headers["Retry-After"]) > 0
            assert not any(word in reply.data for word in (b"Traceback", b"psycopg", b"base/"))
        assert set(self.made) <= self.listed()


@pytest.fixture
def story() -> Iterator[Story]:
    home = Path(tempfile.mkdtemp(prefix="fleet-test-"))
    home.chmod(0o755)  # PostgreSQL runs as another user
    disk = Disk(home / "disk")
    made = World(home, data=disk.folder / "pg")
    try:
        made.begin()
        made.stop()
        made.serve(FLEET_REQUESTS_PER_SECOND="0")
        yield Story(made, disk)
    finally:
        if made.process is not None and made.process.poll() is None:
            made.stop()
        made.postgres.stop()
        disk.close()
        shutil.rmtree(home, ignore_errors=True)


def test_a_full_disk_is_a_503_with_its_reason_and_reading_goes_on(story: Story) -> None:
    story.until(lambda: story.write() == 201)
    story.disk.fill()
    story.until(lambda: story.write() == 503)
    assert "no room left on its disk" in story.refused[-1].json["message"]
    codes = set()
    forgotten = time.monotonic() + REMEMBER_SECONDS + 1  # from here on the token is read, and its use noted, anew
    while time.monotonic() < forgotten:
        codes.add(story.world.get(f"{BASE}/clusters/{story.made[-1]}")[0])
    assert codes == {200}
    metrics = story.world.text("/metrics")
    assert "\nfleet_database_full_timestamp_seconds 1" in metrics

    story.disk.free()
    story.until(lambda: story.write() == 201)
    story.check()
    assert story.world.postgres.process is not None and story.world.postgres.process.poll() is None


def test_a_database_that_ended_for_lack_of_room_comes_back_by_itself_with_all_that_was_acknowledged(
    story: Story,
) -> None:
    story.until(lambda: len(story.made) > 20 or story.write() != 201)
    story.disk.fill()
    before = story.world.postgres.process
    assert before is not None
    with pytest.raises(psycopg.OperationalError), psycopg.connect(story.world.postgres.url, autocommit=True) as conn:
        while True:  # until its log finds no room, which PostgreSQL does not outlive
            conn.execute("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 1 << 20))")
    story.until(lambda: story.write() == 503)
    story.until(lambda: before.poll() is not None)
    story.until(lambda: "does not start" in story.log)
    assert story.write() == 503

    story.disk.free()
    story.until(lambda: story.write() == 201)
    story.check()
