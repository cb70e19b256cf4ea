"""The OpenAPI documents: every address is in one of them or excused, what they say is answered, and clients of Kubernetes pass over the doors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import jsonschema_rs
import pytest
from django.db import connection
from django.urls import resolve

from fleet.api import openapi, openapi_doors, subresources, urls
from fleet.control.kinds import Json, kinds
from tests.api.http import Http
from tests.servers import People, Server

# Addresses that are in no document, and why.
EXCUSED: Final = {
    "api-docs": "the page that shows the documents",
    "openapi-root": "the list of the documents",
    "openapi": "a document itself",
    "openapi-doors": "a document itself",
    "api-core": "discovery, in the words of Kubernetes",
    "api-core-v1": "discovery, in the words of Kubernetes",
    "api-groups": "discovery, in the words of Kubernetes",
    "api-resources": "discovery, in the words of Kubernetes",
    "api-group-fleet.dev": "discovery, in the words of Kubernetes",
    "api-group-authentication.k8s.io": "discovery, in the words of Kubernetes",
    "api-group-authorization.k8s.io": "discovery, in the words of Kubernetes",
    "api-resources-authentication.k8s.io": "discovery, in the words of Kubernetes",
    "api-resources-authorization.k8s.io": "discovery, in the words of Kubernetes",
    "api-nothing": "what is not there",
}


def documents() -> tuple[Json, Json]:
    """That of the kinds, that of the doors."""
    return openapi.document(kinds().values(), subresources.names(), subresources.writable()), openapi_doors.document()


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """(address, method, operation)."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method, operation


def filled(path: str) -> str:
    """An address of that form."""
    return re.sub(r"\{(\w+)\}", lambda m: "4711" if m[1] == "number" else "a", path)


def references(value: Any) -> Iterator[str]:
    """Names of the schemas that are named anywhere."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rsplit("/", 1)[1]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_every_address_of_the_api_is_in_a_document_or_excused() -> None:
    documented = {resolve(filled(path)).url_name for document in documents() for path in document["paths"]}
    assert {pattern.name for pattern in urls.urlpatterns} - documented == set(EXCUSED)
    assert not documented & set(EXCUSED)


def test_what_is_named_is_there_and_every_operation_has_a_name_of_its_own() -> None:
    names: list[str] = []
    for document in documents():
        assert set(references(document)) <= set(document["components"]["schemas"])
        names += [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    kinds_, doors = documents()
    assert not set(kinds_["paths"]) & set(doors["paths"])
    assert set(references(doors)) == set(doors["components"]["schemas"])


def test_doors_are_no_kinds() -> None:
    """kubectl takes what names a group, version and kind for one."""
    assert "x-kubernetes-group-version-kind" not in str(documents()[1]["paths"])
    assert not any(path.startswith("/api/events") for path in documents()[0]["paths"])


def test_what_may_be_too_much_says_when_to_come_again() -> None:
    for path, method, operation in operations(documents()[1]):
        for code in {"429", "503"} & set(operation["responses"]):
            assert "Retry-After" in operation["responses"][code]["headers"], (path, method)
    publish = documents()[1]["paths"]["/api/events"]["post"]
    assert set(publish["responses"]) == {"202", "400", "401", "403", "413", "415", "422", "429", "503"}
    assert {"application/cloudevents+json", "application/cloudevents-batch+json"} < set(publish["requestBody"]["content"])  # fmt: skip


@pytest.fixture
def http(server: Server, people: People, small_fleet: list[str]) -> Iterator[Http]:
    with Http(server.http, people.headers("admin")) as found:
        yield found


def test_each_door_answers_as_its_document_says(http: Http) -> None:
    """Bodies are the examples, or empty: what is refused is refused by a code that the document names."""
    wrong = []
    for path, method, operation in operations(documents()[1]):
        content = operation.get("requestBody", {}).get("content", {})
        body = content.get("application/json", {}).get("example", {}) if content else None
        reply = http(method.upper(), filled(path), body, Content_Type="application/json")
        if str(reply.status) not in operation["responses"]:
            wrong.append((path, method, reply.status, reply.data[:200]))
    assert wrong == []


@pytest.mark.parametrize("path", ["/api/events", "/api/events/consumers", "/api/events/dead-letters", "/api/safety"])
def test_an_answer_has_the_fields_that_its_document_names(path: str, http: Http) -> None:
    document = documents()[1]
    sent = document["paths"]["/api/events"]["post"]["requestBody"]["content"]["application/json"]["example"]
    # One of a machine that is there, one that is set aside; a breaker that is open, and a notice of it.
    both = [sent | {"subject": "a1"}, sent | {"id": "2"}]
    assert http("POST", "/api/events", both, Content_Type="application/json").json == {"accepted": 1, "duplicates": 0, "quarantined": 1}  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("SELECT breaker_trip('fleet', 0, 'It was too much.')")
        cursor.execute("SELECT notice_turn()")
        cursor.execute("INSERT INTO event_consumer (name, pos) VALUES ('reader', 0)")
    schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    whole = strict({**schema, "components": document["components"]})
    answer = http("GET", path).json
    jsonschema_rs.validator_for(whole).validate(answer)
    assert any(isinstance(part, list) and part for part in answer.values()), answer


def strict(value: Any) -> Any:
    """As JSON Schema, with fields refused that are not named: an answer that grows makes its document grow."""
    if isinstance(value, list):
        return [strict(each) for each in value]
    if not isinstance(value, dict):
        return value
    out = {k: strict(v) for k, v in value.items() if k != "nullable"}
    if value.get("nullable"):
        out["type"] = [value["type"], "null"]
    if isinstance(value.get("properties"), dict) and "additionalProperties" not in value:
        out["additionalProperties"] = False
    return out


def test_the_root_names_both_documents_and_they_are_kept_by_their_hash(http: Http) -> None:
    paths = http("GET", "/openapi/v3").json["paths"]
    assert set(paths) == {"apis/fleet.dev/v1", "doors"}
    for found in paths.values():
        reply = http("GET", found["serverRelativeURL"])
        assert reply.status == 200 and "immutable" in reply.headers["Cache-Control"]
        assert reply.json["openapi"] == "3.0.0"
