"""A command in a container of a pod, through the API server's websocket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from clusters.kube import Kube, KubeError, KubeUnreachable
from fleet.control.kinds import Json

_STDIN, _STDOUT, _STDERR, _STATUS = 0, 1, 2, 3  # channels: the first byte of each frame
_PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_CHUNK: Final = 32 << 10


async def run(
    kube: Kube, namespace: str, pod: str, container: str, words: Sequence[str], *, stdin: Path | None = None, seconds: float = 120.0
) -> bytes:  # fmt: skip
    """Its standard output. KubeError with its last words when it fails; it must end by itself once it has read all of `stdin`."""
    wanted = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", w) for w in words)]
    if stdin is not None:
        wanted.append(("stdin", "true"))
    out: dict[int, bytearray] = {_STDOUT: bytearray(), _STDERR: bytearray(), _STATUS: bytearray()}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
    try:
        async with asyncio.timeout(seconds), kube.socket(path, wanted, _PROTOCOLS) as socket:
            sender = asyncio.create_task(_send(socket, stdin)) if stdin is not None else None
            try:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.BINARY and message.data and message.data[0] in out:
                        out[message.data[0]] += message.data[1:]
            finally:
                if sender is not None:
                    sender.cancel()
    except TimeoutError as error:
        raise KubeUnreachable(f"{words[0]} in pod {pod} took longer than {seconds:.0f} s") from error
    if not out[_STATUS]:
        raise KubeUnreachable(f"{words[0]} in pod {pod}: the connection ended before it did")
    status: Json = orjson.loads(bytes(out[_STATUS]))
    if status.get("status") != "Success":
        said = bytes(out[_STDERR]).decode(errors="replace").strip()[-300:]
        raise KubeError(500, status.get("reason", "ExecFailed"), f"{status.get('message', '')}: {said}".strip(": "))
    return bytes(out[_STDOUT])


async def _send(socket: aiohttp.ClientWebSocketResponse, source: Path) -> None:
    with source.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            await socket.send_bytes(bytes([_STDIN]) + chunk)
    if socket.protocol == _PROTOCOLS[0]:
        await socket.send_bytes(bytes([255, _STDIN]))
