"""Drain over the API of a cluster: one call looks, asks for a bounded number of evictions and says how far it is. It deletes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import quote

import msgspec

from clusters.kube import Kube, KubeError, KubeUnreachable
from fleet.control.kinds import Json
from machines.drain import HAND_OFF, REQUESTED, Options, Pod, decide, keeps_from, pod_page
from machines.drained import Answer, Drained, begun, conclude, rest, rests, unseen
from machines.watch.seen import Node, one_node

__all__ = ["NO_ANSWER", "Drained", "Options", "drain", "pods_of", "take_back", "unreached"]

LOOK_SECONDS: Final = 4.0
ACT_SECONDS: Final = 6.0
LOOKS: Final = 3  # lists that must agree before a node is believed to be empty: a list may lie
AT_ONCE: Final = 10  # requests of one drain side by side
_PODS: Final = "/api/v1/pods"
_TWO_BUDGETS: Final = "more than one PodDisruptionBudget"  # of a 500 that no time heals
NO_ANSWER: Final = (KubeUnreachable, KubeError, msgspec.DecodeError, TimeoutError)


async def drain(kube: Kube, node: str, options: Options, progress: Json, now: datetime) -> Drained:
    """One round for one node, of a few seconds at most; the next call is given its `progress` and begins from what it sees.

    `Done` only where three lists, one after the other, show no pod that must go, of a node that is there, speaks and is closed.
    """
    drained = await _round(kube, node, options, begun(progress, now), now)
    if drained.state != "TimedOut" or not drained.progress.get("handOff") or await take_back(kube, node):
        return drained
    return replace(
        drained, message=f"{drained.message} Owners could not be told that they need not move pods any more."
    )


def unreached(options: Options, progress: Json, now: datetime, reason: str, message: str) -> Drained:
    """A round in which no drain could be tried at all (no way to the API server, the node could not be closed): it takes of the time as any other."""
    return unseen(options, begun(progress, now), now, "Waiting", reason, message)


async def take_back(kube: Kube, node: str) -> bool:
    """Tell the owners of a node's pods that the drain is off (cancelled, timed out); False where not all of them could be told."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            told = [p for p in await pods_of(kube, node) if p.metadata.labels.get(HAND_OFF) == REQUESTED]
    except NO_ANSWER:
        return False
    answers = await _each(told, lambda pod: _label(kube, pod, None))
    return all(p.uid in answers and answers[p.uid].said in ("Told", "Gone") for p in told)


async def pods_of(kube: Kube, node: str) -> list[Pod]:
    """All pods of a node. A server that knows no field selector shows those of others: they are left out."""
    found: list[Pod] = []
    async for page in kube.pages(_PODS, seconds=LOOK_SECONDS, fieldSelector=f"spec.nodeName={node}"):
        found += pod_page(page).items
    return [p for p in found if p.spec.node == node]


async def _round(kube: Kube, node: str, options: Options, progress: Json, now: datetime) -> Drained:
    resting = rests(options, progress, now)
    if resting is not None:
        return resting
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            why = keeps_from(await _node(kube, node), node)
            if why[0]:
                return unseen(options, progress, now, "Blocked", *why)
            for _ in range(LOOKS):
                turn = decide(await pods_of(kube, node), options, progress, now)
                if turn.left:
                    break
    except NO_ANSWER as error:
        wait = error.retry_seconds if isinstance(error, KubeError) else 0.0
        text = f"The API server did not show the node's pods: {str(error) or f'no answer in {LOOK_SECONDS:.0f} s'}."
        return unseen(options, rest(progress, now, wait), now, "Waiting", "NoAnswer", text)
    answers = await _each(turn.ask, lambda pod: _label(kube, pod, REQUESTED))
    if not _silent(answers):
        answers |= await _each(turn.evict, lambda pod: _evict(kube, pod))
    return conclude(turn, answers, options, progress, now)


async def _node(kube: Kube, name: str) -> Node | None:
    try:
        return one_node(await kube.send("GET", f"/api/v1/nodes/{quote(name, safe='')}", seconds=LOOK_SECONDS))
    except KubeError as error:
        if error.code == 404:
            return None
        raise


async def _each(pods: Sequence[Pod], do: Callable[[Pod], Awaitable[Answer]]) -> dict[str, Answer]:
    """Answers by uid, some pods side by side; the first sign of trouble keeps the rest from being sent."""
    answers: dict[str, Answer] = {}
    begun: set[str] = set()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(pod: Pod) -> None:
        async with gate:
            if not _silent(answers):
                begun.add(pod.uid)
                answers[pod.uid] = await do(pod)

    try:
        async with asyncio.timeout(ACT_SECONDS), asyncio.TaskGroup() as group:
            for pod in pods:
                group.create_task(one(pod))
    except TimeoutError:
        silent = Answer("Silent", "NoAnswer", f"The API server gave no answer in {ACT_SECONDS:.0f} s.")
        return dict.fromkeys(begun, silent) | answers
    return answers


def _silent(answers: dict[str, Answer]) -> bool:
    return any(a.said == "Silent" for a in answers.values())


async def _evict(kube: Kube, pod: Pod) -> Answer:
    """One eviction of this pod and of no other that bears its name."""
    meta = pod.metadata
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": meta.name, "namespace": meta.namespace},
        "deleteOptions": {"preconditions": {"uid": meta.uid}},
    }
    try:
        await kube.send("POST", f"{_path(pod)}/eviction", body=body)
    except (KubeError, KubeUnreachable) as error:
        return _answer(error, "EvictionRefused")
    return Answer("Accepted")


async def _label(kube: Kube, pod: Pod, value: str | None) -> Answer:
    """Set or take away the label that tells the pod's owner to move it."""
    if pod.metadata.labels.get(HAND_OFF) == value:
        return Answer("Told")
    try:
        await kube.patch(_path(pod), {"metadata": {"uid": pod.uid, "labels": {HAND_OFF: value}}})
    except (KubeError, KubeUnreachable) as error:
        return _answer(error, "HandOffRefused")
    return Answer("Told")


def _path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{quote(pod.metadata.namespace, safe='')}/pods/{quote(pod.metadata.name, safe='')}"


def _answer(error: KubeError | KubeUnreachable, refused: str) -> Answer:
    """What a refusal says of the pod. 409, or a uid that cannot be changed: another pod has its name by now."""
    if isinstance(error, KubeUnreachable):
        return Answer("Silent", "NoAnswer", str(error))
    said: list[dict[str, str]] = error.details.get("causes") or []
    causes = {c.get("reason", ""): c.get("message", "") for c in said}
    other = error.code == 422 and any(c.get("field") == "metadata.uid" for c in said)
    if error.code in (404, 409) or other or "NamespaceTerminating" in causes:
        return Answer("Gone")
    if error.code == 429 and "DisruptionBudget" in causes:
        return Answer("Kept", "DisruptionBudget", causes["DisruptionBudget"] or error.message)
    if _TWO_BUDGETS in error.message:
        return Answer("Kept", "TwoBudgets", error.message)
    if error.code in (408, 429) or error.code >= 500:
        return Answer("Silent", "NoAnswer", f"The API server said {error.code}: {error.message}", error.retry_seconds)
    return Answer("Refused", refused, f"the API server said {error.code}: {error.message}")
