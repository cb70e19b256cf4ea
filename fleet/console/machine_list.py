"""The list of machines: a filter, an order, keyset pages of 100, a selection to act on."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, cluster_ids, storage_for
from fleet.console import filters, queries, words
from fleet.console.page import Fragment, Page
from fleet.control.kinds import MACHINE, OPERATION
from machines.orders import NAME, ORDERS, CursorError, ordered
from machines.storage import MachineStorage

# what kubectl can select by: the rest of a filter is the console's alone
_SELECTABLE: Final = {"cluster": "spec.clusterName", "idc": "spec.idc", "ip": "spec.ip", "phase": "status.phase"}
_SORT_SECONDS: Final = 3  # what no index narrows is looked through no longer
_WORDS: Final[dict[str, str]] = {
    "name": "Name, A to Z",
    "-name": "Name, Z to A",
    "trouble": "Trouble first",
    "cluster": "Cluster, A to Z",
    "-cluster": "Cluster, Z to A",
    "new": "Newest first",
}
# a head of the table: (its orders in the order of presses, how each is told)
_HEADS: Final[dict[str, dict[str, str]]] = {
    "Name": {"name": "ascending", "-name": "descending"},
    "State": {"trouble": "descending"},
    "Cluster": {"cluster": "ascending", "-cluster": "descending"},
}


@dataclass(frozen=True, slots=True)
class Token:
    """One part of the filter, and the address without it."""

    key: str
    value: str
    negated: bool
    without: str


@dataclass(frozen=True, slots=True)
class Head:
    """A head of the table that sorts: how it is sorted by now ("" = not), the order that a press gives, its address."""

    aria: str
    gives: str
    href: str


@dataclass(frozen=True, slots=True)
class Shown:
    """The rows of a page in their order, the cursor of the next ("" = the end), and what had to be done otherwise than asked."""

    rows: list[dict[str, Any]]
    next: str
    order: str
    after: str
    notice: str = ""


def machines(actor: Actor, query: QueryDict) -> Page:
    """Machines: filter, order, keyset pages of 100."""
    text = " ".join(filter(None, (query.get("base", "").strip(), query.get("q", "").strip())))
    error, parsed, shown = "", filters.Filter(), Shown([], "", "name", "")
    try:
        parsed = filters.parse(text)
        shown = _shown(actor, parsed, query.get("sort", "") or "name", query.get("after", ""))
    except filters.FilterError as problem:
        error = str(problem)
    order = shown.order
    context = {
        "q": text, "error": error, "notice": shown.notice, "machines": shown.rows, "tokens": _tokens(parsed, order),
        "words": " ".join(parsed.words) if not error else query.get("q", ""), "base": filters.join(parsed.tokens, ()),
        "order": order, "orders": [(w, _address(text, o), o == order) for o, w in _WORDS.items()], "order_word": _WORDS[order], "heads": _heads(text, order),
        "after": shown.after, "next": _address(text, order, shown.next) if shown.next else "", "first": _address(text, order),
        "counted": "" if error else _counted(actor, parsed, len(shown.rows), bool(shown.next or shown.after)), "most": queries.MACHINE_PAGE,
        "states": [(k, w[0], w[2], _address(filters.with_state(parsed, k), order), k in parsed.values("state")) for k, w in words.STATES.items()],
        "clusters": _clusters(actor), "phases": [p for p, _, _ in words.LEGEND], "command": _kubectl(parsed, order),
        "may_write": bool({"operator", "admin"} & {role for role, _ in actor.bindings}),
    }  # fmt: skip
    fragments = tuple(Fragment(f"row-{m['name']}", "console/_machine_row.html", {"m": m}) for m in shown.rows)
    return Page("console/machines.html", "Machines", context, fragments, frozenset({MACHINE, OPERATION}), "machines")


def _address(text: str, order: str, after: str = "") -> str:
    """The query of the list's address; what is as by default is left out."""
    parts = {"q": text, "sort": "" if order == "name" else order, "after": after}
    return urlencode({k: v for k, v in parts.items() if v})


def _heads(text: str, order: str) -> dict[str, Head]:
    """A press sorts, a second one turns the order round, where there is another way, and else goes back to the names."""
    out = {}
    for head, ways in _HEADS.items():
        orders = list(ways)
        at = orders.index(order) + 1 if order in ways else 0
        gives = orders[at] if at < len(orders) else orders[0] if len(orders) > 1 else "name"
        out[head] = Head(ways.get(order, ""), _WORDS[gives], _address(text, gives))
    return out


