"""Remediations and playbooks: what Fleet repairs, rung by rung, what was tried before, and how well each ladder does."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, QueryDict
from django.views.decorators.http import require_GET

from fleet.api.authentication import actor_of
from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.console import fault_queries, queries, repair, words
from fleet.console.fault_filters import REMEDIATIONS, ListFilter, join, parse
from fleet.console.fault_pages import clusters_of, read_scoped
from fleet.console.fault_queries import LENGTHS, PAGE
from fleet.console.filters import FilterError
from fleet.console.machine_page import operation
from fleet.console.page import Fragment, Missing, NotAllowed, Page, respond
from fleet.console.words import Word
from fleet.control.kinds import FAULT, OPERATION, PLAYBOOK, REMEDIATION, Json
from recovery.playbooks import OF_PEOPLE, PROBATION_SECONDS, VERIFY_SECONDS

SECONDS: Final = 3
TABS: Final = (("remediations", "Remediations"), ("playbooks", "Playbooks"))


def remediations(actor: Actor, query: QueryDict) -> Page:
    """What Fleet repairs now; by filter also what it repaired."""
    text = " ".join(filter(None, (query.get("base", "").strip(), query.get("q", "").strip())))
    parsed, error, notice = ListFilter(), "", ""
    try:
        parsed = parse(text, REMEDIATIONS)
    except FilterError as problem:
        error = str(problem)
    after = query.get("after", "")
    before = int(after) if after.isdecimal() and len(after) < 19 else 0
    found: list[fault_queries.RemediationRow] = []
    try:
        with queries.bounded(SECONDS):
            found = [] if error else fault_queries.remediations(actor, parsed, before or 1 << 62)
    except queries.TooSlow:
        notice = f"Looking took more than {SECONDS} s. Name a machine, a cluster or a phase."
    shown = found[:PAGE]
    phases = fault_queries.by_phase(actor)
    context: dict[str, Any] = {
        "q": text, "error": error, "notice": notice, "base": join(parsed.tokens, ()), "words": " ".join(parsed.words) if not error else query.get("q", ""),
        "tokens": [(k, v, _address(join(parsed.tokens[:n] + parsed.tokens[n + 1 :], parsed.words))) for n, (k, v) in enumerate(parsed.tokens)],
        "remediations": shown, "more": urlencode({"q": parsed.text, "after": shown[-1].id}) if len(found) > PAGE else "", "after": bool(before), "first": parsed.text,
        "phases": [(*repair.REMEDIATION_WORDS[p], _address("" if parsed.values("phase") == [p] else f"phase:{p}"), parsed.values("phase") == [p], phases.get(p, 0)) for p in repair.REMEDIATION_WORDS],
        "tab": "remediations", "tabs": TABS, "sentence": _sentence(phases), "clusters": clusters_of(actor), "open": not parsed.tokens and not parsed.words,
    }  # fmt: skip
    rows = () if before or error else tuple(Fragment(f"row-{r.name}", "console/_remediation_row.html", {"r": r}) for r in shown)  # fmt: skip
    fragments = (Fragment("o-sentence", "console/_overview_sentence.html"), *rows)
    return Page(
        "console/remediations.html", "Remediations", context, fragments, frozenset({REMEDIATION}), "remediations"
    )


def _address(q: str) -> str:
    return f"/remediations?{urlencode({'q': q})}" if q else "/remediations"


def _sentence(phases: dict[str, int]) -> list[Word]:
    total = sum(phases.values())
    if not total:
        return [Word("Fleet repairs nothing now.")]
    told = {"Waiting": "waiting for their turn", "Repairing": "at work", "Verifying": "being verified", "Probation": "on probation"}  # fmt: skip
    parts = [f"{phases[p]:,} {word}" for p, word in told.items() if phases.get(p)]
    return [Word(f"Fleet repairs {words.count(total, 'machine')}: {', '.join(parts)}.")]


def remediation(actor: Actor, query: QueryDict, name: str) -> Page:
    """One repair: the ladder of rungs, the step list, evidence, and what was tried before on this machine."""
    stored = read_scoped(actor, "remediations", name, "remediation")
    obj = stored.obj
    row = queries.rows("SELECT machine_id, serial_number FROM recovery_remediation WHERE id = %s", [stored.id])[0]
    rungs = repair.rungs_of(obj)
    names = [n for r in rungs for n in r.operations]
    operations = [operation(o) for o in _operations(names)]
    cluster = obj["spec"].get("clusterName", "")
    context: dict[str, Any] = {
        "obj": obj, "name": name, "rungs": rungs, "ladder_stages": repair.stages(rungs), "operations": operations, "current": operations[0] if operations else None,
        "evidence": fault_queries.evidence_of([o.obj["metadata"]["uid"] for o in operations]), "of": {o.obj["metadata"]["uid"]: o.obj["metadata"]["name"] for o in operations},
        "before": fault_queries.before(actor, row["machine_id"], row["serial_number"], stored.id), "serial": row["serial_number"],
        "verdict": repair.verdict(obj, rungs), "may_write": actor.may("update", storage_for("remediations").kind, cluster), "pill": repair.REMEDIATION_WORDS.get(obj["status"]["phase"]),
    }  # fmt: skip
    fragments = tuple(
        Fragment(id_, f"console/{t}.html")
        for id_, t in (("x-head", "_remediation_head"), ("x-acts", "_remediation_acts"), ("x-ladder", "_remediation_ladder"), ("m-operation", "_machine_operation"), ("x-evidence", "_remediation_evidence"), ("x-before", "_remediation_before"))
    )  # fmt: skip
    crumbs = (("Remediations", "/remediations"),)
    kinds = frozenset({REMEDIATION, OPERATION, FAULT})
    return Page("console/remediation.html", name, context, fragments, kinds, "remediations", crumbs)


def _operations(names: list[str]) -> list[Json]:
    """Operations by name, the last one first."""
    storage = storage_for("operations")
    found = storage.by_ids(storage.ids_of(names)) if names else {}
    by_name = {o["metadata"]["name"]: o for o in found.values()}
    return [by_name[n] for n in reversed(names) if n in by_name]


@login_required
@require_GET
def evidence_view(request: HttpRequest, name: str, uid: str, step: str) -> HttpResponse:
    """What a host showed of itself before a rung, as a file."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    try:
        obj = read_scoped(actor, "remediations", name, "remediation").obj
        names = [e["operation"] for e in obj["status"].get("rungs", []) if e.get("operation")]
        found = queries.rows(
            """SELECT e.content, o.name FROM machine_evidence e JOIN machines_operation o ON o.uid = e.operation_uid
            WHERE e.operation_uid::text = %s AND e.step = %s AND o.name = ANY (%s)""",
            [uid[:40], step[:200], names],
        )
        if not found:
            raise Missing(f"There is no such evidence of {name}.")
    except (Missing, NotAllowed) as problem:
        title, code = ("Not found", 404) if isinstance(problem, Missing) else ("Not allowed", 403)
        page = Page("console/refused.html", title, {"sentence": str(problem), "back": "/remediations"}, status=code)
        return respond(request, actor, page)
    response = HttpResponse(found[0]["content"], content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{found[0]["name"]}-evidence.txt"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


# -- playbooks ------------------------------------------------------------------------------------------------------------


def playbooks(actor: Actor, query: QueryDict) -> Page:
    """Ladders, with how well each does."""
    objects = storage_for("playbooks").page(ListQuery(limit=500)).objects
    shown = sorted((_playbook(o) for o in objects), key=lambda p: (-p["running"], -p["escalated"], p["name"]))
    fragments = tuple(Fragment(f"playbook-{p['name']}", "console/_playbook_row.html", {"p": p}) for p in shown)
    context = {"playbooks": shown, "tab": "playbooks", "tabs": TABS}
    crumbs = (("Remediations", "/remediations"),)
    return Page("console/playbooks.html", "Playbooks", context, fragments, frozenset({PLAYBOOK}), "remediations", crumbs)  # fmt: skip


def _playbook(obj: Json) -> dict[str, Any]:
    status = obj.get("status", {})
    figures = {k: int(status.get(k) or 0) for k in ("running", "succeeded", "escalated", "cancelled")}
    swatches = {"succeeded": "s-open", "escalated": "s-failed", "cancelled": "s-off"}
    parts = [words.Part(swatches[k], k, figures[k], "") for k in swatches if figures[k]]
    rungs = [r["name"] for r in obj["spec"].get("rungs", [])]
    return {"obj": obj, "name": obj["metadata"]["name"], "spec": obj["spec"], "rungs": rungs, "rate": repair.rate(status), "parts": parts, "median": float(status["medianSeconds"]) if status.get("medianSeconds") is not None else None, "probation": obj["spec"].get("probationSeconds", PROBATION_SECONDS), **figures}  # fmt: skip


def playbook(actor: Actor, query: QueryDict, name: str) -> Page:
    """One ladder: its rungs and which of them help, how long a repair takes, and the last that were made by it."""
    stored = storage_for("playbooks").read(name)
    if stored is None:
        raise Missing(f"There is no playbook {name}.")
    row = _playbook({**stored.obj, "status": fault_queries.figures_of(name)})
    did = fault_queries.rungs_of(name)
    rungs = [
        {"name": r["name"], "steps": [repair.action_words(s) for s in r["steps"]], "verify": 0 if any(s["action"] in OF_PEOPLE for s in r["steps"]) else r.get("verifySeconds", VERIFY_SECONDS), **_did(did.get(r["name"]))}
        for r in row["spec"].get("rungs", [])
    ]  # fmt: skip
    lengths = fault_queries.lengths_of(name)
    most = max(lengths, default=0) or 1
    found = fault_queries.remediations(actor, ListFilter((("playbook", name),)), limit=30)[:30]
    context: dict[str, Any] = {
        "playbook": row, "obj": stored.obj, "name": name, "rungs": rungs, "remediations": found, "lengths": [(word, n, round(n / most * 200)) for word, n in zip(LENGTHS, lengths, strict=True)],
        "sentence": _playbook_sentence(row), "rules": _rules_of(name),
    }  # fmt: skip
    fragments = tuple(
        Fragment(id_, f"console/{t}.html") for id_, t in (("p-head", "_playbook_head"), ("p-rungs", "_playbook_rungs"), ("p-lengths", "_playbook_lengths"), ("p-last", "_playbook_last"))
    )  # fmt: skip
    crumbs = (("Remediations", "/remediations"), ("Playbooks", "/playbooks"))
    kinds = frozenset({PLAYBOOK, REMEDIATION})
    return Page("console/playbook.html", name, context, fragments, kinds, "remediations", crumbs)


def _did(found: Json | None) -> dict[str, Any]:
    tried, helped, running = (int(found[k]) for k in ("tried", "helped", "running")) if found else (0, 0, 0)
    seconds = round(found["seconds"]) if found and found["seconds"] is not None else None
    parts = [words.Part("s-open", "helped", helped, ""), words.Part("s-sunk", "did not", tried - helped, "")]
    return {"tried": tried, "helped": helped, "running": running, "seconds": seconds, "parts": [p for p in parts if p.n], "rate": f"{helped * 100 // tried} %" if tried else "–"}  # fmt: skip


def _rules_of(playbook_name: str) -> list[str]:
    found = queries.rows("SELECT name FROM recovery_faultrule WHERE spec ->> 'playbook' = %s AND deleted_at IS NULL ORDER BY name LIMIT 20", [playbook_name])  # fmt: skip
    return [r["name"] for r in found]


def _playbook_sentence(row: dict[str, Any]) -> list[Word]:
    ended = row["succeeded"] + row["escalated"]
    if not ended and not row["running"]:
        return [Word("It was not needed in the last 30 days.")]
    said = [Word(f"In 30 days it repaired {row['succeeded']:,} of {words.count(ended, 'machine')}")] if ended else []
    if row["escalated"]:
        said += [Word("; "), Word(f"{row['escalated']:,}", f"/remediations?q=playbook:{row['name']}+phase:Escalated", "bad"), Word(" ended with a person")]  # fmt: skip
    if row["running"]:
        said += [Word("; " if said else ""), Word(f"{row['running']:,} {'runs' if row['running'] == 1 else 'run'} now")]
    return [*said, Word(".")]
