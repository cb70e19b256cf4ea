"""etcd as Fleet asks it, through its JSON gateway: snapshots and members."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from clusters.kube import Kube, tls
from clusters.planes import Snapshot
from fleet.control.addresses import Network, literal_refusal
from fleet.control.endpoint import Endpoint
from fleet.control.errors import PermanentError, TemporaryError

BUMP: Final = 1_000_000_000  # revisions that a restored etcd jumps ahead, so that no watcher takes old for new
_SECONDS: Final = 120.0


async def snapshot(endpoint: Endpoint, target: Path, networks: Sequence[Network]) -> Snapshot:
    """A copy of the database into a file: etcd streams it with its checksum at the end. `endpoint` names an address."""
    why = literal_refusal(endpoint.host, networks)
    if why:
        raise PermanentError("SnapshotFailed", f"etcd is not asked: {why}")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = target.with_suffix(".part")
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS), trust_env=False) as session,
            session.post(
                f"{endpoint.server}/v3/maintenance/snapshot", json={}, ssl=tls(endpoint), allow_redirects=False,
                server_hostname=endpoint.server_name or None,
            ) as answer,
        ):  # fmt: skip
            if answer.status != 200:
                raise TemporaryError("SnapshotFailed", f"etcd answers {answer.status}: {(await answer.text())[:200]}")
            with part.open("wb") as out:
                async for line in _lines(answer):
                    out.write(base64.b64decode(line["result"].get("blob", "")))
    except (aiohttp.ClientError, TimeoutError, OSError, KeyError, orjson.JSONDecodeError) as error:
        part.unlink(missing_ok=True)
        raise TemporaryError(
            "SnapshotFailed", f"the snapshot of etcd broke off: {error or type(error).__name__}"
        ) from error
    data = part.read_bytes()
    # etcd ends the stream with the SHA-256 of what it sent.
    if len(data) <= 32 or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        part.unlink()
        raise TemporaryError("SnapshotFailed", "the snapshot of etcd does not match its checksum")
    part.chmod(0o600)
    part.replace(target)
    return Snapshot(target, hashlib.sha256(data).hexdigest(), len(data))


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """The JSON values of a stream, one a line, however long."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield orjson.loads(line)
    if rest:
        yield orjson.loads(rest)


def check(source: Snapshot) -> None:
    """PermanentError unless the file is what was stored."""
    if not source.path.exists() or hashlib.sha256(source.path.read_bytes()).hexdigest() != source.sha256:
        raise PermanentError("SnapshotDamaged", f"the snapshot {source.path.name} is not what was stored")


def restore_words(source: str, data: str, name: str, members: str, peer: str) -> list[str]:
    """What etcdutl is told, to make the data folder of one member from a snapshot."""
    return [
        "snapshot", "restore", source, "--data-dir", data, "--name", name, "--initial-cluster", members,
        "--initial-advertise-peer-urls", peer, "--bump-revision", str(BUMP), "--mark-compacted",
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A member as etcd knows it. `name` "": it was added and has not started yet."""

    id: str
    name: str
    peers: Sequence[str]


async def members(kube: Kube) -> list[Member]:
    """All members, answered by a quorum."""
    found = orjson.loads(await kube.send("POST", "/v3/cluster/member/list", body={"linearizable": True}, seconds=5))
    return [Member(str(m["ID"]), m.get("name", ""), m.get("peerURLs", [])) for m in found["members"]]


async def remove_member(kube: Kube, member: Member) -> None:
    """It counts no longer; etcd refuses where that would lose the quorum."""
    await kube.send("POST", "/v3/cluster/member/remove", body={"ID": member.id}, seconds=10)


async def add_member(kube: Kube, peer: str) -> None:
    """A member of that peer URL may join; etcd refuses while the quorum is in danger."""
    await kube.send("POST", "/v3/cluster/member/add", body={"peerURLs": [peer]}, seconds=10)
