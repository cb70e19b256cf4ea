"""What is refused, and how: every refusal is a Status (or kubectl's plain 404), never a page of Django, never a 500."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.api.http import APPLY, BASE, JSON_PATCH, MERGE, Http
from tests.servers import People, Server

CLASSES = f"{BASE}/machineclasses"
GPU = {"apiVersion": "fleet.dev/v1", "kind": "MachineClass", "metadata": {"name": "gpu"}, "spec": {}}


@pytest.fixture
def admin(server: Server, people: People) -> Http:
    """Admin, with one MachineClass `gpu` there."""
    http = Http(server.http, people.headers("admin"))
    assert http("POST", CLASSES, GPU).status == 201
    return http


CASES: dict[str, tuple[str, str, Any, dict[str, str], int, str]] = {
    "a missing object": ("GET", f"{CLASSES}/x", None, {}, 404, 'NotFound: machineclasses.fleet.dev "x" not found'),
    "one that exists": ("POST", CLASSES, GPU, {}, 409, 'AlreadyExists: machineclasses.fleet.dev "gpu" already exists'),
    "no JSON": ("POST", CLASSES, b"{", {}, 400, "BadRequest: the body is not valid JSON"),
    "a list as object": ("POST", CLASSES, [], {}, 400, "BadRequest: the body must be a MachineClass object"),
    "a wrong apiVersion": ("POST", CLASSES, GPU | {"apiVersion": "v1"}, {}, 400, "BadRequest: the API version in the data"),
    "a wrong kind": ("POST", CLASSES, GPU | {"kind": "Machine"}, {}, 422, "Invalid: MachineClass.fleet.dev"),
    "no kind": ("POST", CLASSES, {"apiVersion": "fleet.dev/v1", "metadata": {"name": "n"}}, {}, 400, "BadRequest: Object 'Kind' is missing in the body: it must say kind: MachineClass"),
    "no apiVersion": ("POST", CLASSES, {"kind": "MachineClass", "metadata": {"name": "n"}}, {}, 400, "BadRequest: the API version in the data () does not match the expected API version (fleet.dev/v1)"),
    "a kind that is no text": ("POST", CLASSES, GPU | {"kind": ["MachineClass"]}, {}, 400, "BadRequest: kind in the body is no text: it must be MachineClass"),
    "an apply without kind": ("PATCH", f"{CLASSES}/gpu?fieldManager=m", {"metadata": {"name": "gpu"}}, {"Content_Type": APPLY}, 400, "BadRequest: invalid object type: , Kind=: must be fleet.dev/v1, Kind=MachineClass"),
    "an apply that takes the name away": ("PATCH", f"{CLASSES}/gpu?fieldManager=m", GPU | {"metadata": {"name": None}}, {"Content_Type": APPLY}, 400, "name must be provided"),
    "an apply of a new object without its name": ("PATCH", f"{CLASSES}/n?fieldManager=m", GPU | {"metadata": {}}, {"Content_Type": APPLY}, 400, "BadRequest: the name of the object (n based on URL) was undeterminable: name must be provided"),
    "a put without name": ("PUT", f"{CLASSES}/gpu", GPU | {"metadata": {"resourceVersion": "1"}}, {}, 400, "the name of the object (gpu based on URL) was undeterminable: name must be provided"),
    "a put without kind": ("PUT", f"{CLASSES}/gpu", {"apiVersion": "fleet.dev/v1", "metadata": {"name": "gpu"}}, {}, 400, "Object 'Kind' is missing"),
    "a put of nothing that is there": ("PUT", f"{CLASSES}/x", GPU | {"metadata": {"name": "x"}}, {}, 404, 'NotFound: machineclasses.fleet.dev "x" not found'),
    "a patch that takes the kind away": ("PATCH", f"{CLASSES}/gpu", {"kind": None}, {"Content_Type": MERGE}, 422, "Object 'Kind' is missing in the result: a patch must leave kind: MachineClass"),
    "a patch that takes the apiVersion away": ("PATCH", f"{CLASSES}/gpu", [{"op": "remove", "path": "/apiVersion"}], {"Content_Type": JSON_PATCH}, 422, 'apiVersion: Invalid value: "": must be fleet.dev/v1'),
    "a patch to another kind": ("PATCH", f"{CLASSES}/gpu", {"kind": "Machine", "apiVersion": "v2"}, {"Content_Type": MERGE}, 422, 'kind: Invalid value: "Machine": must be MachineClass'),
    "a patch to another uid": ("PATCH", f"{CLASSES}/gpu", {"metadata": {"uid": "x"}}, {"Content_Type": MERGE}, 422, 'metadata.uid: Invalid value: "x": field is immutable'),
    "a bad name": ("POST", CLASSES, GPU | {"metadata": {"name": "../x"}}, {}, 422, "metadata.name"),
    "a version on create": ("POST", CLASSES, GPU | {"metadata": {"name": "n", "resourceVersion": "1"}}, {}, 400, "BadRequest: resourceVersion should not be set"),
    "a put without version": ("PUT", f"{CLASSES}/gpu", GPU, {}, 422, "must be specified for an update"),
    "a stale put": ("PUT", f"{CLASSES}/gpu", GPU | {"metadata": {"name": "gpu", "resourceVersion": "1"}}, {}, 409, "the object has been modified"),
    "another name in the body": ("PUT", f"{CLASSES}/gpu", GPU | {"metadata": {"name": "b", "resourceVersion": "1"}}, {}, 400, "the name of the object (b) does not match the name on the URL (gpu)"),
    "an unknown field": ("POST", f"{CLASSES}?fieldValidation=Strict", GPU | {"metadata": {"name": "n"}, "spec": {"bogus": 1}}, {}, 400, 'strict decoding error: unknown field "spec.bogus"'),
    "a field twice": ("POST", f"{CLASSES}?fieldValidation=Strict", b'{"apiVersion":"fleet.dev/v1","kind":"MachineClass","metadata":{"name":"n"},"spec":{"versions":{},"versions":{}}}', {}, 400, 'duplicate field "spec.versions"'),
    "a strategic patch": ("PATCH", f"{CLASSES}/gpu", {}, {"Content_Type": "application/strategic-merge-patch+json"}, 415, MERGE),
    "an unknown body": ("POST", CLASSES, b"x", {"Content_Type": "text/html"}, 415, "UnsupportedMediaType"),
    "an unknown form": ("GET", CLASSES, None, {"Accept": "text/html"}, 406, "NotAcceptable"),
    "a JSON patch that is no list": ("PATCH", f"{CLASSES}/gpu", {}, {"Content_Type": JSON_PATCH}, 400, "BadRequest"),
    "a JSON patch off the path": ("PATCH", f"{CLASSES}/gpu", [{"op": "remove", "path": "/spec/no"}], {"Content_Type": JSON_PATCH}, 422, "/spec/no"),
    "a JSON patch that removes metadata": ("PATCH", f"{CLASSES}/gpu", [{"op": "remove", "path": "/metadata"}], {"Content_Type": JSON_PATCH}, 400, "BadRequest"),
    "apply without manager": ("PATCH", f"{CLASSES}/gpu", GPU, {"Content_Type": APPLY}, 422, "is required for apply patch"),
    "force on a merge": ("PATCH", f"{CLASSES}/gpu?force=true", {}, {"Content_Type": MERGE}, 422, "may not be specified for non-apply patch"),
    "a bad dry run": ("POST", f"{CLASSES}?dryRun=Some", GPU, {}, 422, "dryRun"),
    "a bad validation": ("POST", f"{CLASSES}?fieldValidation=Maybe", GPU, {}, 422, "fieldValidation"),
    "a long manager": ("POST", f"{CLASSES}?fieldManager={'m' * 129}", GPU, {}, 422, "may not be longer than 128 bytes"),
    "a bad limit": ("GET", f"{CLASSES}?limit=-1", None, {}, 400, "limit must be a non-negative integer"),
    "a forged token": ("GET", f"{CLASSES}?limit=1&continue=AAAA", None, {}, 400, "continue key is not valid"),
    "a bad label selector": ("GET", f"{CLASSES}?labelSelector=a(b", None, {}, 400, "unable to parse requirement"),
    "a bad field selector": ("GET", f"{CLASSES}?fieldSelector=spec.x%3D1", None, {}, 400, "field label not supported: spec.x"),
    "a bad version": ("GET", f"{CLASSES}?resourceVersion=x", None, {}, 400, "resourceVersion"),
    "a bad version to watch": ("GET", f"{CLASSES}?watch=1&resourceVersion=x", None, {}, 400, "resourceVersion"),
    "initial events alone": ("GET", f"{CLASSES}?watch=1&sendInitialEvents=true", None, {}, 422, "NotOlderThan"),
    "an exact old list": ("GET", f"{CLASSES}?resourceVersion=7&resourceVersionMatch=Exact", None, {}, 410, "Expired"),
    "an exact list of any version": ("GET", f"{CLASSES}?resourceVersion=0&resourceVersionMatch=Exact", None, {}, 422, 'resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'),
    "a match where a list goes on": ("GET", f"{CLASSES}?limit=1&continue=x&resourceVersion=7&resourceVersionMatch=NotOlderThan", None, {}, 422, "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"),
    "a match of no version": ("GET", f"{CLASSES}?resourceVersionMatch=NotOlderThan", None, {}, 422, "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"),
    "a match in a watch": ("GET", f"{CLASSES}?watch=1&resourceVersion=7&resourceVersionMatch=NotOlderThan", None, {}, 422, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
    "a method of nobody": ("PROPFIND", CLASSES, None, {}, 405, "MethodNotAllowed"),
    "a put on a list": ("PUT", CLASSES, GPU, {}, 405, "MethodNotAllowed"),
    "a post on an object": ("POST", f"{CLASSES}/gpu", GPU, {}, 405, "MethodNotAllowed"),
    "a post on discovery": ("POST", "/apis", None, {}, 405, "MethodNotAllowed"),
    "a write of events": ("POST", "/api/v1/events", {}, {}, 405, "MethodNotAllowed"),
    "an unknown subresource": ("GET", f"{CLASSES}/gpu/scale", None, {}, 404, 'NotFound: machineclasses.fleet.dev "gpu" not found'),
    "delete everything": ("DELETE", CLASSES, None, {}, 400, "an empty selection is never everything"),
    "delete of another uid": ("DELETE", f"{CLASSES}/gpu", {"preconditions": {"uid": "x"}}, {}, 409, "Precondition failed"),
    "a bad policy": ("DELETE", f"{CLASSES}/gpu", {"propagationPolicy": "Maybe"}, {}, 422, "propagationPolicy"),
    "impersonation": ("GET", CLASSES, None, {"Impersonate_User": "bob"}, 403, "impersonation"),
    "impersonation at discovery": ("GET", "/apis", None, {"Impersonate_User": "bob"}, 403, "impersonation"),
    "a wrong token": ("GET", CLASSES, None, {"Authorization": "Bearer fleet_wrong"}, 401, "Unauthorized: Unauthorized"),
    "basic auth": ("GET", CLASSES, None, {"Authorization": "Basic eDp5"}, 401, "Unauthorized"),
    "a huge body": ("POST", CLASSES, b" " * (3 * 1024 * 1024 + 1), {}, 413, "RequestEntityTooLarge"),
    "a deep body": ("POST", CLASSES, b'{"a":' * 500 + b"1" + b"}" * 500, {}, 400, "nested deeper"),
    "NUL in a body": ("POST", CLASSES, GPU | {"metadata": {"name": "n", "annotations": {"a": "\0"}}}, {}, 400, "NUL"),
    "NUL in a field selector": ("GET", f"{CLASSES}?fieldSelector=metadata.name%3D%00", None, {}, 400, "BadRequest"),
    "NUL in a label selector": ("GET", f"{CLASSES}?labelSelector=a%3D%00", None, {}, 400, "BadRequest"),
    "NUL in an event selector": ("GET", "/api/v1/events?fieldSelector=reason%3D%00", None, {}, 400, "BadRequest"),
    "a thousand parameters": ("GET", f"{CLASSES}?{'a=1&' * 1500}", None, {}, 400, "BadRequest"),
    "a foreign host": ("GET", CLASSES, None, {"Host": "evil.example"}, 400, "BadRequest"),
    "a review that is none": ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", [], {}, 400, "BadRequest"),
    "a review in broken protobuf": ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", b"k8s\0\xff\xff", {}, 400, "BadRequest"),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_it_is_refused_with_a_status_that_says_why(what: str, admin: Http) -> None:
    method, path, body, headers, code, sentence = CASES[what]
    with admin:
        reply = admin(method, path, body, **headers)
        assert reply.status == code, reply.data
        assert sentence in reply.sentence
        assert (reply.json["kind"], reply.json["status"], reply.json["code"]) == ("Status", "Failure", code)
        assert admin("GET", CLASSES).json["items"][0]["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    "path",
    [
        f"{BASE}/nothing",
        f"{BASE}/nothing?watch=1",
        f"{BASE}/nothing/x/y/z",
        f"{BASE}/namespaces/default/machineclasses",
        f"{CLASSES}/a%00b",
        f"{CLASSES}%0A",
        "/apis/other.dev/v1/things",
        "/api/v1/pods",
        "/openapi/v2",
    ],
)
def test_an_unknown_address_is_kubectls_plain_404(path: str, admin: Http) -> None:
    with admin:
        reply = admin("GET", path)
    assert (reply.status, reply.data) == (404, b"404 page not found\n")
    assert reply.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    "path",
    [
        "/version/",
        "/api/",
        "/apis/",
        "/apis/fleet.dev/",
        f"{BASE}/",
        f"{CLASSES}/",
        f"{CLASSES}/gpu/",
        f"{CLASSES}/gp%75",
    ],
)
def test_slashes_at_the_end_and_escapes_lead_to_the_same(path: str, admin: Http) -> None:  # fmt: skip
    plain = path.rstrip("/").replace("%75", "u")
    with admin:
        assert admin("GET", path).json == admin("GET", plain).json


@pytest.mark.parametrize("path", [CLASSES, f"{CLASSES}/gpu", "/apis", "/readyz", "/api/v1/events"])
def test_head_is_get_without_the_body(path: str, admin: Http) -> None:
    with admin:
        head, get = admin("HEAD", path), admin("GET", path)
    assert (head.status, head.data) == (get.status, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


def test_a_write_without_content_type_is_json(admin: Http) -> None:
    with admin:
        live = admin("GET", f"{CLASSES}/gpu").json
        assert admin("PUT", f"{CLASSES}/gpu", live).json == live


def test_yaml_goes_in_and_out(admin: Http) -> None:
    text = b"apiVersion: fleet.dev/v1\nkind: MachineClass\nmetadata: {name: cpu}\nspec: {versions: {pouch: '1.0'}}\n"
    with admin:
        made = admin("POST", CLASSES, text, Content_Type="application/yaml", Accept="application/yaml")
    assert made.status == 201
    assert b"pouch: '1.0'" in made.data


def test_each_unknown_field_is_a_warning_of_its_own(admin: Http) -> None:
    body = GPU | {"metadata": {"name": "n"}, "spec": {"a,b": 1, 'c"d': 2}}
    with admin:
        reply = admin("POST", CLASSES, body)
    assert reply.status == 201
    assert reply.headers.get_all("Warning") == [
        '299 - "unknown field \\"spec.a,b\\""',
        '299 - "unknown field \\"spec.c\\"d\\""',
    ]


def test_discovery_is_not_sent_again_to_who_has_it(admin: Http) -> None:
    form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    with admin:
        first = admin("GET", "/apis", Accept=f"{form},application/json")
        assert first.headers["Content-Type"] == form
        again = admin("GET", "/apis", Accept=f"{form},application/json", If_None_Match=first.headers["ETag"])
        assert (again.status, again.data, again.headers["Content-Type"]) == (304, b"", form)
        where = admin("GET", "/openapi/v3").json["paths"]["apis/fleet.dev/v1"]["serverRelativeURL"]
        assert "immutable" in admin("GET", where).headers["Cache-Control"]


def test_a_long_list_is_packed_and_whole_with_and_without_a_limit(server: Server, people: People) -> None:
    from fleet.api.actions import Write, create_object
    from fleet.api.rights import SYSTEM

    names = [f"c{n:04}" for n in range(1_020)]
    for name in names:
        create_object(
            "machineclasses",
            GPU | {"metadata": {"name": name, "annotations": {"note": "x" * 100}}},
            write=Write(by=SYSTEM),
        )
    with Http(server.http, people.headers("admin")) as http:
        for path in (CLASSES, f"{CLASSES}?limit=1020"):
            reply = http("GET", path, Accept_Encoding="gzip")
            assert reply.headers["Content-Encoding"] == "gzip"
            body = json.loads(gzip.decompress(reply.data))
            assert [o["metadata"]["name"] for o in body["items"]] == names
            assert "continue" not in body["metadata"]
        shown = http("GET", CLASSES, Accept="application/json;as=Table;v=v1;g=meta.k8s.io").json
        assert [r["cells"][0] for r in shown["rows"]] == names
        assert (
            http("GET", CLASSES, Accept="application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").json[
                "items"
            ][-1]["metadata"]["name"]
            == names[-1]
        )
        page = http("GET", f"{CLASSES}?limit=20").json
        assert page["metadata"]["remainingItemCount"] == 1_000


def test_a_session_writes_only_with_its_csrf_token(server: Server, people: People) -> None:
    from django.contrib.auth import get_user_model
    from django.test import Client

    browser = Client()
    browser.force_login(get_user_model().objects.get(username="admin"))
    cookie = f"sessionid={browser.cookies['sessionid'].value}"
    token = "t" * 32
    with Http(server.http, {"Cookie": cookie}) as http:
        assert http("GET", CLASSES).status == 200
        refused = http("POST", CLASSES, GPU)
        assert (refused.status, refused.json["reason"]) == (403, "Forbidden")
        assert "CSRF" in refused.json["message"]
    with Http(server.http, {"Cookie": f"{cookie}; csrftoken={token}", "X-CSRFToken": token}) as http:
        assert http("POST", CLASSES, GPU).status == 201


def test_a_token_dies_when_it_is_revoked_expired_or_its_user_disabled(server: Server, people: People) -> None:
    from django.contrib.auth import get_user_model
    from django.utils import timezone

    from fleet.api.models import Token

    # Each is used for the first time here: a token that was good a moment ago may be remembered for five seconds.
    Token.objects.filter(user__username="admin").update(revoked_at=timezone.now())
    Token.objects.filter(user__username="viewer").update(expires_at=timezone.now())
    get_user_model().objects.filter(username="oper-a").update(is_active=False)
    for who in ("admin", "viewer", "oper-a"):
        with Http(server.http, people.headers(who)) as http:
            assert http("GET", CLASSES).status == 401
    with Http(server.http, people.headers("oper-b")) as http:
        assert http("GET", CLASSES).status == 200
