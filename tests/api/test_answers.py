"""The forms of answers: negotiation, tables, discovery, OpenAPI, errors, tokens, redaction, protobuf."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.api import continuation, discovery, errors, negotiation, openapi, protobuf, table
from fleet.api.errors import ApiError
from fleet.api.redact import redact
from fleet.control.kinds import Json, Kind, Problem
from tests.api.recorder.kinds import BUNDLE, KINDS, RACK

NOW = datetime(2026, 1, 10, tzinfo=UTC)
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
V2BETA1 = V2.replace("v=v2", "v=v2beta1")


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/json", "json"),
        ("application/vnd.kubernetes.protobuf,application/json", "json"),
        (f"{TABLE},{TABLE.replace('v=v1', 'v=v1beta1')},application/json", "table"),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "partial"),
        ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json", "partial-list"),
        ("application/json;as=Unheard;v=v1;g=meta.k8s.io,application/json", "json"),
        ("application/yaml", "yaml"),
        ("text/html, application/json;q=0.5, application/yaml;q=0.9", "yaml"),
        ("application/json;q=0, application/yaml", "yaml"),
    ],
)
def test_the_first_form_that_we_have_is_given(header: str, form: str) -> None:
    assert negotiation.accept(header).form == form


@pytest.mark.parametrize("header", ["text/html", "application/vnd.kubernetes.protobuf", "application/json;q=0", ";;;"])
def test_a_client_that_takes_nothing_of_ours_gets_406(header: str) -> None:
    with pytest.raises(ApiError) as refused:
        negotiation.accept(header)
    assert refused.value.code == 406


@pytest.mark.parametrize(
    ("header", "content_type"),
    [(f"{V2},application/json", V2), (f"{V2},{V2BETA1},application/json", V2), (f"{V2BETA1},application/json", V2BETA1), ("application/json", "application/json")],
)  # fmt: skip
def test_discovery_names_the_form_that_it_took(header: str, content_type: str) -> None:
    assert negotiation.accept(header, discovery=True).content_type == content_type


@pytest.mark.parametrize(
    ("header", "allowed", "taken"),
    [
        ("", negotiation.BODIES, "application/json"),
        ("application/json; charset=utf-8", negotiation.BODIES, "application/json"),
        ("Application/Merge-Patch+JSON", negotiation.PATCHES, "application/merge-patch+json"),
        ("application/strategic-merge-patch+json", negotiation.PATCHES, None),
        ("text/plain", negotiation.BODIES, None),
    ],
)
def test_a_body_of_an_unknown_type_is_415_and_says_what_is_taken(header: str, allowed: Any, taken: str | None) -> None:
    try:
        assert negotiation.body_type(header, allowed) == taken
    except ApiError as refused:
        assert (refused.code, taken) == (415, None)
        assert all(name in refused.message for name in allowed)


@given(st.text(max_size=60) | st.text("aplicton/json;=qvg.,*0", max_size=60))
def test_no_header_raises_anything_but_a_refusal(header: str) -> None:
    with contextlib.suppress(ApiError):
        negotiation.accept(header)
    with contextlib.suppress(ApiError):
        negotiation.accept(header, discovery=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-2, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (121, "2m1s"), (599, "9m59s"), (600, "10m"), (10_799, "179m"),
        (10_800, "3h"), (10_860, "3h1m"), (28_800, "8h"), (172_799, "47h"), (172_800, "2d"), (176_400, "2d1h"), (691_200, "8d"), (63_071_999, "729d"),
        (63_072_000, "2y"), (63_158_400, "2y1d"), (252_288_000, "8y"), (300_000_000, "9y"),
    ],
)  # fmt: skip
def test_an_age_is_written_as_kubectl_writes_it(seconds: int, text: str) -> None:
    assert table.age(NOW - timedelta(seconds=seconds), NOW) == text


def _rack(**meta: Any) -> Json:
    return {
        "apiVersion": "fleet.dev/v1",
        "kind": "Rack",
        "metadata": {"name": "r", "creationTimestamp": "2026-01-09T00:00:00Z", "resourceVersion": "7", **meta},
        "spec": {},
    }


def test_rows_leave_out_what_only_bloats_them() -> None:
    noisy = _rack(managedFields=[{}], annotations={table.LAST_APPLIED: "x", "a": "b"})
    out = table.table(RACK, [noisy], resource_version="9", continue_="t", remaining=3, now=NOW)
    assert out["metadata"] == {"resourceVersion": "9", "continue": "t", "remainingItemCount": 3}
    row = out["rows"][0]
    assert row["cells"] == ["r", "24h"]
    assert row["object"]["metadata"]["annotations"] == {"a": "b"}
    assert "managedFields" not in row["object"]["metadata"]
    assert noisy["metadata"]["managedFields"] == [{}]


@pytest.mark.parametrize(
    ("include", "kind"), [("Metadata", "PartialObjectMetadata"), ("Object", "Rack"), ("", "PartialObjectMetadata")]
)
def test_rows_hold_what_was_asked_for(include: str, kind: str) -> None:
    assert table.table(RACK, [_rack()], include=include, now=NOW)["rows"][0]["object"]["kind"] == kind


def test_rows_without_objects_and_later_tables_without_columns() -> None:
    out = table.table(RACK, [_rack()], include="None", now=NOW, columns=False)
    assert out["rows"][0]["object"] is None
    assert out["columnDefinitions"] is None
    with pytest.raises(ApiError):
        table.table(RACK, [], include="Half", now=NOW)


def test_discovery_tells_the_same_in_both_forms() -> None:
    flat = {r["name"] for r in discovery.resource_list(KINDS, {"racks": ["why"]})["resources"]}
    whole = discovery.aggregated(KINDS, {"racks": ["why"]}, core=False, api_version="v2")
    own = whole["items"][0]["versions"][0]["resources"]
    nested = {r["resource"] for r in own} | {
        f"{r['resource']}/{s['subresource']}" for r in own for s in r["subresources"]
    }
    assert flat == nested == {"racks", "racks/status", "racks/why", "bundles", "bundles/status"}
    assert [i["metadata"]["name"] for i in whole["items"]] == [
        "fleet.dev",
        "authentication.k8s.io",
        "authorization.k8s.io",
    ]


def test_the_etag_changes_with_a_kind_and_only_then() -> None:
    longer = Kind("Rack", "racks", "rack", RACK.spec | {"description": "other"}, RACK.status)
    same, other = openapi.document([RACK]), openapi.document([longer])
    assert discovery.etag(same) == discovery.etag(openapi.document([RACK])) != discovery.etag(other)


def test_openapi_says_what_kubectl_looks_for() -> None:
    document = openapi.document(KINDS)
    patch = document["paths"]["/apis/fleet.dev/v1/racks/{name}"]["patch"]
    assert "fieldValidation" in [p["name"] for p in patch["parameters"]]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "fleet.dev", "kind": "Rack", "version": "v1"}
    schema = document["components"]["schemas"]["dev.fleet.v1.Rack"]
    assert schema["x-kubernetes-group-version-kind"] == [{"group": "fleet.dev", "kind": "Rack", "version": "v1"}]
    assert schema["properties"]["spec"]["properties"]["configMaps"]["x-kubernetes-list-map-keys"] == ["name"]
    ids = [o["operationId"] for p in document["paths"].values() for v, o in p.items() if v != "parameters"]
    assert len(ids) == len(set(ids))
    text = json.dumps(document)
    assert all(f'"{name}"' in text for name in document["components"]["schemas"])
    assert "x-fleet-" not in text


def test_kubectl_prints_causes_so_each_says_what_kind_of_mistake_it_is() -> None:
    problems = [Problem("spec.a", "x"), Problem("spec.b", "", "FieldValueRequired")]
    status = errors.invalid(BUNDLE, "n", problems).status()
    assert status["message"] == 'Bundle.fleet.dev "n" is invalid: [spec.a: Invalid value: x, spec.b: Required value]'
    assert [c["message"] for c in status["details"]["causes"]] == ["Invalid value: x", "Required value"]


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.not_found(RACK, "n"), 404, "NotFound"),
        (errors.already_exists(RACK, "n"), 409, "AlreadyExists"),
        (errors.conflict(RACK, "n"), 409, "Conflict"),
        (errors.bad_request("x"), 400, "BadRequest"),
        (errors.strict(RACK, ["spec.b", "spec.a"], ["spec.c"]), 400, "BadRequest"),
        (errors.unauthorized(), 401, "Unauthorized"),
        (errors.forbidden("v", "delete", RACK, "n"), 403, "Forbidden"),
        (errors.method_not_allowed("BREW"), 405, "MethodNotAllowed"),
        (errors.not_acceptable(["a"]), 406, "NotAcceptable"),
        (errors.expired("x"), 410, "Expired"),
        (errors.unsupported_media_type(["a"]), 415, "UnsupportedMediaType"),
        (errors.options_invalid("PatchOptions", "force", "x"), 422, "Invalid"),
        (errors.too_many_requests("x", 3), 429, "TooManyRequests"),
        (errors.internal(), 500, "InternalError"),
        (errors.unavailable("x", 3), 503, "ServiceUnavailable"),
    ],
    ids=lambda v: v.reason if isinstance(v, ApiError) else "",
)
def test_every_error_is_a_status(error: ApiError, code: int, reason: str) -> None:
    status = error.status()
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
    assert (status["code"], status["reason"]) == (code, reason)
    assert ("Retry-After" in error.headers) == (code in (429, 503))


def test_a_continue_token_is_for_its_request_and_cannot_be_made() -> None:
    token = continuation.encode("secret", 7, "r-1", "racks|a=b|")
    assert continuation.decode("secret", token, "racks|a=b|") == (7, "r-1")
    for bad, secret, filters in (
        (token, "other", "racks|a=b|"),
        (token, "secret", "racks||"),
        (token[:-2] + "AA", "secret", "racks|a=b|"),
    ):
        with pytest.raises(ApiError) as refused:
            continuation.decode(secret, bad, filters)
        assert refused.value.code == 400


@given(st.text(max_size=60))
def test_no_token_raises_anything_but_a_refusal(token: str) -> None:
    with pytest.raises(ApiError):
        continuation.decode("secret", token, "")


SECRET = Kind("Vault", "vaults", "vault", {"type": "object"}, {}, write_only=("spec.data",))


@pytest.mark.parametrize("data", [{"k": "hush"}, "hush", ["hush"], 5, None])
def test_what_is_write_only_leaves_nowhere(data: Any) -> None:
    applied = json.dumps(
        {
            "spec": {"data": data},
            "metadata": {"annotations": {table.LAST_APPLIED: json.dumps({"spec": {"data": data}})}},
        }
    )
    obj = {"metadata": {"annotations": {table.LAST_APPLIED: applied}}, "spec": {"data": data, "type": "ssh"}}
    before = json.dumps(obj)
    assert "hush" not in json.dumps(redact(SECRET, obj))
    assert json.dumps(obj) == before
    assert redact(RACK, obj) is obj


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2, len(payload)]) + payload


def _review(kind: bytes, raw: bytes) -> bytes:
    meta = _field(1, b"authorization.k8s.io/v1") + _field(2, kind)
    return protobuf.MAGIC + _field(1, meta) + _field(2, raw)


def test_a_review_of_kubectl_is_read() -> None:
    attributes = b"".join(
        _field(n, v) for n, v in ((1, b"ns"), (2, b"get"), (3, b"fleet.dev"), (5, b"machines"), (7, b"m"))
    )
    body = _review(b"SelfSubjectAccessReview", _field(1, b"") + _field(2, _field(1, attributes)))
    assert protobuf.decode_review(body) == {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "namespace": "ns",
                "verb": "get",
                "group": "fleet.dev",
                "resource": "machines",
                "name": "m",
            }
        },
    }
    other = _review(b"SelfSubjectAccessReview", _field(2, _field(2, _field(1, b"/version") + _field(2, b"get"))))
    assert protobuf.decode_review(other)["spec"] == {"nonResourceAttributes": {"path": "/version", "verb": "get"}}
    assert protobuf.decode_review(_review(b"SelfSubjectRulesReview", _field(2, _field(1, b"ns"))))["spec"] == {
        "namespace": "ns"
    }
    assert protobuf.decode_review(_review(b"SelfSubjectReview", b""))["kind"] == "SelfSubjectReview"


@given(st.binary(max_size=80))
def test_no_protobuf_raises_anything_but_a_refusal(data: bytes) -> None:
    for body in (data, protobuf.MAGIC + data, _review(b"SelfSubjectAccessReview", data)):
        with contextlib.suppress(ApiError):
            protobuf.decode_review(body)
