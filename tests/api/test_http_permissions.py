"""Every address and every verb for everybody: a table made from the URL map and the registered kinds; what has no row fails."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from clusters.models import Cluster
from fleet.api import subresources
from fleet.api.actions import Write, create_object
from fleet.api.rights import SYSTEM
from fleet.control.kinds import Json, Kind, kinds
from fleet.control.times import format_time
from recovery.models import Remediation
from tests.api.http import BASE, MERGE, Http
from tests.servers import People, Server

EVERYBODY = ("anonymous", "stranger", "viewer", "viewer-a", "oper-a", "oper-b", "approver", "admin-a", "admin")
Row = dict[str, int]


def only(*who: str, ok: int = 200, nobody: int = 401, others: int = 403) -> Row:
    """These may; who is not known and who may not get their own codes."""
    return {w: ok if w in who else nobody if w == "anonymous" else others for w in EVERYBODY}


ANYBODY = dict.fromkeys(EVERYBODY, 200)
KNOWN = only(*EVERYBODY[1:])
WITH_A_ROLE = only(*EVERYBODY[2:])
LOGIN = dict.fromkeys(EVERYBODY, 302)  # pages for browsers: a bearer token opens none of them
READERS_OF_A = only("viewer", "viewer-a", "oper-a", "approver", "admin-a", "admin")
OPERATORS_OF_A = only("oper-a", "admin-a", "admin")
OPERATORS = only("oper-a", "oper-b", "admin-a", "admin")
ADMINS_OF_A, FLEET_ADMINS, NOBODY = only("admin-a", "admin"), only("admin"), only()

# By name in the URL map: (method, address, row).
ADDRESSES: dict[str, tuple[str, str, Row]] = {
    "api-version": ("GET", "/version", ANYBODY),
    "api-live": ("GET", "/livez", ANYBODY),
    "api-ready": ("GET", "/readyz", ANYBODY),
    "api-docs": ("GET", "/api/docs", LOGIN),
    "metrics": ("GET", "/metrics", only("viewer", "approver", "admin")),
    "api-safety": ("GET", "/api/safety", WITH_A_ROLE),
    "api-notice-acknowledge": ("POST", "/api/safety/notices/4711/acknowledge", only(*EVERYBODY[1:], ok=404)),
    "api-breaker-reset": ("POST", "/api/safety/breakers/cluster/a/reset", only("approver", "admin-a", "admin", ok=409)),
    "api-core": ("GET", "/api", KNOWN),
    "api-groups": ("GET", "/apis", KNOWN),
    "api-core-v1": ("GET", "/api/v1", KNOWN),
    "api-events": ("GET", "/api/v1/events", WITH_A_ROLE),
    "api-event-center": ("POST", "/api/events", only("oper-a", "admin-a", "admin", ok=202)),
    "api-event-alertmanager": ("POST", "/api/events/alertmanager", only("oper-a", "admin-a", "admin", ok=202)),
    "api-event-redfish": ("POST", "/api/events/redfish?machine=a1", only("oper-a", "admin-a", "admin", ok=202)),
    "api-event-consumers": ("GET", "/api/events/consumers", WITH_A_ROLE),
    "api-dead-letters": ("GET", "/api/events/dead-letters", WITH_A_ROLE),
    "api-dead-letters-retry": ("POST", "/api/events/dead-letters/retry", OPERATORS),
    "api-dead-letters-discard": ("POST", "/api/events/dead-letters/discard", OPERATORS),
    "openapi-root": ("GET", "/openapi/v3", KNOWN),
    "openapi-doors": ("GET", "/openapi/v3/doors", KNOWN),
    "openapi": ("GET", "/openapi/v3/apis/fleet.dev/v1", KNOWN),
    "api-selfsubjectreviews": ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", only(*EVERYBODY[1:], ok=201)),
    "api-selfsubjectaccessreviews": ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", only(*EVERYBODY[1:], ok=201)),
    "api-selfsubjectrulesreviews": ("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", only(*EVERYBODY[1:], ok=201)),
    "api-group-fleet.dev": ("GET", "/apis/fleet.dev", KNOWN),
    "api-group-authentication.k8s.io": ("GET", "/apis/authentication.k8s.io", KNOWN),
    "api-group-authorization.k8s.io": ("GET", "/apis/authorization.k8s.io", KNOWN),
    "api-resources-authentication.k8s.io": ("GET", "/apis/authentication.k8s.io/v1", KNOWN),
    "api-resources-authorization.k8s.io": ("GET", "/apis/authorization.k8s.io/v1", KNOWN),
    "api-resources": ("GET", BASE, KNOWN),
    "api-objects": ("GET", f"{BASE}/machines", WITH_A_ROLE),
    "api-nothing": ("GET", "/apis/nothing/v1", dict.fromkeys(EVERYBODY, 404)),
    "login": ("GET", "/login", ANYBODY),
    "logout": ("GET", "/logout", dict.fromkeys(EVERYBODY, 405)),
    "overview": ("GET", "/", LOGIN),
    "clusters": ("GET", "/clusters", LOGIN),
    "cluster": ("GET", "/clusters/a", LOGIN),
    "cluster-nodes": ("GET", "/clusters/a/nodes", LOGIN),
    "cluster-do": ("POST", "/clusters/a/do", dict.fromkeys(EVERYBODY, 403)),
    "cluster-foresee": ("POST", "/clusters/a/foresee", dict.fromkeys(EVERYBODY, 403)),
    "clusters-do": ("POST", "/do/clusters", dict.fromkeys(EVERYBODY, 403)),
    "clusters-foresee": ("POST", "/do/clusters/foresee", dict.fromkeys(EVERYBODY, 403)),
    "machines": ("GET", "/machines", LOGIN),
    "machines-do": ("POST", "/do/machines", dict.fromkeys(EVERYBODY, 403)),
    "machines-matching": ("GET", "/do/matching?q=cluster:a", LOGIN),
    "machine-do": ("POST", "/machines/a1/do", dict.fromkeys(EVERYBODY, 403)),
    "machine-foresee": ("POST", "/machines/a1/foresee", dict.fromkeys(EVERYBODY, 403)),
    "machine": ("GET", "/machines/a1", LOGIN),
    "machine-tab": ("GET", "/machines/a1/yaml", LOGIN),
    "batches": ("GET", "/batches", LOGIN),
    "batches-do": ("POST", "/do/batches", dict.fromkeys(EVERYBODY, 403)),
    "batches-foresee": ("POST", "/do/batches/foresee", dict.fromkeys(EVERYBODY, 403)),
    "batch": ("GET", "/batches/x", LOGIN),
    "batch-do": ("POST", "/batches/x/do", dict.fromkeys(EVERYBODY, 403)),
    "packages": ("GET", "/packages", LOGIN),
    "safety": ("GET", "/safety", LOGIN),
    "safety-do": ("POST", "/safety/do", dict.fromkeys(EVERYBODY, 403)),
    "safety-foresee": ("POST", "/safety/foresee", dict.fromkeys(EVERYBODY, 403)),
    "policies-do": ("POST", "/do/policies", dict.fromkeys(EVERYBODY, 403)),
    "policies-foresee": ("POST", "/do/policies/foresee", dict.fromkeys(EVERYBODY, 403)),
    "policy": ("GET", "/safety/policies/x", LOGIN),
    "policy-do": ("POST", "/safety/policies/x/do", dict.fromkeys(EVERYBODY, 403)),
    "policy-foresee": ("POST", "/safety/policies/x/foresee", dict.fromkeys(EVERYBODY, 403)),
    "safety-tab": ("GET", "/safety/holds", LOGIN),
    "faults": ("GET", "/faults", LOGIN),
    "faults-do": ("POST", "/do/faults", dict.fromkeys(EVERYBODY, 403)),
    "fault": ("GET", "/faults/x", LOGIN),
    "fault-do": ("POST", "/faults/x/do", dict.fromkeys(EVERYBODY, 403)),
    "rules": ("GET", "/rules", LOGIN),
    "rule": ("GET", "/rules/x", LOGIN),
    "rule-foresee": ("POST", "/rules/x/foresee", dict.fromkeys(EVERYBODY, 403)),
    "rule-do": ("POST", "/rules/x/do", dict.fromkeys(EVERYBODY, 403)),
    "remediations": ("GET", "/remediations", LOGIN),
    "remediation": ("GET", "/remediations/x", LOGIN),
    "remediation-do": ("POST", "/remediations/x/do", dict.fromkeys(EVERYBODY, 403)),
    "remediation-evidence": ("GET", "/remediations/x/evidence/y/z", LOGIN),
    "playbooks": ("GET", "/playbooks", LOGIN),
    "playbook": ("GET", "/playbooks/x", LOGIN),
    "machine-report": ("POST", "/machines/a1/report", dict.fromkeys(EVERYBODY, 403)),
    "gates": ("GET", "/gates", LOGIN),
    "gates-do": ("POST", "/do/gates", dict.fromkeys(EVERYBODY, 403)),
    "gates-foresee": ("POST", "/do/gates/foresee", dict.fromkeys(EVERYBODY, 403)),
    "gate": ("GET", "/gates/x", LOGIN),
    "gate-do": ("POST", "/gates/x/do", dict.fromkeys(EVERYBODY, 403)),
    "gate-foresee": ("POST", "/gates/x/foresee", dict.fromkeys(EVERYBODY, 403)),
    "events": ("GET", "/events", LOGIN),
    "dead-letters": ("GET", "/events/dead-letters", LOGIN),
    "readers": ("GET", "/events/readers", LOGIN),
    "letters-do": ("POST", "/do/letters", dict.fromkeys(EVERYBODY, 403)),
    "audit": ("GET", "/audit", LOGIN),
    "kit": ("GET", "/kit", LOGIN),
    "admin:": ("GET", "/admin/", LOGIN),
}  # fmt: skip

# What is sent to an address that wants something.
_ALERT = {"status": "firing", "labels": {"machine": "a1"}, "fingerprint": "f1", "startsAt": "2026-01-31T18:00:00Z"}
BODIES: dict[str, Any] = {
    "api-event-center": {"specversion": "1.0", "id": "1", "source": "/test", "type": "com.example.test", "subject": "a1"},
    "api-event-alertmanager": {"version": "4", "alerts": [_ALERT]},
    "api-event-redfish": {"Events": [{"MessageId": "Platform.1.0.PowerLost"}]},
    "api-dead-letters-retry": {"ids": [1]},
    "api-dead-letters-discard": {"ids": [1]},
}  # fmt: skip

# Who may write objects of a kind that lie in cluster a, and who may read one of them.
WRITERS: dict[str, tuple[Row, Row]] = {
    "machines": (OPERATORS_OF_A, READERS_OF_A),
    "operations": (OPERATORS_OF_A, READERS_OF_A),
    "operationbatches": (OPERATORS_OF_A, READERS_OF_A),
    "holds": (OPERATORS_OF_A, READERS_OF_A),
    "subscriptions": (ADMINS_OF_A, READERS_OF_A),
    "permits": (OPERATORS_OF_A, READERS_OF_A),
    "clusters": (ADMINS_OF_A, READERS_OF_A),
    "credentials": (FLEET_ADMINS, WITH_A_ROLE),
    "safetypolicies": (FLEET_ADMINS, WITH_A_ROLE),
    "readinessrules": (FLEET_ADMINS, WITH_A_ROLE),
    "idcs": (FLEET_ADMINS, WITH_A_ROLE),
    "machineclasses": (FLEET_ADMINS, WITH_A_ROLE),
    "machinepackageversions": (FLEET_ADMINS, WITH_A_ROLE),
    "machineconfigversions": (FLEET_ADMINS, WITH_A_ROLE),
    "clusterpackageversions": (FLEET_ADMINS, WITH_A_ROLE),
    "faults": (OPERATORS_OF_A, READERS_OF_A),
    "remediations": (OPERATORS_OF_A, READERS_OF_A),
    "faultrules": (FLEET_ADMINS, WITH_A_ROLE),
    "playbooks": (FLEET_ADMINS, WITH_A_ROLE),
}
# What a test needs to lie in cluster a, by kind, over the kind's own example.
PLACED: dict[str, Json] = {
    "machines": {"clusterName": "a", "idc": "iad1", "ip": "10.9.9.9"},
    "operations": {"machine": "a1", "verb": "Reconcile", "reason": "test"},
    "operationbatches": {"clusterName": "a", "verb": "Reconcile", "target": {"matchAll": True}, "reason": "test"},
    "holds": {"target": {"cluster": "a"}, "reason": "test", "until": format_time(timezone.now() + timedelta(days=7))},
    "clusters": {"idc": "iad1"},
    "subscriptions": {
        "clusterName": "a",
        "url": "https://10.1.1.1/",
        "secret": f"whsec_{'A' * 44}",
        "filter": {"matchAll": True},
    },
    "permits": {"machine": "a1", "verb": "Reload"},
    "faults": {"machine": "a1", "type": "Odd", "category": "Component", "severity": "warning"},
    "remediations": {"machine": "a1", "clusterName": "a", "fault": "x", "playbook": "y"},
    "faultrules": {
        "faultType": "Odd",
        "category": "Component",
        "when": [{"condition": "Odd"}],
        "target": {"matchAll": True},
    },
}


def names_of(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    """Names of the URL map; Django's admin counts as one."""
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLPattern):
            yield prefix + (pattern.name or str(pattern.pattern))
        elif pattern.namespace:
            yield f"{pattern.namespace}:"
        else:
            yield from names_of(pattern, prefix)


