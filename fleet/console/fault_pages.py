"""Faults: the board and the list, the page of one, the rules that find them and how far those can be trusted."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlencode

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, Stored, storage_for
from fleet.console import fault_queries, queries, repair, words
from fleet.console.fault_filters import FAULTS, ListFilter, join, parse
from fleet.console.fault_forms import trial_faults
from fleet.console.fault_queries import PAGE, Board, Cell
from fleet.console.filters import FilterError
from fleet.console.page import Fragment, Missing, NotAllowed, Page
from fleet.console.rule_modes import playbook_of
from fleet.console.words import Word
from fleet.control.kinds import FAULT, FAULT_RULE, MACHINE, REMEDIATION, Json
from fleet.safety.schema import describe_target
from recovery.rules import CLEAR_SECONDS, HOLD_SECONDS
from recovery.schema import CATEGORIES
from recovery.types import LIVE, RESOLVED, TYPES

SECONDS: Final = 3
_PLACE: Final = re.compile(r"([01])-(\d{1,18})")
TABS: Final = (("faults", "Faults"), ("rules", "Rules"))
AGES: Final = (("15m", "15 min"), ("1h", "1 h"), ("1d", "1 day"))


def faults(actor: Actor, query: QueryDict) -> Page:
    """What is wrong now: a board by type and cluster, and the list."""
    text = " ".join(filter(None, (query.get("base", "").strip(), query.get("q", "").strip())))
    parsed, error, notice = ListFilter(), "", ""
    try:
        parsed = parse(text, FAULTS)
    except FilterError as problem:
        error = str(problem)
    place = _PLACE.fullmatch(query.get("after", ""))
    after = (int(place[1]), int(place[2])) if place else (-1, 0)
    found: list[fault_queries.FaultRow] = []
    drawn = Board((), (), Cell())
    try:
        with queries.bounded(SECONDS):
            found = [] if error else fault_queries.faults(actor, parsed, after)
            drawn = fault_queries.board(actor)
    except queries.TooSlow:
        notice = f"Looking took more than {SECONDS} s. Name a cluster or a type."
    shown = found[:PAGE]
    more = urlencode({"q": parsed.text, "after": shown[-1].cursor}) if len(found) > PAGE else ""
    context: dict[str, Any] = {
        "q": text, "error": error, "notice": notice, "base": join(parsed.tokens, ()), "words": " ".join(parsed.words) if not error else query.get("q", ""),
        "tokens": _tokens(parsed, "/faults"), "faults": shown, "more": more, "after": bool(place), "board": drawn, "tab": "faults", "tabs": TABS,
        "first": urlencode({"q": parsed.text}) if parsed.text else "", "phases": _chips(parsed, "phase", (*LIVE, RESOLVED), repair.FAULT_WORDS),
        "ages": [(word, urlencode({"q": _with(parsed, "age>", key)}), parsed.values("age>") == [key]) for key, word in AGES],
        "types": sorted(TYPES), "categories": CATEGORIES, "clusters": clusters_of(actor), "sentence": fault_queries.sentence(drawn.total, fault_queries.by_phase(actor)),
        "command": _command(parsed),
    }  # fmt: skip
    rows = (
        () if place or error else tuple(Fragment(f"row-{f.name}", "console/_fault_row.html", {"f": f}) for f in shown)
    )
    head = (Fragment("o-sentence", "console/_overview_sentence.html"), Fragment("f-board", "console/_fault_board.html"))
    return Page("console/faults.html", "Faults", context, (*head, *rows), frozenset({FAULT, REMEDIATION}), "faults")


def _tokens(parsed: ListFilter, path: str) -> list[tuple[str, str, str]]:
    """(key, value, address without it)."""
    out = []
    for number, (key, value) in enumerate(parsed.tokens):
        rest = join(parsed.tokens[:number] + parsed.tokens[number + 1 :], parsed.words)
        out.append((key, value, f"{path}?{urlencode({'q': rest})}" if rest else path))
    return out


def _with(parsed: ListFilter, key: str, value: str) -> str:
    """The filter with this value of a key instead of any other; pressed again, without one."""
    stem = key.rstrip("<>")
    kept = tuple(t for t in parsed.tokens if t[0].lstrip("-").rstrip("<>") != stem)
    return join(kept if parsed.values(key) == [value] else (*kept, (key, value)), parsed.words)


def _chips(parsed: ListFilter, key: str, values: tuple[str, ...], told: Any) -> list[tuple[str, str, str, bool]]:
    """(tone, word, address, on)."""
    return [(*told[v], urlencode({"q": _with(parsed, key, v)}), parsed.values(key) == [v]) for v in values]


def clusters_of(actor: Actor) -> list[str]:
    """Names to suggest, at most 50."""
    if actor.clusters is not None:
        return sorted(actor.clusters)
    return [r["name"] for r in queries.rows("SELECT name FROM clusters_cluster ORDER BY name LIMIT 50")]


_SELECTABLE: Final = {"machine": "spec.machine", "cluster": "spec.clusterName", "type": "spec.type", "rule": "spec.rule", "phase": "status.phase"}  # fmt: skip


def _command(parsed: ListFilter) -> str:
    fields = [f"{_SELECTABLE[k]}={v}" for k, v in parsed.tokens if k in _SELECTABLE and re.fullmatch(r"[\w.-]+", v)]
    return "kubectl get faults" + (f" --field-selector {','.join(fields)}" if fields else "")


def read_scoped(actor: Actor, plural: str, name: str, word: str) -> Stored:
    """An object that lies in a cluster; Missing or NotAllowed with a sentence."""
    stored = storage_for(plural).read(name)
    if stored is None:
        raise Missing(f"There is no {word} {name}.")
    cluster = stored.obj["spec"].get("clusterName", "")
    if actor.clusters is not None and cluster not in actor.clusters:
        where = f"cluster {cluster}" if cluster else "the fleet"
        raise NotAllowed(f"{actor.name} has no role in {where}. A viewer there sees this {word}.")
    return stored


def fault(actor: Actor, query: QueryDict, name: str) -> Page:
    """One fault: what speaks for it, since when, what is done about it and why not."""
    stored = read_scoped(actor, "faults", name, "fault")
    obj = stored.obj
    machine_id = int(queries.rows("SELECT machine_id FROM recovery_fault WHERE id = %s", [stored.id])[0]["machine_id"])
    tries = queries.rows(
        "SELECT name, phase, playbook, rung + 1 AS rung, created_at, ended_at, coalesce(status ->> 'message', '') AS message FROM recovery_remediation WHERE fault_id = %s ORDER BY id DESC LIMIT 20",
        [stored.id],
    )
    own = [f for f in fault_queries.of_machine(machine_id) if f["name"] == name]
    why = repair.ladder(own, here=True) if own else None
    cluster = obj["spec"].get("clusterName", "")
    context: dict[str, Any] = {
        "obj": obj, "name": name, "fault": obj, "meaning": repair.meaning(obj["spec"]["type"]), "tries": tries, "ladders": [why] if why else [],
        "evidence": obj["status"].get("evidence", []), "sentence": _sentence(obj), "may_write": actor.may("update", storage_for("faults").kind, cluster),
        "may_approve": actor.may_approve(cluster or None),
    }  # fmt: skip
    fragments = tuple(
        Fragment(id_, f"console/{t}.html")
        for id_, t in (("f-head", "_fault_head"), ("f-acts", "_fault_acts"), ("m-why", "_fault_why"), ("f-evidence", "_fault_evidence"), ("f-tries", "_fault_tries"))
    )  # fmt: skip
    crumbs = (("Faults", "/faults"),)
    return Page("console/fault.html", name, context, fragments, frozenset({FAULT, REMEDIATION, MACHINE}), "faults", crumbs)  # fmt: skip


def _sentence(obj: Json) -> list[Word]:
    """What is wrong with which machine, and what is done."""
    spec, status = obj["spec"], obj["status"]
    said = [Word(spec["machine"], f"/machines/{spec['machine']}/why"), Word(": ")]
    refused = status.get("repair", {})
    said.append(Word(words.closed(_seen(obj) or repair.meaning(spec["type"]) or spec["type"])))
    if status["phase"] == "NeedsPerson":
        told = refused.get("message") or status.get("message") or "Fleet does nothing more by itself"
        said += [Word(" "), Word("It needs you", tone="bad"), Word(f": {words.closed(told)}")]
    elif status["phase"] == "Confirmed" and refused:
        said.append(Word(f" Its repair waits: {words.closed(refused.get('message', ''))}"))
    elif status["phase"] == "Recovering" and status.get("remediation"):
        said += [Word(" Fleet "), Word("repairs it", fault_queries.address("remediations", status["remediation"])), Word(".")]  # fmt: skip
    return said


def _seen(obj: Json) -> str:
    """What speaks for a fault. Once it is worked on its message tells the repair, and at last the task of a person: what was seen stands beside it."""
    status = obj["status"]
    message = str(status.get("message", ""))
    if status["phase"] not in ("Recovering", "NeedsPerson"):
        return message
    if status.get("seen"):
        return str(status["seen"])
    told = status.get("repair", {}).get("message", "")
    evidence = (str(e["message"]) for e in reversed(status.get("evidence", [])) if e.get("message"))
    return (message if told and message != told else "") or next(evidence, "")


# -- rules ----------------------------------------------------------------------------------------------------------------


def rules(actor: Actor, query: QueryDict) -> Page:
    """The rules that find faults, with what each found."""
    objects = storage_for("faultrules").page(ListQuery(limit=500)).objects
    shown = sorted((_rule(o) for o in objects), key=lambda r: (-r["live"], r["name"]))
    fragments = tuple(Fragment(f"rule-{r['name']}", "console/_rule_row.html", {"r": r}) for r in shown)
    context = {"rules": shown, "tab": "rules", "tabs": TABS}
    return Page("console/rules.html", "Rules", context, fragments, frozenset({FAULT_RULE}), "faults", (("Faults", "/faults"),))  # fmt: skip


MODES: Final = {"Active": ("ok", "In force"), "Shadow": ("held", "On trial"), "Disabled": ("off", "Switched off")}


def _rule(obj: Json, days: list[tuple[int, int]] | None = None) -> dict[str, Any]:
    """A rule as list and page show it; with its `days` the figures are theirs, not those that are counted now and then."""
    status, spec = obj.get("status", {}), obj["spec"]
    confirmed, fleeting = int(status.get("confirmed") or 0), int(status.get("fleeting") or 0)
    if days is not None:
        confirmed, fleeting = sum(a for a, _ in days), sum(b for _, b in days)
    seen = confirmed + fleeting
    parts = [words.Part("s-repair", "confirmed", confirmed, ""), words.Part("s-unknown", "went away before they counted", fleeting, "")]  # fmt: skip
    return {
        "obj": obj, "name": obj["metadata"]["name"], "spec": spec, "mode": spec.get("mode", "Shadow"), "pill": MODES[spec.get("mode", "Shadow")], "live": int(status.get("live") or 0),
        "confirmed": confirmed, "fleeting": fleeting, "repaired": int(status.get("repaired") or 0), "trust": f"{confirmed * 100 // seen} %" if seen else "–",
        "parts": [p for p in parts if p.n], "target": describe_target(spec.get("target", {})),
        "hold": spec.get("holdSeconds", HOLD_SECONDS), "clear": spec.get("clearSeconds", CLEAR_SECONDS),
    }  # fmt: skip


def match_words(match: Json) -> str:
    """One of a rule's looks, in words."""
    what = f"event {match['event']}…" if "event" in match else f"{match.get('condition')} is {match.get('status', 'True')}"  # fmt: skip
    return f"{what} ({', '.join(match['reasons'])})" if match.get("reasons") else what


