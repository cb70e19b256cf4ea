"""Whatever a client sends, well formed or not, by whoever: an answer of the API's own making, never a fault of the server."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core import NOT_SET

from tests.api.http import BASE, Http
from tests.servers import People, Server

EXAMPLES = 6  # of each operation, good and bad; a thousand requests and more in all
DOCUMENTS = (f"/openapi/v3{BASE}", "/openapi/v3/doors")
WHO = ("admin", "viewer", "oper-a", "stranger")


def operations(server: Server, people: People) -> list[Any]:
    """The operations of the served documents, but streams that do not end."""
    with Http(server.http, people.headers("admin")) as http:
        found = [http("GET", path).json for path in DOCUMENTS]
    return [operation for document in found for operation in operations_of(document, server)]


def operations_of(document: Any, server: Server) -> list[Any]:
    """Those of one document."""
    for name, kind in document["components"]["schemas"].items():
        if name.startswith("dev.fleet.") and not name.endswith("List"):
            say_what_it_is(kind)
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = server.http
    return [result.ok() for result in schema.get_all_operations()]


def say_what_it_is(schema: Any) -> None:
    """As all clients do: a body without its type is refused at the door, and nothing behind it would be reached."""
    (type_,) = schema["x-kubernetes-group-version-kind"]
    schema["required"] = ["apiVersion", "kind", "metadata"]
    schema["properties"]["apiVersion"]["enum"] = [f"{type_['group']}/{type_['version']}"]
    schema["properties"]["kind"]["enum"] = [type_["kind"]]


def check(reply: Any, sent: str) -> None:
    """Never a fault of the server; what is refused is a Status with a sentence and the code of its head."""
    assert reply.status < 500, f"{reply.status} for {sent}: {reply.data[:500]!r}"
    assert b"Traceback" not in reply.data, sent
    if reply.status >= 400 and reply.data:
        assert reply.headers.get("Content-Type", "").startswith("application/json"), f"{sent}: {reply.data[:300]!r}"
        body = reply.json
        assert body["kind"] == "Status" and body["code"] == reply.status and body["message"], f"{sent}: {body}"


def send(http: Http, case: Any, who: dict[str, str]) -> None:
    """One generated request on a kept connection. Watches have tests of their own; what cannot stand in a request line is not sent."""
    path = case.formatted_path
    query = {k: v if isinstance(v, str) else json.dumps(v) for k, v in (case.query or {}).items()}
    query.pop("watch", None)
    address = path + (f"?{urlencode(query, errors='replace')}" if query else "")
    if not address.isascii() or any(c in address for c in " \r\n\x00"):
        return
    headers = {k: str(v) for k, v in (case.headers or {}).items() if str(v).isascii() and str(v).isprintable()}
    body = None
    if case.body is not NOT_SET:
        body = case.body if isinstance(case.body, bytes) else json.dumps(case.body, default=str).encode()
        headers["Content-Type"] = case.media_type or "application/json"
    sent = f"{case.method} {address} {headers} {body!r}"[:3_000]
    check(http(case.method, address, body, **{**headers, **who}), sent)


def storm(number: int, cases: Any, http: Http, who: dict[str, str]) -> int:
    """Generated requests of one operation, the same in every run; how many."""
    sent = []

    @seed(number)
    @settings(
        max_examples=EXAMPLES, database=None, deadline=None, phases=[Phase.generate], verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases)
    def one(case: Any) -> None:
        sent.append(case.method)
        send(http, case, who)

    with contextlib.suppress(Unsatisfiable):  # what takes nothing is asked for in no wrong way
        one()
    return len(sent)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"])
def test_generated_requests_are_answered_or_refused(
    server: Server, people: People, small_fleet: list[str], mode: GenerationMode
) -> None:
    found, count = operations(server, people), 0
    assert len(found) > 50
    with Http(server.http) as http:
        for number, operation in enumerate(found):
            who = people.headers(WHO[number % len(WHO)] if number % 3 else "admin")

            count += storm(number, operation.as_strategy(generation_mode=mode), http, who)
    assert count > len(found)
