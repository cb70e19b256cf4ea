"""Every address by every role: a new one without a row here fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
import urllib3
from django.urls import get_resolver

from fleet.control.kinds import kinds
from tests.servers import People, Server

WHO = ("anonymous", "stranger", "viewer", "oper-a", "oper-b", "admin")
# address -> (method, body) -> expected code by who, in the order of WHO
PUBLIC = {
    "api-version",
    "api-live",
    "api-ready",
    "api-docs",
    "api-core",
    "api-groups",
    "api-core-v1",
    "openapi-root",
    "openapi",
    "openapi-doors",
    "api-resources",
    "api-nothing",
}
CHECKED = {
    "api-objects",
    "api-events",
    "api-selfsubjectreviews",
    "api-selfsubjectaccessreviews",
    "api-selfsubjectrulesreviews",
    "api-event-center",
    "api-event-alertmanager",
    "api-event-redfish",
    "api-event-consumers",
    "api-dead-letters",
    "api-dead-letters-retry",
    "api-dead-letters-discard",
}
CONSOLE = {
    "login",
    "logout",
    "overview",
    "clusters",
    "cluster",
    "cluster-nodes",
    "cluster-do",
    "cluster-foresee",
    "clusters-do",
    "clusters-foresee",
    "machines",
    "machines-matching",
    "machine-foresee",
    "machine-do",
    "machines-do",
    "machine",
    "machine-tab",
    "packages",
    "safety",
    "safety-do",
    "events",
    "audit",
    "kit",
    "package",
    "preferences",
    "theme",
    "fault",
    "fault-do",
    "faults",
    "faults-do",
    "gate",
    "gate-do",
    "gate-foresee",
    "gates",
    "gates-do",
    "gates-foresee",
    "machine-report",
    "playbook",
    "playbooks",
    "remediation",
    "remediation-do",
    "remediation-evidence",
    "batches",
    "batches-do",
    "batches-foresee",
    "batch",
    "batch-do",
    "dead-letters",
    "readers",
    "letters-do",
    "remediations",
    "rule",
    "rule-do",
    "rule-foresee",
    "rules",
    "policies-do",
    "policies-foresee",
    "policy",
    "policy-do",
    "policy-foresee",
    "safety-foresee",
    "safety-tab",
}
ROWS_OF_THEIR_OWN = {"api-breaker-reset", "api-notice-acknowledge", "api-safety", "metrics"}  # in test_http_permissions


def request(
    server: Server,
    people: People,
    who: str,
    method: str,
    path: str,
    body: bytes = b"",
    content_type: str = "application/json",
) -> tuple[int, bytes]:
    """(status, body) of one request over the wire."""
    headers = {"Content-Type": content_type, **({} if who == "anonymous" else people.headers(who))}
    response = urllib3.request(method, server.http + path, body=body or None, headers=headers, retries=False)
    return response.status, response.data


def ask(server: Server, people: People, who: str, method: str, path: str) -> int:
    return request(server, people, who, method, path)[0]


def test_every_address_has_a_row_in_these_tables() -> None:
    names = {k for k in get_resolver().reverse_dict if isinstance(k, str)}
    known = PUBLIC | CHECKED | CONSOLE | ROWS_OF_THEIR_OWN
    assert {n for n in names if not n.startswith(("api-group-", "api-resources-"))} <= known


def fresh(kind: str, spec: Any) -> Any:
    return {"apiVersion": "fleet.dev/v1", "kind": kind, "metadata": {"name": "c"}, "spec": spec}


def told(subject: str) -> Any:
    return {"specversion": "1.0", "id": "1", "source": "/test", "type": "com.example.test", "subject": subject}


MATRIX: list[tuple[str, str, Any, tuple[int, ...]]] = [
    ("GET", "/apis/fleet.dev/v1/machines", None, (401, 403, 200, 200, 200, 200)),
    ("GET", "/apis/fleet.dev/v1/machines/a1", None, (401, 403, 200, 200, 403, 200)),
    ("GET", "/apis/fleet.dev/v1/machines/a1/why", None, (401, 403, 200, 200, 403, 200)),
    ("GET", "/apis/fleet.dev/v1/machines/a1/conditions", None, (401, 403, 200, 200, 403, 200)),
    ("PUT", "/apis/fleet.dev/v1/machines/a1/conditions", {"conditions": []}, (401, 403, 403, 403, 403, 403)),
    ("PATCH", "/apis/fleet.dev/v1/machines/a1", {"spec": {"rack": "r1"}}, (401, 403, 403, 200, 403, 200)),
    ("PATCH", "/apis/fleet.dev/v1/machines/a1", {"spec": {"clusterName": "b"}}, (401, 403, 403, 403, 403, 200)),
    (
        "PATCH",
        "/apis/fleet.dev/v1/machines/a1",
        {"metadata": {"annotations": {"fleet.dev/accept-diff": "x"}}},
        (401, 403, 403, 403, 403, 200),
    ),
    ("DELETE", "/apis/fleet.dev/v1/machines/a1", None, (401, 403, 403, 200, 403, 200)),
    ("DELETE", "/apis/fleet.dev/v1/machines?labelSelector=x", None, (401, 403, 403, 403, 403, 200)),
    (
        "POST",
        "/apis/fleet.dev/v1/machineclasses",
        fresh("MachineClass", {}),
        (401, 403, 403, 403, 403, 201),
    ),
    ("GET", "/apis/fleet.dev/v1/credentials", None, (401, 403, 200, 200, 200, 200)),
    (
        "POST",
        "/apis/fleet.dev/v1/credentials",
        fresh("Credential", {"type": "ssh", "data": {"password": "x"}}),
        (401, 403, 403, 403, 403, 201),
    ),
    (
        "POST",
        "/apis/fleet.dev/v1/permits",
        fresh("Permit", {"machine": "a1", "verb": "Reload"}),
        (401, 403, 403, 201, 403, 201),
    ),
    ("GET", "/api/v1/events", None, (401, 403, 200, 200, 200, 200)),
    ("GET", "/api/events", None, (401, 403, 200, 200, 200, 200)),
    ("POST", "/api/events", told("a1"), (401, 403, 403, 202, 403, 202)),
    ("POST", "/api/events", told("b1"), (401, 403, 403, 403, 202, 202)),
    ("POST", "/api/events", told("nobody"), (401, 403, 403, 202, 202, 202)),
    ("POST", "/api/events/alertmanager", {"alerts": []}, (401, 403, 403, 202, 202, 202)),
    ("POST", "/api/events/redfish?machine=b1", {"Events": [{"MessageId": "X.1.0.Y"}]}, (401, 403, 403, 403, 202, 202)),
    ("GET", "/api/events/consumers", None, (401, 403, 200, 200, 200, 200)),
    ("GET", "/api/events/dead-letters", None, (401, 403, 200, 200, 200, 200)),
    ("POST", "/api/events/dead-letters/retry", {"ids": ["1"]}, (401, 403, 403, 200, 200, 200)),
    ("POST", "/api/events/dead-letters/discard", {"ids": ["1"]}, (401, 403, 403, 200, 200, 200)),
    (
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        {"kind": "SelfSubjectReview"},
        (401, 201, 201, 201, 201, 201),
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"), MATRIX, ids=[f"{m} {p} {i}" for i, (m, p, *_) in enumerate(MATRIX)]
)
@pytest.mark.parametrize("who", WHO)
def test_each_role_gets_what_the_table_says(
    server: Server,
    small_fleet: list[str],
    people: People,
    who: str,
    method: str,
    path: str,
    body: Any,
    expected: tuple[int, ...],
) -> None:
    content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
    data = b"" if body is None else json.dumps(body).encode()
    status, answer = request(server, people, who, method, path, data, content_type)
    assert status == expected[WHO.index(who)], answer[:500]
    if status >= 400:
        assert json.loads(answer)["kind"] == "Status"


@pytest.mark.parametrize("plural", sorted(kinds()))
def test_every_kind_lists_for_a_viewer_and_is_closed_to_strangers(
    server: Server, small_fleet: list[str], people: People, plural: str
) -> None:
    assert ask(server, people, "viewer", "GET", f"/apis/fleet.dev/v1/{plural}") == 200
    assert ask(server, people, "stranger", "GET", f"/apis/fleet.dev/v1/{plural}") == 403
    assert ask(server, people, "anonymous", "GET", f"/apis/fleet.dev/v1/{plural}") == 401


def test_a_revoked_token_and_a_taken_role_are_dead(server: Server, small_fleet: list[str], people: People) -> None:
    import time

    from fleet.api.authentication import REMEMBER_SECONDS
    from fleet.api.models import RoleBinding, Token

    assert ask(server, people, "viewer", "GET", "/apis/fleet.dev/v1/machines") == 200
    RoleBinding.objects.filter(user__username="viewer").delete()
    time.sleep(REMEMBER_SECONDS + 0.5)
    assert ask(server, people, "viewer", "GET", "/apis/fleet.dev/v1/machines") == 403
    Token.objects.filter(user__username="admin").update(revoked_at="2026-01-01T00:00:00Z")
    time.sleep(REMEMBER_SECONDS + 0.5)
    assert ask(server, people, "admin", "GET", "/apis/fleet.dev/v1/machines") == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "/apis/fleet.dev/v1/machineclasses", b"{", 400),
        ("POST", "/apis/fleet.dev/v1/machineclasses", b"[]", 400),
        ("POST", "/apis/fleet.dev/v1/machineclasses", b'{"apiVersion":"fleet.dev/v1","kind":"Machine"}', 422),
        ("POST", "/apis/fleet.dev/v1/machineclasses", b'{"apiVersion":"v2","kind":"MachineClass"}', 400),
        ("POST", "/apis/fleet.dev/v1/machineclasses", b"{}", 400),
        ("POST", "/apis/fleet.dev/v1/machineclasses", b'{"apiVersion":"fleet.dev/v1","kind":"MachineClass"}', 422),
        ("POST", "/apis/fleet.dev/v1/machineclasses", b'{"metadata":{"name":"a\\u0000"}}', 400),
        ("POST", "/apis/fleet.dev/v1/machineclasses", b"\xff\xfe", 400),
        ("PUT", "/apis/fleet.dev/v1/machineclasses/x", b"{}", 400),
        ("PATCH", "/apis/fleet.dev/v1/machineclasses/x", b"{}", 415),
        ("OPTIONS", "/apis/fleet.dev/v1/machineclasses", b"", 405),
        ("GET", "/apis/fleet.dev/v1/machineclasses?limit=x", b"", 400),
        ("GET", "/apis/fleet.dev/v1/machineclasses?continue=x", b"", 400),
        ("GET", "/apis/fleet.dev/v1/machineclasses?resourceVersion=x", b"", 400),
        ("GET", "/apis/fleet.dev/v1/machineclasses/%00", b"", 404),
        ("GET", "/apis/fleet.dev/v1/nothing", b"", 404),
        ("GET", "/apis/fleet.dev/v1/machineclasses/x/y/z", b"", 404),
    ],
)
def test_bad_requests_get_a_sentence_and_never_a_500(
    server: Server, small_fleet: list[str], people: People, method: str, path: str, body: bytes, code: int
) -> None:
    status, answer = request(server, people, "admin", method, path, body)
    assert status == code, answer[:500]
