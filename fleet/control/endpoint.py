"""How an API server is reached and by whom. Plain data, so that every process can name it without a client's weight."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Endpoint:
    """All in PEM text; empty = not used.

    `server_name`: the name in its certificate where it is not the host of `server`.
    """

    server: str
    ca: str = ""
    certificate: str = ""
    key: str = ""
    token: str = ""
    server_name: str = ""

    @property
    def host(self) -> str:
        """Name or address of the server."""
        return urlsplit(self.server).hostname or ""