def test_every_address_has_a_row() -> None:
    assert sorted(set(names_of(get_resolver()))) == sorted(ADDRESSES)


def test_every_kind_has_a_row() -> None:
    assert sorted(kinds()) == sorted(WRITERS)


@pytest.fixture
def crowd(people: People) -> dict[str, dict[str, str]]:
    """Headers of everybody."""
    from django.contrib.auth import get_user_model

    from fleet.api.authentication import create_token
    from fleet.api.models import RoleBinding

    out: dict[str, dict[str, str]] = {"anonymous": {}}
    for who, role, cluster in (("viewer-a", "viewer", "a"), ("approver", "approver", ""), ("admin-a", "admin", "a")):
        user = get_user_model().objects.create_user(username=who, password=None)
        RoleBinding.objects.create(user=user, role=role, cluster=cluster)
        out[who] = {"Authorization": f"Bearer {create_token(user, 'test', days=1)}"}
    return out | {who: people.headers(who) for who in people.tokens}


def found(server: Server, headers: dict[str, str], method: str, path: str, body: Any = None) -> int:
    with Http(server.http, headers) as http:
        if "watch=" in path:
            return http.status_of_stream(path)
        return http(method, path, body, Content_Type=MERGE if method == "PATCH" else "application/json").status


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_an_address_answers_everybody_by_its_row(
    name: str, server: Server, crowd: dict[str, dict[str, str]], small_fleet: list[str]
) -> None:
    method, path, row = ADDRESSES[name]
    body: Any = BODIES.get(name, {} if method == "POST" and path.startswith("/apis") else None)
    assert {who: found(server, crowd[who], method, path, body) for who in EVERYBODY} == row


