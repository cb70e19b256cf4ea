"""A plain HTTP client on a real connection to the live server."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

BASE = "/apis/fleet.dev/v1"
MERGE, JSON_PATCH, APPLY = "application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `json` is None for what is no JSON."""

    status: int
    headers: http.client.HTTPMessage
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data) if self.headers.get("Content-Type", "").startswith("application/json") else None

    @property
    def sentence(self) -> str:
        """Reason and message of a Status."""
        return f"{self.json['reason']}: {self.json['message']}"


@dataclass
class Http:
    """One client with one connection."""

    address: str
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 30

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=self.timeout)

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Header names are given with underscores; bodies that are no bytes are sent as JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}}
        self._connection.request(method, path, data, sent)
        answer = self._connection.getresponse()
        return Reply(answer.status, answer.msg, answer.read())

    def status_of_stream(self, path: str) -> int:
        """The status of an answer whose body never ends; the connection is given up."""
        self._connection.request("GET", path, headers=dict(self.headers))
        answer = self._connection.getresponse()
        self._connection.close()
        answer.close()
        return answer.status

    def lines(self, path: str) -> Iterator[Any]:
        """The JSON lines of a stream, until it ends."""
        self._connection.request("GET", path, headers=dict(self.headers))
        answer = self._connection.getresponse()
        try:
            while line := answer.readline():
                yield json.loads(line)
        finally:
            answer.close()
            self._connection.close()
