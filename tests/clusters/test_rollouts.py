"""How far addons are, by what the API server shows of their objects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clusters.manifests import Addon
from clusters.rollouts import Found, Row, Standing, condition, given_up, moved, row_after, row_of, seen_of, standing
from fleet.control.kinds import Json

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def obj(kind: str, spec: Json, status: Json, generation: int = 2) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "x", "generation": generation},
        "spec": spec,
        "status": {"observedGeneration": 2, **status},
    }


def cond(type_: str, status: str, reason: str = "", message: str = "") -> Json:
    return {"conditions": [{"type": type_, "status": status, "reason": reason, "message": message}]}


@pytest.mark.parametrize(
    ("shown", "ok", "message", "hopeless"),
    [
        pytest.param(obj("Deployment", {"replicas": 2}, {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}), True, "", False, id="deployment-there"),
        pytest.param(obj("Deployment", {"replicas": 2}, {}, generation=3), False, "its controller has not looked at it yet", False, id="deployment-not-seen"),
        pytest.param(obj("Deployment", {"replicas": 2}, {"replicas": 3, "updatedReplicas": 1, "availableReplicas": 2}), False, "1 of 2 replicas are new", False, id="deployment-moving"),
        pytest.param(obj("Deployment", {"replicas": 2}, {"replicas": 3, "updatedReplicas": 2, "availableReplicas": 3}), False, "1 old replicas are still there", False, id="deployment-old"),
        pytest.param(obj("Deployment", {}, {"replicas": 1, "updatedReplicas": 1}), False, "0 of 1 replicas are available", False, id="deployment-not-available"),
        pytest.param(obj("Deployment", {}, cond("Progressing", "False", "ProgressDeadlineExceeded", "too long")), False, "too long", True, id="deployment-given-up"),
        pytest.param(obj("Deployment", {"replicas": 0}, {}), True, "", False, id="deployment-of-none"),
        pytest.param(obj("DaemonSet", {}, {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3}), True, "", False, id="daemons-there"),
        pytest.param(obj("DaemonSet", {}, {"desiredNumberScheduled": 3, "updatedNumberScheduled": 1, "numberAvailable": 3}), False, "1 of 3 nodes have the new pod", False, id="daemons-moving"),
        pytest.param(obj("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, {"desiredNumberScheduled": 3, "numberAvailable": 3}), True, "", False, id="daemons-by-hand"),
        pytest.param(obj("DaemonSet", {}, {"desiredNumberScheduled": 0}), True, "", False, id="daemons-without-nodes"),
        pytest.param(obj("StatefulSet", {"replicas": 3}, {"updatedReplicas": 2, "availableReplicas": 3}), False, "2 of 3 replicas are new", False, id="stateful-moving"),
        pytest.param(obj("StatefulSet", {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 1}}}, {"updatedReplicas": 2, "availableReplicas": 3}), True, "", False, id="stateful-partition"),
        pytest.param(obj("Job", {}, cond("Complete", "True")), True, "", False, id="job-done"),
        pytest.param(obj("Job", {}, cond("Failed", "True", "BackoffLimitExceeded")), False, "it failed: BackoffLimitExceeded", True, id="job-failed"),
        pytest.param(obj("Job", {"completions": 2}, {"succeeded": 1}), False, "1 of 2 pods have ended well", False, id="job-running"),
        pytest.param(obj("CustomResourceDefinition", {}, cond("Established", "True")), True, "", False, id="definition-there"),
        pytest.param(obj("CustomResourceDefinition", {}, {}), False, "it is not established yet", False, id="definition-new"),
        pytest.param(obj("CustomResourceDefinition", {}, cond("NamesAccepted", "False", "", "taken")), False, "taken", True, id="definition-refused"),
        pytest.param(obj("APIService", {}, cond("Available", "False", "", "no endpoints")), False, "no endpoints", False, id="service-without-pods"),
        pytest.param(obj("ConfigMap", {}, {}), True, "", False, id="a kind that rolls nothing out"),
    ],
)  # fmt: skip
def test_an_object_is_rolled_out_when_its_status_says_so(shown: Json, ok: bool, message: str, hopeless: bool) -> None:
    found = standing(shown)
    assert (found.ok, found.message, found.hopeless) == (ok, message, hopeless)


THING = obj("Deployment", {}, {})
ADDON = Addon("dns", (THING,))
LATE = Standing(False, "0 of 1 replicas are available", 1, needs_nodes=True)


def row(status: str = "True", reason: str = "UpToDate", **more: Any) -> Row:
    return Row(
        **{"name": "dns", "hash": ADDON.hash, "status": status, "reason": reason, "message": "", "since": NOW, **more}
    )


@pytest.mark.parametrize(
    ("found", "nodes", "status", "reason", "said"),
    [
        pytest.param(Found(THING, Standing(True)), True, "True", "UpToDate", "", id="rolled out"),
        pytest.param(Found(THING, LATE), True, "False", "RollingOut", "Deployment x: 0 of 1", id="on its way"),
        pytest.param(Found(THING, LATE), False, "Unknown", "NoNodes", "there is no node yet", id="nowhere to run"),
        pytest.param(Found(THING, Standing(False, "too long", hopeless=True)), True, "False", "Failed", "too long", id="gave up"),
        pytest.param(Found(THING, refused=(422, "spec.x: bad")), True, "False", "Invalid", "Deployment x: spec.x: bad", id="invalid"),
        pytest.param(Found(THING, refused=(403, "denied")), True, "False", "Refused", "denied", id="refused"),
        pytest.param(Found(THING, unknown_kind=True), True, "False", "KindUnknown", "knows no Deployment in apps/v1", id="no such kind"),
        pytest.param(Found(THING, silent="no answer"), True, "Unknown", "NotAnswering", "no answer", id="nobody answers"),
    ],
)  # fmt: skip
def test_an_addon_says_which_object_and_why(found: Found, nodes: bool, status: str, reason: str, said: str) -> None:
    after = row_after(None, ADDON, [Found(THING, Standing(True)), found], nodes, NOW)
    assert (after.status, after.reason) == (status, reason)
    assert said in after.message
    assert row_of(after.json()) == after


def test_progress_is_what_went_further_than_ever_before() -> None:
    """A pod that comes up and crashes, again and again, is no progress."""
    start = row_after(None, ADDON, [Found(THING, LATE)], True, NOW)
    late = NOW + timedelta(seconds=599)
    further = row_after(start, ADDON, [Found(THING, Standing(False, "", 2, needs_nodes=True))], True, late)
    assert further.since == late
    again = late + timedelta(seconds=300)
    for progress in (1, 2, 1, 2):
        further = row_after(
            further, ADDON, [Found(THING, Standing(False, "x", progress, needs_nodes=True))], True, again
        )
    assert further.since == late
    assert given_up([further], again) == ""
    assert (
        given_up([further], again + timedelta(seconds=301))
        == "addon dns made no progress for 10 minutes: Deployment x: x"
    )
    other = row_after(further, Addon("dns", (obj("Deployment", {"a": 1}, {}),)), [Found(THING, LATE)], True, again)
    assert (other.since, other.progress) == (again, 1)


def test_what_another_manifest_only_can_mend_is_given_up_at_once_and_what_is_unknown_never() -> None:
    assert given_up([row("False", "Invalid", message="bad")], NOW) == "addon dns: bad"
    assert given_up([row("Unknown", "NotAnswering")], NOW + timedelta(days=1)) == ""
    assert given_up([row("Unknown", "NoNodes")], NOW + timedelta(days=1)) == ""


@pytest.mark.parametrize(
    ("rows", "new", "ready"),
    [
        pytest.param([], False, True, id="no addons"),
        pytest.param([row()], False, True, id="rolled out"),
        pytest.param([row(), row("False", "RollingOut")], False, False, id="not rolled out"),
        pytest.param([row("False", "RollingOut")], True, True, id="in a new cluster taken is enough"),
        pytest.param([row("False", "Refused")], True, False, id="refused in a new cluster"),
        pytest.param([row("Unknown", "NoNodes")], False, True, id="without nodes"),
        pytest.param([row("Unknown", "NotAnswering")], False, None, id="not known"),
        pytest.param([row("Unknown", "NotAnswering"), row("False", "RollingOut")], False, False, id="one is not, one is not known"),
    ],
)  # fmt: skip
def test_a_change_goes_on_when_its_addons_are_where_they_can_be(rows: list[Row], new: bool, ready: bool | None) -> None:
    assert seen_of(rows, new).ready is ready


def test_the_condition_names_each_addon_that_is_not_well() -> None:
    assert condition([], "").reason == "NoAddons"
    assert condition([row()], "").status == "True"
    found = condition(
        [
            row(),
            row("Unknown", "NoNodes", name="cni", message="no node"),
            row("False", "Refused", name="npd", message="denied"),
        ],
        "",
    )
    assert (found.status, found.reason, found.message) == ("False", "Refused", "cni: no node; npd: denied")
    assert condition([row()], "addon dns: 'x' is undefined").reason == "TemplateError"


def test_news_are_what_became_well_or_stopped_being_so() -> None:
    late, bad = row("False", "RollingOut", message="0 of 1"), row("False", "Invalid", message="bad")
    assert [t for _, t in moved([], [row()])] == ["addon dns is rolled out"]
    assert moved([row()], [row()]) == moved([late], [late]) == moved([], [late]) == []
    assert [t for _, t in moved([row()], [late])] == ["addon dns: 0 of 1"]
    assert [t for _, t in moved([], [bad])] == ["addon dns: bad"]
    assert moved([bad], [bad]) == []