def sample(kind: Kind) -> Json:
    """A valid object of the kind, in cluster a where it belongs to one."""
    obj = copy.deepcopy(kind.example)
    if kind.plural in PLACED:
        obj["spec"] = PLACED[kind.plural]
    obj["metadata"] = {"name": "a" if kind.plural == "clusters" else f"my-{kind.singular}"}
    return obj


def stored(kind: Kind) -> Json:
    """That object, stored, unless the fleet has it."""
    obj = sample(kind)
    if kind.plural == "machines":
        obj["metadata"]["name"] = "a1"
    elif kind.plural == "remediations":  # Fleet makes them
        name, now, cluster = obj["metadata"]["name"], timezone.now(), Cluster.objects.get(name="a").pk
        Remediation.objects.create(
            name=name, spec=obj["spec"], created_at=now, phase_at=now, ended_at=now, fault_id=1, machine_id=1, cluster_id=cluster, playbook="y"
        )  # fmt: skip
    elif kind.plural != "clusters" and not kind.read_only:
        create_object(kind.plural, obj, write=Write(by=SYSTEM))
    return obj


def requests_of(kind: Kind, obj: Json) -> Iterator[tuple[str, str, str, Any, Row]]:
    """(what, method, path, body, row). All writes are dry runs."""
    base, name = f"{BASE}/{kind.plural}", obj["metadata"]["name"]
    one, dry = f"{base}/{name}", "?dryRun=All"
    writers, readers = WRITERS[kind.plural]
    label = {"metadata": {"labels": {"x": "y"}}}
    yield "list", "GET", base, None, WITH_A_ROLE
    yield "watch", "GET", f"{base}?watch=1&timeoutSeconds=5", None, WITH_A_ROLE
    if kind.read_only:
        yield "create", "POST", base + dry, obj, NOBODY
        return
    yield "get", "GET", one, None, readers
    for sub in ("status", *subresources.names().get(kind.plural, [])):
        yield f"get {sub}", "GET", f"{one}/{sub}", None, readers
    new = {**obj, "metadata": {"name": f"{name}-2"}}
    if kind.plural in ("machines", "operations", "faults"):
        new["spec"] = PLACED[kind.plural] | ({"machine": "a2"} if kind.plural != "machines" else {})
    made = 403 if kind.plural == "remediations" else 201  # by Fleet alone
    if kind.plural != "clusters":  # a cluster of another name lies in another scope
        yield "create", "POST", base + dry, new, {w: made if code == 200 else code for w, code in writers.items()}
    yield "patch", "PATCH", one + dry, label, writers
    yield "patch status", "PATCH", f"{one}/status{dry}", {"status": {}}, FLEET_ADMINS
    if kind.plural != "clusters":  # deleting a cluster takes its name as a word, tested with clusters
        done = (
            409 if kind.plural in ("operations", "operationbatches") else 200
        )  # what is open is cancelled, not deleted
        yield "delete", "DELETE", one + dry, None, {w: done if code == 200 else code for w, code in writers.items()}
    yield "delete many", "DELETE", f"{base}{dry}&labelSelector=x%3Dy", None, FLEET_ADMINS


