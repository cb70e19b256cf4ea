"""Which pods a drain takes, in which order, what keeps it, and when it is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.api.schema import prune, validate
from machines.drain import BLOCKS, HAND_OFF, MIRROR, ROUND, RULE, Options, Rule, Turn, decide, keeps_from, pod_page
from machines.drained import Answer, Said, begun, conclude, rest, rests, unseen
from machines.schema import OPERATION_KIND
from machines.watch.seen import one_node
from tests.machines.pods import DAEMONS, SET, Json, pod, seen

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
USUAL = Options()


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def turn(*pods: Json, options: Options = USUAL, progress: Json | None = None, now: datetime = NOW) -> Turn:
    return decide(seen(*pods), options, begun(progress or {}, NOW), now)


def evicted(found: Turn) -> list[str]:
    return [p.metadata.name for p in found.evict]


def why(found: Turn) -> dict[str, str]:
    return {s.pod.metadata.name: s.why for s in found.left}


def labelled(name: str, word: str, **more: Any) -> Json:
    return pod(name, labels={RULE: word}, **more)


def handed(name: str, **more: Any) -> Json:
    return pod(name, annotations={HAND_OFF: "owner"}, **more)


GOING: Json = {"deletionTimestamp": "2026-11-25T11:59:00Z"}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(pod("p"), "Evict", id="one of a ReplicaSet"),
        pytest.param(pod("p", owner=DAEMONS), "", id="one of a DaemonSet"),
        pytest.param(pod("p", owner=DAEMONS | {"apiVersion": "apps.kruise.io/v1alpha1"}), "", id="another DaemonSet"),
        pytest.param(pod("p", owner=DAEMONS | {"controller": False}), "Unmanaged", id="owned, but not controlled"),
        pytest.param(pod("p", annotations={MIRROR: ""}), "", id="a mirror of a file on the host"),
        pytest.param(pod("p") | {"status": {"phase": "Succeeded"}}, "", id="one that ended well"),
        pytest.param(pod("p", owner=None, scratch=True) | {"status": {"phase": "Failed"}}, "", id="one that failed"),
        pytest.param(pod("p") | {"status": {"phase": "Pending"}}, "Evict", id="one that never started"),
        pytest.param(pod("p", **GOING), "Leaving", id="on its way out"),
        pytest.param(pod("p", owner=None, scratch=True, **GOING), "Leaving", id="on its way out, whatever it has"),
        pytest.param(pod("p", owner=DAEMONS, **GOING), "", id="a daemon on its way out"),
        pytest.param(pod("p", owner=None), "Unmanaged", id="without a controller"),
        pytest.param(pod("p", scratch=True), "EmptyDirData", id="with data in emptyDir"),
        pytest.param(pod("p") | {"spec": {"nodeName": "n1", "volumes": [{"name": "h", "hostPath": {"path": "/x"}}]}}, "Evict", id="with a hostPath"),
        pytest.param(labelled("p", "skip", owner=None, scratch=True), "", id="skipped"),
        pytest.param(labelled("p", "wait", owner=None, scratch=True), "Completes", id="waited for"),
        pytest.param(labelled("p", "wait", **GOING), "Leaving", id="waited for, and deleted by somebody"),
        pytest.param(labelled("p", "Skip"), "RuleUnknown", id="a word that means nothing"),
        pytest.param(labelled("p", "1.5"), "RuleUnknown", id="no order"),
        pytest.param(labelled("p", "٣"), "RuleUnknown", id="a digit of another script"),
        pytest.param(pod("p", annotations={RULE: "wait"}), "Completes", id="said by annotation"),
        pytest.param(pod("p", labels={RULE: "7"}, annotations={RULE: "skip"}), "Evict", id="the label before the annotation"),
        pytest.param(handed("p"), "HandOff", id="its owner moves it"),
        pytest.param(handed("p", owner=None, scratch=True), "HandOff", id="its owner moves it with its data"),
        pytest.param(pod("p", annotations={HAND_OFF: "yes"}), "Evict", id="a hand-off that is none"),
        pytest.param(pod("p", labels={HAND_OFF: "requested"}), "Evict", id="asked by somebody, without an owner who moves it"),
        pytest.param(pod("p", labels={RULE: "skip"}, annotations={HAND_OFF: "owner"}), "", id="skipped before handed over"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_pod(one: Json, expected: str) -> None:
    found = turn(one)
    assert why(found) == ({"p": expected} if expected else {})
    assert found.skipped == (0 if expected else 1)
    assert evicted(found) == (["p"] if expected == "Evict" else [])
    assert [p.uid for p in found.ask] == (["p"] if expected == "HandOff" else [])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (USUAL, {"bare": "Unmanaged", "cache": "EmptyDirData", "both": "Unmanaged"}),
        (Options(evict_unmanaged=True), {"bare": "Evict", "cache": "EmptyDirData", "both": "EmptyDirData"}),
        (Options(delete_empty_dir_data=True), {"bare": "Unmanaged", "cache": "Evict", "both": "Unmanaged"}),
        (Options(True, True), {"bare": "Evict", "cache": "Evict", "both": "Evict"}),
    ],
)
def test_what_blocks_goes_only_by_permission(options: Options, expected: Json) -> None:
    pods = pod("bare", owner=None), pod("cache", scratch=True), pod("both", owner=None, scratch=True)
    found = turn(*pods, options=options)
    assert why(found) == expected
    assert evicted(found) == (sorted(expected) if set(expected.values()) == {"Evict"} else [])


def test_no_node_is_drained_by_half() -> None:
    found = turn(pod("web-1"), pod("bare", owner=None), handed("db"))
    assert (found.evict, found.ask) == ((), ())
    done = conclude(found, {}, USUAL, begun({}, NOW), NOW)
    assert (done.state, done.reason) == ("Blocked", "Unmanaged")
    assert done.message == (
        "3 pods are left: 1 to be evicted, 1 to be moved by their owners, 1 in the way."
        " default/bare: it has no controller that would make it anew."
    )
    assert done.progress["blockers"] == [
        {"pod": "default/bare", "reason": "Unmanaged", "message": "it has no controller that would make it anew"}
    ]


def test_what_matters_least_goes_first() -> None:
    pods = [pod("a") | {"spec": {"nodeName": "n1", "priority": 2_000_000_000}}, pod("c"), pod("b")]
    assert evicted(turn(*pods)) == ["b", "c", "a"]


def test_a_later_order_waits_until_the_ones_before_it_are_gone() -> None:
    pods = [labelled("third", "10"), pod("second"), pod("first", annotations={RULE: "-5"})]
    assert evicted(turn(*pods)) == ["first"]
    assert evicted(turn(*pods[:2], pod("first", annotations={RULE: "-5"}, **GOING))) == []
    assert evicted(turn(*pods[:2])) == ["second"]
    assert evicted(turn(pods[0])) == ["third"]
    assert why(turn(*pods)) == {"first": "Evict", "second": "Later", "third": "Later"}


def test_pods_that_complete_by_themselves_hold_nobody_up_and_are_waited_for() -> None:
    found = turn(labelled("job", "wait"), labelled("web", "3"))
    assert evicted(found) == ["web"]
    assert conclude(turn(labelled("job", "wait")), {}, USUAL, begun({}, NOW), NOW).state == "Waiting"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(Rule("skip", "default"), {}, id="by namespace"),
        pytest.param(Rule("skip", "other"), {"web": "Evict"}, id="of another namespace"),
        pytest.param(Rule("wait", labels={"app": "web"}), {"web": "Completes"}, id="by label"),
        pytest.param(Rule("wait", labels={"app": "web", "tier": "1"}), {"web": "Evict"}, id="all labels must fit"),
        pytest.param(Rule("skip", "other", {"app": "web"}), {"web": "Evict"}, id="namespace and label must fit"),
        pytest.param(Rule("skip"), {"web": "Evict"}, id="one that names nothing fits nothing"),
    ],
)
def test_rules_of_the_operation_fit_pods(rule: Rule, expected: Json) -> None:
    assert why(turn(pod("web", labels={"app": "web"}), options=Options(rules=(rule,)))) == expected


def test_a_rule_of_the_operation_is_stronger_than_the_pod_and_the_first_that_fits_holds() -> None:
    rules = (Rule("wait", labels={"app": "a"}), Rule("skip", "default"))
    pods = [pod("a", labels={"app": "a", RULE: "skip"}), pod("b", labels={RULE: "nonsense"})]
    assert why(turn(*pods, options=Options(rules=rules))) == {"a": "Completes"}


def test_options_come_from_the_spec_of_an_operation() -> None:
    assert Options.of({"verb": "Drain"}) == Options(False, False, 1_800, 300, ())
    said = {
        "deleteEmptyDirData": True, "evictUnmanaged": True, "timeoutSeconds": 60, "handOffSeconds": 0,
        "rules": [{"namespace": "a", "drain": "skip"}, {"labels": {"x": "y"}, "drain": "3"}],
    }  # fmt: skip
    rules = (Rule("skip", "a", {}), Rule("3", "", {"x": "y"}))
    assert Options.of({"drain": said}) == Options(True, True, 60, 0, rules)


def operation(drain: Json) -> Json:
    spec = {"machine": "m", "verb": "Drain", "drain": drain}
    return {"apiVersion": "fleet.dev/v1", "kind": "Operation", "metadata": {"name": "x"}, "spec": spec}


@pytest.mark.parametrize(
    ("said", "field"),
    [
        pytest.param({"rules": [{"drain": "skip"}]}, "rules[0]", id="a rule that names no pods"),
        pytest.param({"rules": [{"drain": "skip", "labels": {}}]}, "rules[0]", id="no labels at all"),
        pytest.param({"rules": [{"namespace": "a", "drain": "1"}, {"drain": "2", "namespace": ""}]}, "rules[1]", id="a namespace without a name"),
        pytest.param({"rules": [{"namespace": "a", "drain": "Skip"}]}, "rules[0].drain", id="a word that means nothing"),
        pytest.param({"rules": [{"namespace": "a", "drain": 3}]}, "rules[0].drain", id="an order without quotes"),
        pytest.param({"rules": [{"namespace": "a"}]}, "rules[0].drain", id="a rule that says nothing"),
        pytest.param({"timeoutSeconds": 0}, "timeoutSeconds", id="no time"),
        pytest.param({"timeoutSeconds": 86_401}, "timeoutSeconds", id="more than a day"),
        pytest.param({"handOffSeconds": -1}, "handOffSeconds", id="less than no time"),
        pytest.param({"evictUnmanaged": "yes"}, "evictUnmanaged", id="neither true nor false"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused_by_their_field(said: Json, field: str) -> None:
    assert f"spec.drain.{field}" in [p.field for p in validate(OPERATION_KIND, operation(said))]


def test_options_that_are_right_are_kept_whole() -> None:
    rules = [{"namespace": "a", "labels": {"x": "y"}, "drain": "-3"}]
    said = {"deleteEmptyDirData": True, "evictUnmanaged": False, "timeoutSeconds": 86_400, "handOffSeconds": 0, "rules": rules}  # fmt: skip
    assert validate(OPERATION_KIND, operation(said)) == []
    assert prune(OPERATION_KIND, operation(said)) == (operation(said), [])


# -- hand-off -----------------------------------------------------------------------------------------------------------


def test_an_owner_is_told_once_and_waited_for_then_the_pod_is_evicted() -> None:
    progress = begun({}, NOW)
    found = turn(handed("db"), pod("web"))
    assert [p.uid for p in found.ask] == ["db"] and evicted(found) == ["web"]
    done = conclude(found, {"db": Answer("Told"), "web": Answer("Accepted")}, USUAL, progress, NOW)
    assert (done.state, done.reason) == ("Waiting", "PodsLeft")
    assert done.message == "2 pods are left: 1 to be moved by their owners, 1 on their way out."
    assert done.progress["handOff"] == {"db": "2026-11-25T12:00:00+00:00"}
    asked = turn(handed("db"), progress=done.progress, now=later(299))
    assert (asked.ask, asked.evict, why(asked)) == ((), (), {"db": "Asked"})
    assert evicted(turn(handed("db"), progress=done.progress, now=later(300))) == ["db"]


def test_an_owner_who_was_not_told_has_not_begun_to_be_waited_for() -> None:
    said = {"db": Answer("Refused", "HandOffRefused", "the API server said 403: no")}
    done = conclude(turn(handed("db")), said, USUAL, begun({}, NOW), NOW)
    assert (done.state, done.reason) == ("Blocked", "HandOffRefused") and "handOff" not in done.progress
    assert [p.uid for p in turn(handed("db"), progress=done.progress, now=later(900)).ask] == ["db"]


def test_a_pod_that_comes_back_under_its_name_is_another_one() -> None:
    progress = {"handOff": {"db": "2026-11-25T12:00:00+00:00"}}
    assert why(turn(handed("db", uid="other"), progress=progress, now=later(600))) == {"db": "HandOff"}


def test_what_was_told_of_pods_that_are_gone_is_forgotten() -> None:
    progress = begun({"handOff": dict.fromkeys(("db", "gone"), "2026-11-25T12:00:00+00:00")}, NOW)
    done = conclude(turn(handed("db"), progress=progress), {}, USUAL, progress, NOW)
    assert done.progress["handOff"] == {"db": "2026-11-25T12:00:00+00:00"}


def test_data_that_its_owner_left_behind_blocks_as_any_other() -> None:
    progress = {"handOff": {"db": "2026-11-25T12:00:00+00:00"}}
    found = turn(handed("db", scratch=True), progress=progress, now=later(300))
    assert why(found) == {"db": "EmptyDirData"} and evicted(found) == []
    assert found.left[0].message == "its owner did not move it in 300 s; its data in emptyDir (scratch) would be lost"


def test_without_time_for_owners_nobody_is_asked() -> None:
    found = turn(handed("db"), options=Options(hand_off_seconds=0))
    assert evicted(found) == ["db"] and found.ask == ()


def test_a_pod_with_its_owner_holds_up_the_orders_after_it() -> None:
    progress = {"handOff": {"db": "2026-11-25T12:00:00+00:00"}}
    assert evicted(turn(handed("db"), labelled("storage", "5"), progress=progress)) == []


# -- the node -----------------------------------------------------------------------------------------------------------


def node(spec: Json, ready: str = "True", name: str = "n1") -> Any:
    status = {"conditions": [{"type": "Ready", "status": ready}]} if ready else {}
    return one_node(orjson.dumps({"metadata": {"name": name}, "spec": spec, "status": status}))


CLOSED: Json = {"unschedulable": True}


@pytest.mark.parametrize(
    ("found", "name", "reason"),
    [
        pytest.param(node(CLOSED), "n1", "", id="closed and ready"),
        pytest.param(node(CLOSED, "False"), "n1", "", id="not ready, and says so"),
        pytest.param(node(CLOSED, ""), "n1", "", id="nothing was ever said of it"),
        pytest.param(node({"taints": [{"key": "fleet.dev/joining", "effect": "NoSchedule"}]}), "n1", "", id="joining"),
        pytest.param(node(CLOSED, "Unknown"), "n1", "NodeUnreachable", id="silent"),
        pytest.param(node({}), "n1", "NodeOpen", id="open"),
        pytest.param(node({"taints": [{"key": "gpu", "effect": "NoSchedule"}]}), "n1", "NodeOpen", id="another taint"),
        pytest.param(None, "n1", "NodeNotFound", id="none"),
        pytest.param(node(CLOSED), "", "NodeNotFound", id="no name"),
        pytest.param(node(CLOSED, name=""), "", "NodeNotFound", id="no name on either side"),
        pytest.param(node(CLOSED, name="n2"), "n1", "NodeNotFound", id="another node"),
    ],
)
def test_which_nodes_can_be_drained(found: Any, name: str, reason: str) -> None:
    assert keeps_from(found, name)[0] == reason


@pytest.mark.parametrize(
    "page",
    [{}, {"metadata": {}}, {"metadata": {}, "items": None}, {"metadata": {}, "items": [{"metadata": {"name": "p"}}]}],
)
def test_an_answer_that_is_no_list_of_pods_shows_nothing(page: Json) -> None:
    with pytest.raises(msgspec.DecodeError):
        pod_page(orjson.dumps(page))


# -- how far it is ------------------------------------------------------------------------------------------------------

KEPT = Answer("Kept", "DisruptionBudget", "The disruption budget web needs 2 healthy pods and has 2 currently")


def test_a_budget_that_keeps_a_pod_is_named() -> None:
    found = turn(pod("a"), pod("b"))
    done = conclude(found, {"a": Answer("Accepted"), "b": KEPT}, USUAL, begun({}, NOW), NOW)
    assert (done.state, done.reason, done.progress["evicted"]) == ("Blocked", "DisruptionBudget", 1)
    assert done.message == (
        "2 pods are left: 1 to be evicted, 1 on their way out."
        " default/b: The disruption budget web needs 2 healthy pods and has 2 currently."
    )


def test_after_its_time_nothing_is_begun_and_what_kept_it_is_named() -> None:
    blocked = conclude(turn(pod("a"), pod("b")), {"a": KEPT, "b": KEPT}, USUAL, begun({}, NOW), NOW)
    found = turn(pod("a"), handed("db"), progress=blocked.progress, now=later(1_800))
    assert (found.evict, found.ask) == ((), ())
    done = conclude(found, {}, USUAL, blocked.progress, later(1_800))
    assert (done.state, done.reason) == ("TimedOut", "DisruptionBudget")
    assert done.message.startswith("Not drained in 1800 s. 2 pods are left:")
    assert "default/a: The disruption budget web needs 2" in done.message and "default/b" not in done.message


def test_after_its_time_the_first_of_those_still_there_is_named() -> None:
    done = conclude(turn(pod("a", **GOING), now=later(1_800)), {}, USUAL, begun({}, NOW), later(1_800))
    assert (done.state, done.reason) == ("TimedOut", "StillThere") and done.message.endswith("The first is default/a.")


def test_a_node_that_is_empty_is_drained_even_after_its_time() -> None:
    done = conclude(
        turn(pod("d", owner=DAEMONS), now=later(9_999)), {}, USUAL, begun({"evicted": 3}, NOW), later(9_999)
    )
    assert (done.state, done.reason) == ("Done", "Drained")
    assert done.message == "Nothing is left that must go: 3 evicted, 1 left alone."


def test_a_server_that_says_nothing_is_waited_for_and_not_for_ever() -> None:
    said = {"a": KEPT}
    before = conclude(turn(pod("a")), said, USUAL, begun({}, NOW), NOW).progress
    done = unseen(USUAL, before, later(60), "Waiting", "NoAnswer", "no answer.")
    assert (done.state, done.progress) == ("Waiting", before)
    assert done.message.startswith("no answer. When they were last seen, 1 pod is left. default/a: The disruption")
    assert unseen(USUAL, before, later(1_800), "Waiting", "NoAnswer", "no answer.").state == "TimedOut"


def test_a_server_that_wants_to_be_left_alone_is_for_a_minute_at_most() -> None:
    progress = rest(begun({}, NOW), NOW, 3_600)
    assert rests(USUAL, progress, NOW) is not None
    assert rests(USUAL, progress, later(60)) is None
    assert rests(Options(timeout_seconds=30), progress, later(30)) is None
    said = {"a": Answer("Silent", "NoAnswer", "The API server said 429: later", 7)}
    done = conclude(turn(pod("a")), said, USUAL, begun({}, NOW), NOW)
    assert (done.state, done.progress["retryTime"]) == ("Waiting", "2026-11-25T12:00:07+00:00")


def test_trouble_does_not_make_a_blocker_forgotten() -> None:
    before = conclude(turn(pod("a"), pod("b")), {"a": KEPT}, USUAL, begun({}, NOW), NOW).progress
    said = {"b": Answer("Silent", "NoAnswer", "The API server said 503: no")}
    done = conclude(turn(pod("a"), pod("b"), progress=before), said, USUAL, before, NOW)
    assert (done.state, done.progress["blockers"]) == ("Waiting", before["blockers"])


def test_those_that_are_always_refused_do_not_keep_the_others_from_their_turn() -> None:
    pods = [pod(f"p{n:03}") for n in range(ROUND + 20)]
    progress, tried = begun({}, NOW), set()
    for _ in range(2):
        found = turn(*pods, progress=progress)
        tried |= set(evicted(found))
        assert len(found.evict) == ROUND
        progress = conclude(found, {p.uid: KEPT for p in found.evict}, USUAL, progress, NOW).progress
    assert len(tried) == len(pods)
    assert len(progress["blockers"]) == 5


# -- whatever there is --------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(["", "", "skip", "wait", "0", "1", "-3", "nonsense"])


@st.composite
def any_pod(draw: st.DrawFn) -> Json:
    labels: Json = {RULE: word} if (word := draw(WORDS)) else {}
    notes: Json = {}
    if draw(st.integers(0, 5)) == 0:
        notes[MIRROR] = "x"
    if draw(st.booleans()):
        notes[HAND_OFF] = "owner"
    owner = draw(st.sampled_from([SET, SET, SET, DAEMONS, None]))
    going = GOING if draw(st.integers(0, 3)) == 0 else {}
    made = pod("", owner=owner, scratch=draw(st.integers(0, 4)) == 0, labels=labels, annotations=notes, **going)
    return made | {"status": {"phase": draw(st.sampled_from(["Running", "Running", "Pending", "Succeeded", "Failed"]))}}


PODS = st.lists(any_pod(), max_size=8).map(
    lambda pods: [p | {"metadata": p["metadata"] | {"name": f"p{n}"}} for n, p in enumerate(pods)]
)
OPTIONS = st.builds(
    Options, st.booleans(), st.booleans(), st.sampled_from([600, 1_800]), st.sampled_from([0, 30, 300]),
    st.sampled_from([(), (Rule("wait", labels={RULE: "1"}),)]),
)  # fmt: skip
SAID: st.SearchStrategy[Said] = st.sampled_from(["Accepted", "Gone", "Kept", "Refused", "Silent"])


def stays(one: Json, options: Options) -> bool:
    """Said anew here: a daemon, a mirror, one that ended, one to be skipped."""
    meta = one["metadata"]
    daemon = any(o["kind"] == "DaemonSet" for o in meta.get("ownerReferences", ()))
    ended = one["status"]["phase"] in ("Succeeded", "Failed")
    return daemon or MIRROR in meta["annotations"] or ended or meta["labels"].get(RULE) == "skip"


def blocks(one: Json, options: Options) -> bool:
    """Said anew here, of a pod that is to be evicted."""
    bare = "ownerReferences" not in one["metadata"] and not options.evict_unmanaged
    return bare or ("volumes" in one["spec"] and not options.delete_empty_dir_data)


@given(PODS, OPTIONS, st.data())
def test_whatever_there_is_only_what_may_go_is_evicted_and_done_means_that_all_is_gone(
    pods: list[Json], options: Options, data: st.DataObject
) -> None:
    world, progress, now = {p["metadata"]["name"]: p for p in pods}, begun({}, NOW), NOW
    for _ in range(12):
        found = decide(seen(*world.values()), options, progress, now)
        must_go = {n for n, p in world.items() if not stays(p, options)}
        assert {s.pod.metadata.name for s in found.left} == must_go
        blocked = any(s.why in BLOCKS for s in found.left)
        for uid in evicted(found):
            one = world[uid]
            assert not stays(one, options) and not blocks(one, options) and not blocked
            assert "deletionTimestamp" not in one["metadata"]
            assert one["metadata"]["labels"].get(RULE) in (None, "0", "-3", *(() if options.rules else "1"))
        answers = {p.uid: Answer(data.draw(SAID)) for p in found.evict} | {p.uid: Answer("Told") for p in found.ask}
        done = conclude(found, answers, options, progress, now)
        assert (done.state == "Done") == (not must_go)
        assert (done.state == "TimedOut") == (bool(must_go) and (now - NOW).total_seconds() >= options.timeout_seconds)
        for uid, answer in answers.items():
            if answer.said in ("Accepted", "Gone"):
                world[uid] = world[uid] | {"metadata": world[uid]["metadata"] | GOING}
        for uid in [n for n, p in world.items() if "deletionTimestamp" in p["metadata"]]:
            if data.draw(st.booleans()):
                del world[uid]
        progress, now = (
            orjson.loads(orjson.dumps(done.progress)),
            now + timedelta(seconds=data.draw(st.integers(5, 400))),
        )
