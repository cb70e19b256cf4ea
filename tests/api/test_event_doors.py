"""Events over HTTP: each form is taken, what is wrong is told by field, and a request is stored whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.api.errors import ApiError
from fleet.api.event_doors import Gate
from tests.api.http import Http, Reply
from tests.servers import People, Server

EVENTS = "/api/events"
CLOUD, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


def cloud_event(number: int = 1, **changes: Any) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": str(number), "source": "/test", "type": "com.example.disk", "subject": "a1"}
    return {k: v for k, v in {**event, **changes}.items() if v is not None}


@pytest.fixture
def http(server: Server, people: People, small_fleet: list[str]) -> Iterator[Http]:
    with Http(server.http, people.headers("admin")) as made:
        yield made


def post(http: Http, body: Any, path: str = EVENTS, content_type: str = "application/json", **headers: str) -> Reply:
    return http("POST", path, body, Content_Type=content_type, **headers)


def stored() -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT type, source_id, severity, data FROM event WHERE source_id IS NOT NULL ORDER BY pos")
        return [(t, i, s, json.loads(d) if isinstance(d, str) else d) for t, i, s, d in cursor.fetchall()]


@pytest.mark.parametrize("content_type", ["application/json", CLOUD, f"{CLOUD}; charset=utf-8"])
def test_a_structured_event_is_taken(content_type: str, http: Http) -> None:
    sent = cloud_event(severity="error", time="2026-01-31T18:00:00+01:00", data={"reason": "Smart", "message": "bad"})
    now = {**sent, "time": None} if content_type == CLOUD else sent
    reply = post(http, {k: v for k, v in now.items() if v is not None and k != "time"}, content_type=content_type)
    assert (reply.status, reply.json) == (202, {"accepted": 1, "duplicates": 0, "quarantined": 0})
    [(type_, source_id, severity, data)] = stored()
    assert (type_, source_id, severity) == ("com.example.disk", "1", 2)
    assert data == {"reason": "Smart", "message": "bad", "name": "a1", "by": "admin"}


def test_a_batch_is_taken_and_told_what_it_repeats(http: Http) -> None:
    batch = [cloud_event(n) for n in (1, 2, 2, 3)]
    assert post(http, batch, content_type=BATCH).json == {"accepted": 3, "duplicates": 1, "quarantined": 0}
    assert post(http, batch).json == {"accepted": 0, "duplicates": 4, "quarantined": 0}


def test_a_binary_event_is_taken(http: Http) -> None:
    headers = {
        "ce_specversion": "1.0", "ce_id": "x-1", "ce_source": "/caf%C3%A9", "ce_type": "com.example.a", "ce_subject": "cluster/a", "ce_severity": "warning",
    }  # fmt: skip
    assert post(http, {"message": "hello"}, **headers).status == 202
    assert post(http, "grüße".encode(), content_type="text/plain", **{**headers, "ce_id": "x-2"}).status == 202
    assert [(s, d["message"]) for _, _, s, d in stored()] == [(1, "hello"), (1, "grüße")]


def test_the_observed_time_is_kept(http: Http) -> None:
    from django.utils import timezone

    now = timezone.now().isoformat()
    assert post(http, cloud_event(time=now)).json["accepted"] == 1
    assert stored()[0][3]["time"] == now.replace("+00:00", "Z")


BAD: dict[str, tuple[Any, int, str]] = {
    "no id": (cloud_event(id=None), 422, "event.id: is required"),
    "empty source": (cloud_event(source=""), 422, "event.source: is required"),
    "old version": (cloud_event(specversion="0.3"), 422, 'event.specversion: must be "1.0"'),
    "number as id": (cloud_event(id=7), 422, "event.id: must be text"),
    "odd type": (cloud_event(type="no spaces please"), 422, "event.type: letters, digits"),
    "own type": (cloud_event(type="dev.fleet.machine.phase"), 422, "types below dev.fleet. are Fleet's own"),
    "fault without type": (cloud_event(type="dev.fleet.fault.declared", data={"message": "x"}), 422, "event.data.faultType: is required"),
    "fault about nothing": (cloud_event(type="dev.fleet.fault.cleared", subject=None, data={"faultType": "Disk"}), 422, "event.subject: a fault is about"),
    "odd subject": (cloud_event(subject="disk/sda"), 422, "event.subject: must be machine/NAME"),
    "time without zone": (cloud_event(time="2026-01-31T18:00:00"), 422, "event.time: must be a time with its zone"),
    "odd severity": (cloud_event(severity="fatal"), 422, "event.severity: supported values: normal, warning, error"),
    "list as data": (cloud_event(data=[1]), 422, "event.data: must be an object, or text"),
    "base64": (cloud_event(data_base64="AAAA"), 422, "event.data_base64: send JSON in data instead"),
    "long message": (cloud_event(data={"message": "x" * 5_000}), 422, "event.data.message: may have at most 4096"),
    "big data": (cloud_event(data={"x": "y" * 70_000}), 422, "event.data: may have at most 65536 bytes"),
    "control character": (cloud_event(id="a\nb"), 422, "event.id: holds a control character"),
    "second of a batch": ([cloud_event(), cloud_event(2, type=None)], 422, "events[1].type: is required"),
    "empty batch": ([], 422, "events: the batch is empty"),
    "large batch": ([cloud_event(n) for n in range(1_001)], 422, "events: 1001: at most 1000 in one request"),
    "text": ("hello", 422, "event: must be an object"),
    "nul": (b'{"specversion": "1.0", "id": "a\\u0000", "source": "/s", "type": "t"}', 400, "the body holds a NUL character"),
    "not utf-8": (b'{"id": "\xff"}', 400, "the body is not valid JSON"),
    "twice": (b'{"specversion": "1.0", "id": "1", "id": "2", "source": "/s", "type": "t"}', 400, "the key id stands twice"),
    "no json": (b"{", 400, "the body is not valid JSON"),
    "too big": (b" " * (3 * 1024 * 1024 + 1), 413, "the body is larger than"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_is_wrong_is_told_and_nothing_is_stored(case: str, http: Http) -> None:
    body, code, sentence = BAD[case]
    reply = post(http, body)
    assert reply.status == code, reply.data
    assert sentence in reply.json["message"]
    assert stored() == []


def test_other_content_types_and_methods_are_refused(http: Http) -> None:
    assert post(http, b"<a/>", content_type="text/xml").status == 415
    assert post(http, cloud_event(), content_type=BATCH).status == 400
    assert post(http, [cloud_event()], content_type=CLOUD).status == 400
    assert http("PUT", EVENTS, {}).status == 405
    assert http("GET", f"{EVENTS}/alertmanager").status == 405


def test_a_fault_that_a_person_declares_is_an_event_of_fleets_own_kind(http: Http) -> None:
    declared = cloud_event(type="dev.fleet.fault.declared", data={"faultType": "DiskFailure", "message": "It clicks."})
    assert post(http, declared).status == 202
    assert stored()[0][3] == {"faultType": "DiskFailure", "message": "It clicks.", "name": "a1", "by": "admin"}


ALERT = {
    "status": "firing", "labels": {"alertname": "HostDiskFull", "node": "a1", "severity": "critical"}, "annotations": {"summary": "Disk is full."},
    "startsAt": "2026-01-31T18:00:00.123456789Z", "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "http://prometheus", "fingerprint": "c0ffee",
}  # fmt: skip


def notification(*alerts: Any) -> dict[str, Any]:
    return {"version": "4", "receiver": "fleet", "status": "firing", "externalURL": "http://alerts", "alerts": list(alerts)}  # fmt: skip


def recent(alert: Any) -> Any:
    from django.utils import timezone

    return {**alert, "startsAt": timezone.now().isoformat()}


def test_an_alert_and_its_end_are_two_events_however_often_they_are_told(http: Http) -> None:
    firing = recent(ALERT)
    resolved = {**firing, "status": "resolved", "endsAt": firing["startsAt"]}
    for _ in range(2):
        assert post(http, notification(firing), f"{EVENTS}/alertmanager").status == 202
        assert post(http, notification(resolved, firing), f"{EVENTS}/alertmanager").status == 202
    assert [(t, s, d["reason"], d["message"]) for t, _, s, d in stored()] == [
        ("io.prometheus.alert.firing", 2, "HostDiskFull", "Disk is full."),
        ("io.prometheus.alert.resolved", 0, "HostDiskFull", "Disk is full."),
    ]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"version": "4"}, "alerts: must be the list of alerts"),
        ({"version": "3", "alerts": []}, 'version: only version "4" is known'),
        (notification({**ALERT, "status": "on"}), "alerts[0].status: supported values: firing, resolved"),
        (notification({**ALERT, "labels": {"a": 1}}), "alerts[0].labels: must be an object of texts"),
        (notification(ALERT, {**ALERT, "fingerprint": ""}), "alerts[1].fingerprint: is required"),
        (notification(7), "alerts[0]: must be an object"),
        ([], "alerts: must be the list of alerts"),
    ],
)
def test_a_notification_that_is_none_is_told_why(body: Any, sentence: str, http: Http) -> None:
    reply = post(http, body, f"{EVENTS}/alertmanager")
    assert reply.status == 422
    assert sentence in reply.json["message"]


def test_a_notification_without_alerts_is_fine(http: Http) -> None:
    assert post(http, notification(), f"{EVENTS}/alertmanager").json["accepted"] == 0


RECORD = {
    "EventType": "Alert", "EventId": "17", "MessageId": "Platform.1.0.PowerSupplyFailed", "Severity": "Critical", "Message": "Power supply 2 failed.",
    "OriginOfCondition": {"@odata.id": "/redfish/v1/Chassis/1/Power"},
}  # fmt: skip


def test_records_of_a_bmc_are_events_about_its_machine(http: Http) -> None:
    body = {"@odata.type": "#Event.v1_7_0.Event", "Id": "1", "Name": "Events", "Context": "a1", "Events": [RECORD]}
    assert post(http, body, f"{EVENTS}/redfish").json["accepted"] == 1
    assert post(http, body, f"{EVENTS}/redfish").json["duplicates"] == 1
    assert post(http, body, f"{EVENTS}/redfish?machine=a2").json["accepted"] == 1  # another BMC counts for itself
    type_, _, severity, data = stored()[0]
    assert (type_, severity, data["reason"]) == ("org.dmtf.redfish.alert", 2, "PowerSupplyFailed")
    assert (data["message"], data["redfish"]) == ("Power supply 2 failed.", RECORD)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"Context": "a1"}, "Events: must be the list of records"),
        ({"Events": [RECORD]}, "Context: say whose BMC this is"),
        ({"Context": "a1", "Events": [{}]}, "Events[0].MessageId: is required"),
        ({"Context": "a1", "Events": [{**RECORD, "EventTimestamp": "noon"}]}, "Events[0].EventTimestamp: must be a time"),
        ({"Context": {"x": 1}, "Events": [RECORD]}, "Context: must be text"),
        ({"Context": "a1", "Events": [3]}, "Events[0]: must be an object"),
    ],
)  # fmt: skip
def test_an_event_of_a_bmc_that_is_none_is_told_why(body: Any, sentence: str, http: Http) -> None:
    reply = post(http, body, f"{EVENTS}/redfish")
    assert reply.status == 422
    assert sentence in reply.json["message"]


def test_an_operator_publishes_for_the_own_cluster_only(server: Server, people: People, small_fleet: list[str]) -> None:
    with Http(server.http, people.headers("oper-a")) as http:
        assert post(http, [cloud_event(1), cloud_event(2, subject="b1")]).status == 403
        assert stored() == []
        assert post(http, [cloud_event(1), cloud_event(2, subject=None)]).status == 202
        seen = http("GET", f"{EVENTS}?type=com.example").json["events"]
    assert [e["subject"] for e in seen] == ["a", "a1"]
    with Http(server.http, people.headers("oper-b")) as http:
        assert http("GET", f"{EVENTS}?type=com.example").json["events"] == []


def test_who_comes_while_all_places_are_taken_is_told_to_come_again() -> None:
    gate = Gate(places=1)
    with gate, pytest.raises(ApiError) as refused, gate:
        pass
    assert (refused.value.code, refused.value.headers["Retry-After"]) == (429, "1")
    with gate:  # the place is free again
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
FIELDS = (
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "severity",
    "data",
    "data_base64",
    "alerts",
    "Events",
    "Context",
)


@pytest.fixture
def doors(http: Http) -> Http:
    return http


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), many=st.booleans(), where=st.sampled_from(["", "/alertmanager", "/redfish"]))  # fmt: skip
def test_whatever_comes_is_taken_or_refused_with_a_sentence(doors: Http, changes: Any, many: bool, where: str) -> None:
    base = {
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "t",
        "Context": "a1",
        "Events": [RECORD],
        "alerts": [ALERT],
    }
    body = {**base, **changes}
    for key in ("alerts", "Events"):
        if isinstance(changes.get(key), dict):
            body[key] = [{**(ALERT if key == "alerts" else RECORD), **changes[key]}]
    reply = post(doors, json.dumps([body] if many else body).encode(), EVENTS + where)
    assert reply.status in (202, 400, 413, 422), reply.data
    assert reply.status == 202 or reply.json["message"]