def rule(actor: Actor, query: QueryDict, name: str) -> Page:
    """One rule: what it looks for, what became of what it found, and whether it may be trusted."""
    stored = storage_for("faultrules").read(name)
    if stored is None:
        raise Missing(f"There is no rule {name}.")
    days = fault_queries.days_of(name)
    row = _rule(stored.obj, days)
    spec = row["spec"]
    found = fault_queries.faults(actor, ListFilter((("rule", name),)), limit=30, live=False)[:30]
    context: dict[str, Any] = {
        "rule": row, "obj": stored.obj, "name": name, "faults": found, "when": [match_words(m) for m in spec.get("when", [])], "unless": [match_words(m) for m in spec.get("unless", [])],
        "bars": day_bars(days), "most": max((a + b for a, b in days), default=0), "days": len(days), "meaning": repair.meaning(spec["faultType"]), "playbook": playbook_of(spec),
        "sentence": _rule_sentence(row), "trial": trial_faults(name), "may_write": actor.may("update", storage_for("faultrules").kind, None), "seen": stored.obj["metadata"]["resourceVersion"],
    }  # fmt: skip
    fragments = tuple(
        Fragment(id_, f"console/{t}.html") for id_, t in (("r-head", "_rule_head"), ("r-trust", "_rule_trust"), ("r-faults", "_rule_faults"))
    )  # fmt: skip
    crumbs = (("Faults", "/faults"), ("Rules", "/rules"))
    return Page("console/rule.html", name, context, fragments, frozenset({FAULT_RULE, FAULT}), "faults", crumbs)