@pytest.mark.parametrize("plural", sorted(WRITERS))
def test_a_kind_answers_everybody_by_its_row(
    plural: str, server: Server, crowd: dict[str, dict[str, str]], small_fleet: list[str]
) -> None:
    obj = stored(kinds()[plural])
    table = {
        what: (row, {who: found(server, crowd[who], method, path, body) for who in EVERYBODY})
        for what, method, path, body, row in requests_of(kinds()[plural], obj)
    }
    wrong = {what: (row, seen) for what, (row, seen) in table.items() if row != seen}
    assert wrong == {}


@pytest.mark.parametrize(
    ("who", "machines", "clusters"),
    [("admin", ["a1", "a2", "b1"], ["a", "b"]), ("viewer-a", ["a1", "a2"], ["a"]), ("oper-b", ["b1"], ["b"])],
)
@pytest.mark.parametrize("query", ["", "?limit=1", "?watch=1&timeoutSeconds=1"])
def test_lists_and_watches_show_only_what_lies_in_scope(
    who: str, machines: list[str], clusters: list[str], query: str,
    server: Server, crowd: dict[str, dict[str, str]], small_fleet: list[str],
) -> None:  # fmt: skip
    for plural, names in (("machines", machines), ("clusters", clusters)):
        assert sorted(everything(server, crowd[who], plural, query)) == names