def _tokens(parsed: filters.Filter, order: str) -> list[Token]:
    out = []
    for number, (key, value) in enumerate(parsed.tokens):
        rest = parsed.tokens[:number] + parsed.tokens[number + 1 :]
        without = _address(filters.join(rest, parsed.words), order)
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


def _kubectl(parsed: filters.Filter, order: str) -> str:
    """The line that lists the same; what kubectl cannot select by is told behind it, so that nobody takes it for the same."""
    fields, labels, beyond = list[str](), list[str](), list[str]()
    for key, value in parsed.tokens:
        path = _SELECTABLE.get(key.removeprefix("-"))
        if key.endswith("label"):
            labels.append(filters.label_text(key, value))
        elif path is None:
            beyond.append(f"{key}:{value}")
        else:
            fields.append(f"{path}{'!=' if key.startswith('-') else '='}{value}")
    beyond += parsed.words
    text = "kubectl get machines"
    text += f" --field-selector {shlex.quote(','.join(fields))}" if fields else ""
    text += f" -l {shlex.quote(','.join(labels))}" if labels else ""
    text += " --sort-by=.spec.clusterName" if order == "cluster" else ""
    # on one line whatever it holds: a line break would end the comment, and the rest would be a command
    return text + (f"  # kubectl does not select by {' '.join(', '.join(beyond).split())}" if beyond else "")


def machine_storage() -> MachineStorage:
    """Where machines lie."""
    storage = storage_for("machines")
    assert isinstance(storage, MachineStorage)
    return storage


def _shown(actor: Actor, parsed: filters.Filter, order: str, after: str) -> Shown:
    """The page that is asked for; where an order or a place in it cannot be had, the nearest that can, and the sentence why."""
    notice, among = "", None
    if order not in ORDERS:
        notice = f"“{order[:40]}” is no order. Orders are {', '.join(ORDERS)}. The list stands by name."
        order, after = "name", ""
    if order != "name" and parsed.prefix:
        among = queries.meant(parsed.prefix)
        if among is None:
            notice = f"More than {queries.BY_NAME:,} names begin with “{parsed.prefix}”: too many to sort. The list stands by name; a longer word can be sorted."
            order, after = "name", ""
    try:
        rows, cursor = _rows(actor, parsed, order, after, among)
    except CursorError:
        notice, after = "That page belongs to another order. This is the first page.", ""
        rows, cursor = _rows(actor, parsed, order, after, among)
    except queries.TooSlow:
        notice = f"Too many machines had to be looked through for this filter to be sorted in {_SORT_SECONDS} s. The list stands by name; name a cluster to sort it."
        order, after = "name", ""
        rows, cursor = _rows(actor, parsed, order, after, among)
    return Shown(rows, cursor, order, after, notice)


def _rows(
    actor: Actor, parsed: filters.Filter, order: str, after: str, among: list[int] | None
) -> tuple[list[dict[str, Any]], str]:
    """(rows of the page, cursor of the next or ""). CursorError: `after` is no place in this order."""
    storage = machine_storage()
    query = ListQuery(parsed.labels, parsed.fields, after, queries.MACHINE_PAGE, actor.clusters)
    if order != "name":
        with queries.bounded(_SORT_SECONDS):
            page = ordered(storage, query, order, among)
        objects = storage.by_ids(page.ids)
        return [queries.with_state(objects[id_]) for id_ in page.ids if id_ in objects], page.next
    if after and not NAME.fullmatch(after):
        raise CursorError(after)
    if parsed.prefix:
        # Two statements in one: an OR would make the planner walk all names from the first on.
        found = queries.rows(
            """SELECT name FROM ((SELECT name FROM machine WHERE name > %s AND name >= %s AND name < %s ORDER BY name LIMIT %s)
              UNION (SELECT name FROM machine WHERE serial_number = %s AND serial_number <> '' AND name > %s)) t ORDER BY name""",
            [after, parsed.prefix, parsed.prefix + "\uffff", queries.BY_NAME, parsed.prefix, after],
        )
        return _named(actor, parsed, [r["name"] for r in found])
    by_name = storage.page(query)
    return [queries.with_state(o) for o in by_name.objects], by_name.next_name


def _named(actor: Actor, parsed: filters.Filter, names: list[str]) -> tuple[list[dict[str, Any]], str]:
    """Machines by name, filtered by what else was asked, up to a page."""
    storage = machine_storage()
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
