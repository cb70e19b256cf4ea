"""How far a drain is: from what the API server said about the pods of a turn to a state, a sentence and the progress for the next call. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from fleet.control.kinds import Json
from machines.drain import BLOCKS, Options, Pod, Turn, Why, moment, overdue

State = Literal["Done", "Waiting", "Blocked", "TimedOut"]
# Of one pod: evicted, gone or going without us, its owner told, kept by a budget, refused for another reason, no answer that says anything.
Said = Literal["Accepted", "Gone", "Told", "Kept", "Refused", "Silent"]
_SHOWN: Final = 5  # blockers that the progress keeps
_NAMED: Final = 3  # blockers that a message names
_TEXT: Final = 300
_REST_SECONDS: Final = 60.0  # the longest that Retry-After is obeyed
_WORDS: Final[dict[Why, str]] = {
    "Evict": "to be evicted", "HandOff": "to be moved by their owners", "Asked": "to be moved by their owners", "Later": "later in the order",
    "Completes": "to complete by themselves", "Leaving": "on their way out", "Unmanaged": "in the way", "EmptyDirData": "in the way",
    "RuleUnknown": "in the way",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said about one pod. `reason`, `message`: of a refusal; `retry_seconds`: how long it wants to be left alone."""

    said: Said
    reason: str = ""
    message: str = ""
    retry_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Drained:
    """How far a drain is. Only `Done` means that the node is drained; `Waiting` and `Blocked` go on with the next call, `TimedOut` does not.
    `progress` is what the next call is given."""

    state: State
    reason: str
    message: str
    progress: Json


def begun(progress: Json, now: datetime) -> Json:
    """The progress with the time from which the whole drain is counted."""
    return {"startTime": moment(now)} | progress


def rest(progress: Json, now: datetime, seconds: float) -> Json:
    """The progress with the time until which the API server is left alone; 0 = it asked for nothing."""
    if not seconds:
        return progress
    return progress | {"retryTime": moment(now + timedelta(seconds=min(seconds, _REST_SECONDS)))}


def unseen(options: Options, progress: Json, now: datetime, state: State, reason: str, message: str) -> Drained:
    """Nothing could be seen, or the node cannot be drained: never done, and not for longer than the whole may take."""
    text = message[:_TEXT]
    if "left" in progress:
        text += f" When they were last seen, {_pods(progress['left'])} left." + _named(progress["blockers"])
    if overdue(options, progress, now):
        return Drained("TimedOut", reason, f"Not drained in {options.timeout_seconds} s. {text}", progress)
    return Drained(state, reason, text, progress)


def rests(options: Options, progress: Json, now: datetime) -> Drained | None:
    """The answer while the API server wants to be left alone; None where it does not."""
    until = progress.get("retryTime")
    if not until or now >= datetime.fromisoformat(until) or overdue(options, progress, now):
        return None
    text = f"The API server wants to be left alone until {until}."
    return unseen(options, progress, now, "Waiting", "Throttled", text)


def conclude(turn: Turn, answers: Mapping[str, Answer], options: Options, progress: Json, now: datetime) -> Drained:
    """A turn and the answers by uid to how far the drain is. Pods that were evicted a moment ago are still left: the next look tells."""
    said = {s.pod.uid: answers[s.pod.uid] for s in turn.left if s.pod.uid in answers}
    told = {uid for uid, a in said.items() if a.said == "Told"}
    tried = [p.key for p in turn.evict if p.uid in said]
    asked: Json = {u: t for u, t in progress.get("handOff", {}).items() if any(s.pod.uid == u for s in turn.left)}
    # The same sight makes the same progress: a drain that is blocked for long is not written anew with every round.
    after: Json = {
        "startTime": progress["startTime"],
        "evicted": progress.get("evicted", 0) + sum(a.said == "Accepted" for a in said.values()),
        "left": len(turn.left),
        "skipped": turn.skipped,
        "blockers": [],
    }
    if asked or told:
        after["handOff"] = asked | {uid: moment(now) for uid in sorted(told)}
    if tried:
        after["after"] = tried[-1]
    if not turn.left:
        message = f"Nothing is left that must go: {after['evicted']} evicted, {turn.skipped} left alone."
        return Drained("Done", "Drained", message, after)
    silent = [a for a in said.values() if a.said == "Silent"]
    late = overdue(options, progress, now)
    blockers = _blockers(turn, said)
    known = blockers + (_earlier(turn, blockers, progress) if late or silent else [])
    after["blockers"] = known[:_SHOWN]
    text = f"{_pods(len(turn.left))} left: {_counts(turn, said)}." + _named(known)
    if late:
        if not known:
            text += f" The first is {turn.left[0].pod.key}."
        reason = known[0]["reason"] if known else "StillThere"
        return Drained("TimedOut", reason, f"Not drained in {options.timeout_seconds} s. {text}", after)
    if silent:
        after = rest(after, now, max(a.retry_seconds for a in silent))
        text += f" {silent[0].message[:_TEXT]}"
    if blockers:
        return Drained("Blocked", blockers[0]["reason"], text, after)
    return Drained("Waiting", silent[0].reason if silent else "PodsLeft", text, after)


def _blockers(turn: Turn, said: Mapping[str, Answer]) -> list[Json]:
    out = [_blocker(s.pod, s.why, s.message) for s in turn.left if s.why in BLOCKS]
    pods = {s.pod.uid: s.pod for s in turn.left}
    return out + [_blocker(pods[u], a.reason, a.message) for u, a in said.items() if a.said in ("Kept", "Refused")]


def _earlier(turn: Turn, blockers: Sequence[Json], progress: Json) -> list[Json]:
    """What kept pods when they were last tried: of those that are still there and were not tried now."""
    there = {s.pod.key for s in turn.left} - {b["pod"] for b in blockers}
    return [b for b in progress.get("blockers", ()) if b["pod"] in there]


def _blocker(pod: Pod, reason: str, message: str) -> Json:
    return {"pod": pod.key, "reason": reason, "message": message[:_TEXT]}


def _named(blockers: Sequence[Json]) -> str:
    text = "".join(f" {b['pod']}: {b['message'].rstrip('.')}." for b in blockers[:_NAMED])
    more = len(blockers) - _NAMED
    return text + (f" And {more} more." if more > 0 else "")


def _counts(turn: Turn, said: Mapping[str, Answer]) -> str:
    """How many are where, the most telling first."""
    words = [_WORDS["Leaving" if _going(said.get(s.pod.uid)) else s.why] for s in turn.left]
    return ", ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(_WORDS.values()) if w in words)


def _going(answer: Answer | None) -> bool:
    return answer is not None and answer.said in ("Accepted", "Gone")


def _pods(count: int) -> str:
    return "1 pod is" if count == 1 else f"{count} pods are"