def everything(server: Server, headers: dict[str, str], plural: str, query: str) -> Iterator[str]:
    """Names of a collection, by list, pages or watch."""
    path = f"{BASE}/{plural}{query}"
    with Http(server.http, headers) as http:
        if "watch" in query:
            yield from (e["object"]["metadata"]["name"] for e in http.lines(path))
            return
        more: str | None = ""
        while more is not None:
            body = http("GET", path + (f"&continue={more}" if more else "")).json
            yield from (o["metadata"]["name"] for o in body["items"])
            more = body["metadata"].get("continue")


def test_events_of_another_cluster_or_of_no_cluster_stay_unseen(
    server: Server, crowd: dict[str, dict[str, str]], small_fleet: list[str]
) -> None:
    loose = {**sample(kinds()["machines"]), "metadata": {"name": "loose"}}
    loose["spec"] = {"idc": "iad1", "ip": "10.9.9.10"}
    create_object("machines", loose, write=Write(by=SYSTEM))
    with Http(server.http, crowd["viewer-a"]) as http:
        seen = {e["involvedObject"]["name"] for e in http("GET", "/api/v1/events").json["items"]}
    assert seen == {"a", "a1", "a2"}
    with Http(server.http, crowd["viewer"]) as http:
        everything_seen = {e["involvedObject"]["name"] for e in http("GET", "/api/v1/events").json["items"]}
    assert everything_seen >= {"a", "b", "b1", "loose"}


