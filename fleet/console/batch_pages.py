"""Batches of Operations: which wait for a second person, how far the others are, and what became of each machine."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from django.conf import settings
from django.http import QueryDict

from fleet.api.approval import APPROVE
from fleet.api.rights import Actor
from fleet.api.storage import storage_for
from fleet.console import queries, words
from fleet.console.fault_pages import read_scoped
from fleet.console.page import Fragment, Page
from fleet.console.words import BATCHES, Part, Word
from fleet.control.kinds import OPERATION, OPERATION_BATCH, Json
from machines.batches import schema
from machines.batches.storage import list_of

PAGE: Final = 50
SHOWN: Final = 200
_COUNTS: Final = (("succeeded", "done", "s-open"), ("failed", "failed", "s-failed"), ("skipped", "skipped", "s-unknown"), ("open", "under way", "s-busy"), ("waiting", "waiting", "s-sunk"))  # fmt: skip


def parts_of(status: Json) -> list[Part]:
    """The counts as a bar."""
    return [Part(swatch, word, status.get(key, 0), "") for key, word, swatch in _COUNTS]


def row_of(obj: Json) -> dict[str, Any]:
    """What lists show of a batch."""
    spec, status = obj["spec"], obj["status"]
    return {
        "name": obj["metadata"]["name"], "verb": spec["verb"], "phase": status["phase"], "count": status["count"], "cluster": spec.get("clusterName", ""), "author": status["author"],
        "message": _said(status), "parts": parts_of(status), "created_at": obj["metadata"]["creationTimestamp"], "failed": status["failed"], "reason": spec["reason"],
    }  # fmt: skip


def _said(status: Json) -> str:
    """Its message; the hash that an approver names stands elsewhere."""
    return words.closed(str(status["message"]).partition(f": {APPROVE}=")[0])


def waiting(actor: Actor, most: int = PAGE) -> list[dict[str, Any]]:
    """Those that wait for a second person, or that stopped, which this person may see; the oldest first."""
    live = "AND NOT status ? 'endTime' AND status ->> 'phase' = ANY (%s)"
    return [row_of(o) for _, o in _found(actor, live, [[schema.AWAITING, schema.STALLED]], most, "id")]


def _found(actor: Actor, where: str, values: list[Any], most: int, order: str = "id DESC") -> list[tuple[int, Json]]:
    """(row id, object)."""
    scope = queries.scope_ids(actor)
    only, ids = ("", []) if scope is None else ("AND cluster_id = ANY (%s)", [scope])
    found = queries.rows(f"SELECT id FROM machines_operationbatch WHERE true {where} {only} ORDER BY {order} LIMIT %s", [*values, *ids, most])  # fmt: skip
    objects = storage_for("operationbatches").by_ids([r["id"] for r in found])
    return [(r["id"], objects[r["id"]]) for r in found if r["id"] in objects]


def batches(actor: Actor, query: QueryDict) -> Page:
    """All batches, the newest first; those that need somebody above."""
    phase = query.get("phase", "") if query.get("phase", "") in schema.PHASES else ""
    after = query.get("after", "")
    before = int(after) if after.isdecimal() and len(after) < 19 else 1 << 62
    where, values = "AND id < %s", [before, *([phase] if phase else [])]
    found = _found(actor, where + (" AND status ->> 'phase' = %s" if phase else ""), values, PAGE + 1)
    rows = [row_of(o) for _, o in found[:PAGE]]
    more = ""
    if len(found) > PAGE:
        more = urlencode({"after": found[PAGE - 1][0]} | ({"phase": phase} if phase else {}))
    context: dict[str, Any] = {
        "batches": rows, "more": more, "after": bool(after), "phase": phase, "sentence": _sentence(waiting(actor)), "approvals": approval_word(),
        "phases": [(*BATCHES[p], "/batches" if p == phase else f"/batches?phase={p}", p == phase) for p in schema.PHASES],
    }  # fmt: skip
    fragments = (Fragment("o-sentence", "console/_overview_sentence.html"), *(Fragment(f"batch-{b['name']}", "console/_batch_row.html", {"b": b}) for b in rows))  # fmt: skip
    return Page("console/batches.html", "Batches", context, fragments, frozenset({OPERATION_BATCH}), "batches")


def approval_word() -> str:
    """When a second person is asked, in a sentence."""
    if not settings.FLEET_REQUIRE_APPROVAL:
        return "This Fleet asks for no second person."
    return f"Over {settings.FLEET_APPROVAL_OVER} machines a second person approves exactly the list."


def _sentence(found: list[dict[str, Any]]) -> list[Word]:
    asked = [b for b in found if b["phase"] == schema.AWAITING]
    stopped = [b for b in found if b["phase"] == schema.STALLED]
    if not found:
        return [Word("No batch waits for a person.")]
    said: list[Word] = []
    if asked:
        verb = "waits" if len(asked) == 1 else "wait"
        said += [Word(words.count(len(asked), "batch", "batches"), f"/batches/{asked[0]['name']}", "held"), Word(f" {verb} for approval")]  # fmt: skip
    if stopped:
        verb = "has" if len(stopped) == 1 else "have"
        said += [Word(", " if said else ""), Word(words.count(len(stopped), "batch", "batches"), f"/batches/{stopped[0]['name']}", "bad"), Word(f" {verb} stopped: too many failed")]  # fmt: skip
    return [*said, Word(".")]


def batch(actor: Actor, query: QueryDict, name: str) -> Page:
    """One batch: the verdict, the counts, the frozen list with what became of each machine."""
    obj = read_scoped(actor, "operationbatches", name, "batch").obj
    spec, status = obj["spec"], obj["status"]
    cluster = spec.get("clusterName", "")
    may_write = actor.may("update", storage_for("operationbatches").kind, cluster)
    approver = actor.may_approve(cluster or None)
    context: dict[str, Any] = {
        "obj": obj, "name": name, "parts": parts_of(status), "said": _said(status), "targets": list_of(obj, actor)["items"][:SHOWN], "most": SHOWN,
        "may_write": may_write, "ended": "endTime" in status, "awaits": status["approval"] == "Needed" and "endTime" not in status,
        "may_approve": approver and actor.name != status["author"], "own": approver and actor.name == status["author"], "approve_word": APPROVE,
    }  # fmt: skip
    fragments = tuple(Fragment(id_, f"console/{t}.html") for id_, t in (("b-head", "_batch_head"), ("b-acts", "_batch_acts"), ("b-counts", "_batch_counts"), ("b-list", "_batch_list")))  # fmt: skip
    kinds = frozenset({OPERATION_BATCH, OPERATION})
    return Page("console/batch.html", name, context, fragments, kinds, "batches", (("Batches", "/batches"),))