def _rule_sentence(row: dict[str, Any]) -> list[Word]:
    seen = row["confirmed"] + row["fleeting"]
    what = f"In 30 days it saw {words.count(seen, 'fault')}: {row['confirmed']:,} confirmed, {row['fleeting']:,} went away before they counted."  # fmt: skip
    if row["mode"] == "Disabled":
        return [Word("It is switched off: it finds nothing.")]
    if row["mode"] == "Shadow":
        return [Word("It is on trial: nothing is done about what it finds. "), Word(what if seen else "It has found nothing yet.")]  # fmt: skip
    return [Word("It is in force. "), Word(what if seen else "It has found nothing in 30 days.")]


def day_bars(days: list[tuple[int, int]]) -> list[tuple[str, str, str, str, str]]:
    """(swatch, x, y, width, height) of stacked bars, one a day, in a box of 600 × 88."""
    most = max((a + b for a, b in days), default=0) or 1
    step, out = 600 / max(1, len(days)), list[tuple[str, str, str, str, str]]()
    for number, (confirmed, fleeting) in enumerate(days):
        y = 88.0
        for swatch, n in (("s-repair", confirmed), ("s-unknown", fleeting)):
            if n:
                height = max(2.0, n / most * 80)
                y -= height
                out.append((swatch, f"{number * step + 1:.1f}", f"{y:.1f}", f"{step - 2:.1f}", f"{height:.1f}"))
    return out