@pytest.mark.parametrize("field", ["phase", "accepted", "conditions"])
def test_an_operator_cannot_write_what_only_fleet_decides(
    field: str, server: Server, crowd: dict[str, dict[str, str]], small_fleet: list[str]
) -> None:
    with Http(server.http, crowd["oper-a"]) as http:
        before = http("GET", f"{BASE}/machines/a1").json.get("status")
        http("PATCH", f"{BASE}/machines/a1", {"status": {field: "Running"}}, Content_Type=MERGE)
        assert http("GET", f"{BASE}/machines/a1").json.get("status") == before


def test_moving_a_machine_takes_rights_on_both_clusters(
    server: Server, crowd: dict[str, dict[str, str]], small_fleet: list[str]
) -> None:
    move = {"spec": {"clusterName": "b"}}
    with Http(server.http, crowd["oper-a"]) as http:
        assert http("PATCH", f"{BASE}/machines/a1", move, Content_Type=MERGE).status == 403
    with Http(server.http, crowd["admin"]) as http:
        assert http("PATCH", f"{BASE}/machines/a1", move, Content_Type=MERGE).status == 200


@pytest.mark.parametrize(("who", "code"), [("viewer-a", 403), ("oper-a", 403), ("approver", 200), ("admin-a", 200)])
def test_an_annotation_that_is_a_persons_word_takes_an_approver(
    who: str, code: int, server: Server, crowd: dict[str, dict[str, str]], small_fleet: list[str]
) -> None:
    word = {"metadata": {"annotations": {"fleet.dev/abandon": "a1"}}}
    with Http(server.http, crowd[who]) as http:
        assert http("PATCH", f"{BASE}/machines/a1?dryRun=All", word, Content_Type=MERGE).status == code


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"spec": {"rack": "r9"}}, id="a field of spec"),
        pytest.param({"metadata": {"labels": {"x": "y"}, "annotations": {"fleet.dev/abandon": "a1"}}}, id="a label"),
        pytest.param({"metadata": {"annotations": {"fleet.dev/abandon": "a1", "note": "z"}}}, id="another annotation"),
        pytest.param({"metadata": {"finalizers": None, "annotations": {"fleet.dev/abandon": "a1"}}}, id="a finalizer"),
        pytest.param({}, id="nothing at all"),
    ],
)
def test_an_approver_who_may_not_write_says_a_word_and_changes_nothing_besides(
    more: Json, server: Server, crowd: dict[str, dict[str, str]], small_fleet: list[str]
) -> None:
    with Http(server.http, crowd["approver"]) as http:
        assert http("PATCH", f"{BASE}/machines/a1?dryRun=All", more, Content_Type=MERGE).status == 403
