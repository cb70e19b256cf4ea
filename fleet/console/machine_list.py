"""The list of machines: a filter, keyset pages of 100, a selection to act on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, cluster_ids, storage_for
from fleet.console import filters, queries, words
from fleet.console.page import Fragment, Page
from fleet.control.kinds import MACHINE, OPERATION

_BY_NAME = 2_000  # names with the same beginning that one page looks through
# what kubectl can select by: the rest of a filter is the console's alone
_SELECTABLE = ("spec.clusterName", "spec.idc", "spec.ip", "status.phase")


@dataclass(frozen=True, slots=True)
class Token:
    """One part of the filter, and the query without it."""

    key: str
    value: str
    negated: bool
    without: str


def machines(actor: Actor, query: QueryDict) -> Page:
    """Machines: filter, keyset pages of 100."""
    text = " ".join(filter(None, (query.get("base", "").strip(), query.get("q", "").strip())))
    after = query.get("after", "")
    error, shown, next_name = "", list[dict[str, Any]](), ""
    parsed = filters.Filter()
    try:
        parsed = filters.parse(text)
        shown, next_name = _rows(actor, parsed, after)
    except filters.FilterError as problem:
        error = str(problem)
    context = {
        "q": text, "error": error, "machines": shown, "tokens": _tokens(parsed), "words": " ".join(parsed.words) if not error else query.get("q", ""),
        "base": filters.join(parsed.tokens, ()), "after": after, "next": urlencode({"q": text, "after": next_name}) if next_name else "",
        "first": urlencode({"q": text}), "counted": "" if error else _counted(actor, parsed, len(shown), bool(next_name or after)),
        "states": [(k, w[0], w[2], filters.with_state(parsed, k), k in parsed.values("state")) for k, w in words.STATES.items()],
        "clusters": _clusters(actor), "phases": [p for p, _, _ in words.LEGEND], "command": f"kubectl get machines{_kubectl(parsed)}",
        "may_write": bool({"operator", "admin"} & {role for role, _ in actor.bindings}),
    }  # fmt: skip
    fragments = tuple(Fragment(f"row-{m['name']}", "console/_machine_row.html", {"m": m}) for m in shown)
    return Page("console/machines.html", "Machines", context, fragments, frozenset({MACHINE, OPERATION}), "machines")


def _tokens(parsed: filters.Filter) -> list[Token]:
    out = []
    for number, (key, value) in enumerate(parsed.tokens):
        rest = parsed.tokens[:number] + parsed.tokens[number + 1 :]
        without = urlencode({"q": filters.join(rest, parsed.words)})
        out.append(Token(key.removeprefix("-"), value, key.startswith("-"), without))
    return out


def _clusters(actor: Actor) -> list[str]:
    """Names to suggest, at most 50."""
    if actor.clusters is not None:
        return sorted(actor.clusters)
    return [r["name"] for r in queries.rows("SELECT name FROM clusters_cluster ORDER BY name LIMIT 50")]


def _counted(actor: Actor, parsed: filters.Filter, shown: int, more: bool) -> str:
    """How many match: exact where the page holds all, from the kept counters where they know, else what is shown."""
    if not more:
        return f"{words.count(shown, 'machine')}{' match' if parsed.tokens or parsed.words else ''}"
    plain = not parsed.words and not parsed.labels.requirements
    if plain and all(path in ("spec.clusterName", "status.phase") for path, _, _ in parsed.fields.terms):
        return f"{shown:,} of {_kept(actor, parsed):,} shown"
    return f"{shown:,} shown, more follow"


def _kept(actor: Actor, parsed: filters.Filter) -> int:
    by_cluster = queries.phase_counts(actor)
    wanted = {v for p, _, v in parsed.fields.terms if p == "spec.clusterName" and v}
    names = {id_: name for name, id_ in cluster_ids(sorted(wanted)).items()} if wanted else {}
    total: Counter[str] = Counter()
    for cluster_id, phases in by_cluster.items():
        name = names.get(cluster_id, "" if cluster_id == 0 else None)
        if all((name == v) == (o == "=") for p, o, v in parsed.fields.terms if p == "spec.clusterName"):
            total += phases
    return sum(
        n
        for phase, n in total.items()
        if all((phase == v) == (o == "=") for p, o, v in parsed.fields.terms if p == "status.phase")
    )


def _kubectl(parsed: filters.Filter) -> str:
    fields = ",".join(f"{p}{o}{v}" for p, o, v in parsed.fields.terms if p in _SELECTABLE)
    labels = ",".join(v for k, v in parsed.tokens if k == "label")
    return (f" --field-selector '{fields}'" if fields else "") + (f" -l '{labels}'" if labels else "")


def _rows(actor: Actor, parsed: filters.Filter, after: str) -> tuple[list[dict[str, Any]], str]:
    storage = storage_for("machines")
    if parsed.prefix:
        # Two statements in one: an OR would make the planner walk all names from the first on.
        found = queries.rows(
            """SELECT name FROM ((SELECT name FROM machine WHERE name > %s AND name >= %s AND name < %s ORDER BY name LIMIT %s)
              UNION (SELECT name FROM machine WHERE serial_number = %s AND serial_number <> '' AND name > %s)) t ORDER BY name""",
            [after, parsed.prefix, parsed.prefix + "\uffff", _BY_NAME, parsed.prefix, after],
        )
        return _named(actor, parsed, [r["name"] for r in found])
    page = storage.page(ListQuery(parsed.labels, parsed.fields, after, queries.MACHINE_PAGE, actor.clusters))
    return [queries.with_state(o) for o in page.objects], page.next_name


def _named(actor: Actor, parsed: filters.Filter, names: list[str]) -> tuple[list[dict[str, Any]], str]:
    """Machines by name, filtered by what else was asked, up to a page."""
    storage = storage_for("machines")
    shown: list[dict[str, Any]] = []
    for start in range(0, len(names), queries.MACHINE_PAGE):
        objects = storage.by_ids(storage.ids_of(names[start : start + queries.MACHINE_PAGE]))
        for obj in sorted(objects.values(), key=lambda o: o["metadata"]["name"]):
            row = queries.with_state(obj)
            flat = {**obj, "status": {**obj.get("status", {}), "state": row["state"]}}
            visible = actor.clusters is None or obj["spec"].get("clusterName", "") in actor.clusters
            if visible and parsed.fields.matches(flat) and parsed.labels.matches(obj["metadata"].get("labels", {})):
                shown.append(row)
        if len(shown) > queries.MACHINE_PAGE:
            break
    page = shown[: queries.MACHINE_PAGE]
    return page, page[-1]["name"] if len(shown) > len(page) else ""
