"""How an API server is reached and by whom. Plain data, so that every process can name it without a client's weight."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson


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

    def kubeconfig(self, cluster: str, user: str) -> str:
        """As kubectl and kubelets read it, with everything in it; JSON is YAML."""
        pairs = (("client-certificate-data", self.certificate), ("client-key-data", self.key))
        who = {field: _packed(text) for field, text in pairs if text} | ({"token": self.token} if self.token else {})
        where = {"server": self.server} | ({"certificate-authority-data": _packed(self.ca)} if self.ca else {})
        made = {
            "apiVersion": "v1", "kind": "Config", "current-context": cluster, "clusters": [{"name": cluster, "cluster": where}],
            "users": [{"name": user, "user": who}], "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        }  # fmt: skip
        return orjson.dumps(made, option=orjson.OPT_INDENT_2).decode() + "\n"


def _packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
