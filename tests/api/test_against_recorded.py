"""Fleet against a real kube-apiserver: the same requests, the recorded answers (see recorder/README.md).

Every probe runs through the dispatcher, the storage and the database; those that write run once more through the pure
functions alone. What differs on purpose stands in `recorder/differences.py` with its reason.
"""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fleet.api.apply import server_side_apply, track_update
from fleet.api.patches import json_patch, merge_patch
from fleet.api.schema import prune
from fleet.control.kinds import Json, Kind
from tests.api.recorder.differences import DIFFERENT, LISTED, WORDS
from tests.api.recorder.fixtures import recorded
from tests.api.recorder.kinds import BUNDLE, RACK
from tests.api.recorder.probe import Probe, Reply, Step, mask, run
from tests.api.recorder.probes import PROBES
from tests.api.send import send, serve_recorded_kinds

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STREAMS = ("list watch list without match", "list watch version garbage")  # a watch is no request with one answer
BY_NAME = {probe.name: probe for probe in PROBES if probe.name not in STREAMS}


def essence(reply: Reply) -> tuple[int, tuple[str, ...], Any]:
    """An answer without what no client can tell apart: an absent and an empty `continue`, null and empty items, the
    descriptions of columns; and without what Fleet leaves out of the rows of a Table (managedFields)."""
    body = copy.deepcopy(reply.body)
    if isinstance(body, dict):
        if body.get("metadata", {}).get("continue") == "":
            del body["metadata"]["continue"]
        if str(body.get("kind", "")).endswith("List"):
            body["items"] = body.get("items") or []
        for column in body.get("columnDefinitions") or ():
            column.pop("description")
        for row in body.get("rows") or ():
            if row["object"] and row["object"]["kind"] == "PartialObjectMetadata":
                row["object"]["metadata"].pop("managedFields", None)
    return reply.code, reply.warnings, body


def mistakes(reply: Reply) -> tuple[int, Any, set[tuple[str, str]]]:
    """What programs read of a refusal: code, reason, and the fields that are wrong in which way."""
    body = reply.body if isinstance(reply.body, dict) else {}
    causes = (body.get("details") or {}).get("causes") or ()
    return reply.code, body.get("reason"), {(c["field"], c["reason"]) for c in causes}


def answers(name: str) -> list[Reply]:
    return [reply for _, _, reply in recorded()[name]]


def test_the_recording_is_of_these_probes() -> None:
    for probe in PROBES:
        assert [(f"{s.method} {s.path}", s.body[:2000]) for s in probe.steps] == [
            (request, body) for request, body, _ in recorded()[probe.name]
        ], f"{probe.name} changed: record again"
    assert len({probe.object_name for probe in PROBES}) == len(PROBES)


@pytest.mark.django_db
@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in LISTED])
def test_fleet_answers_as_kube_apiserver(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_recorded_kinds(monkeypatch)
    assert [essence(r) for r in run(BY_NAME[name], send)] == [essence(r) for r in answers(name)]


@pytest.mark.django_db
@pytest.mark.parametrize("name", [name for name in WORDS if name not in STREAMS])
def test_fleet_refuses_the_same_fields_in_words_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_recorded_kinds(monkeypatch)
    ours = run(BY_NAME[name], send)
    assert [mistakes(r) for r in ours] == [mistakes(r) for r in answers(name)]
    assert [essence(r) for r in ours] != [essence(r) for r in answers(name)], "it is listed, but does not differ"


@pytest.mark.django_db
@pytest.mark.parametrize("name", [name for name in DIFFERENT if name not in STREAMS])
def test_fleet_differs_on_purpose_as_listed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_recorded_kinds(monkeypatch)
    ours = run(BY_NAME[name], send)
    differing = [o.code for o, t in zip(ours, answers(name), strict=True) if essence(o) != essence(t)]
    assert differing[:1] == [DIFFERENT[name][0]]


# -- the same, through the pure functions alone ------------------------------------------------------------------


def _kind_of(step: Step) -> Kind:
    return BUNDLE if "/bundles" in step.path else RACK


def _filled(body: str, probe: Probe) -> Any:
    return json.loads(body.replace("$n", probe.object_name).replace("$rv", "<rv>").replace("$uid", "<uid>"))


def _replay(probe: Probe, step: Step, live: Json | None) -> Json | None:
    """The object after the step by the pure functions; None for what they do not decide."""
    media, query = step.headers.get("Content-Type", ""), parse_qs(urlsplit(step.path).query)
    kind, manager = (
        _kind_of(step),
        query.get("fieldManager", [step.headers.get("User-Agent", "recorder").split("/")[0]])[0],
    )
    sub = "status" if "/status" in step.path else None
    config = _filled(step.body, probe)
    if media == "application/apply-patch+yaml":
        return server_side_apply(kind, live, prune(kind, config)[0], manager, query.get("force") == ["true"], NOW, sub)
    if live is None or sub:
        return None
    change = json_patch if media == "application/json-patch+json" else merge_patch
    wished = prune(kind, change(live, config))[0]
    wished["metadata"]["managedFields"] = track_update(kind, live, wished, manager, NOW, sub)
    return wished


def _owned(obj: Json) -> Json:
    """What the pure functions decide: owners, spec, labels and the like. An empty list of owners is none."""
    meta = mask(obj)["metadata"]
    kept = {k: meta[k] for k in ("labels", "annotations", "finalizers", "managedFields") if meta.get(k)}
    return kept | {"spec": obj.get("spec")}


REPLAYED = [
    pytest.param(name, index, id=f"{name}, step {index}")
    for name, probe in BY_NAME.items()
    for index, step in enumerate(probe.steps)
    if step.method == "PATCH"
    and name not in LISTED
    and answers(name)[index].code in (200, 201)
    and step.body.startswith(("{", "["))
    and "<generated>" not in json.dumps(answers(name)[index].body)
]


@pytest.mark.parametrize(("name", "index"), REPLAYED)
def test_pure_functions_make_the_same_object_and_owners(name: str, index: int) -> None:
    probe = BY_NAME[name]
    before = [r.body for r in answers(name)[:index] if r.code in (200, 201)]
    after = _replay(probe, probe.steps[index], copy.deepcopy(before[-1]) if before else None)
    expected = answers(name)[index].body
    assert after is None or _owned(after) == _owned(expected)
