"""ReadinessRules: the list, the page of one with the machines that it holds, and the numbers behind both.

A rule is a gate for many machines. What it says of each is computed by the statement that its status is counted with.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.console import queries, words
from fleet.console.machine_list import machine_storage
from fleet.console.page import Fragment, Missing, Page
from fleet.console.words import Part, Word
from fleet.control.kinds import MACHINE, READINESS_RULE, Json
from fleet.safety.schema import describe_target
from machines import rule_storage
from machines.gates import BOOTSTRAP_ONLY, CONTINUOUS, REQUIRE_TRUE
from machines.orders import NAME
from machines.rules import Rule, rule_of

PAGE: Final = 100
SECONDS: Final = 3  # that one look through the covered machines may take
# the answers of machines: (word, swatch)
ANSWERS: Final[dict[str, tuple[str, str]]] = {
    "held": ("Held", "s-closed"),
    "unknown": ("No news", "s-unknown"),
    "released": ("Released", "s-open"),
}
MODES: Final = {
    CONTINUOUS: "also closes an open node",
    BOOTSTRAP_ONLY: "counts until the node opens",
}
_LISTED: Final = """
SELECT t.id, t.name FROM (SELECT s.id, n.name, {says} AS says, {done} AS done FROM machine_state s {join} JOIN machine n ON n.id = s.id
  WHERE s.phase NOT IN ('Retired', 'Decommissioning') AND {where} AND n.name > %s AND {scope} ORDER BY n.name OFFSET 0) t
WHERE {answer} ORDER BY t.name LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule as list and page show it."""

    obj: Json

    @property
    def name(self) -> str:
        return str(self.obj["metadata"]["name"])

    @property
    def spec(self) -> Json:
        found: Json = self.obj["spec"]
        return found

    def _n(self, key: str) -> int:
        return int(self.obj.get("status", {}).get(key) or 0)

    @property
    def machines(self) -> int:
        return self._n("machines")

    @property
    def held(self) -> int:
        return self._n("held")

    @property
    def released(self) -> int:
        return self._n("released")

    @property
    def unknown(self) -> int:
        return self._n("unknown")

    @property
    def parts(self) -> list[Part]:
        """Its bar."""
        return [Part(swatch, word.lower(), self._n(key), key) for key, (word, swatch) in ANSWERS.items() if self._n(key)]  # fmt: skip

    @property
    def state(self) -> tuple[str, str]:
        """(tone, word) of its pill."""
        if "machines" not in self.obj.get("status", {}):
            return "unknown", "Not counted yet"
        if not self.machines:
            return "off", "Covers nothing"
        if self.spec.get("dryRun"):
            return "off", "Only counts"
        return ("warn", "Holds") if self.held else ("ok", "In force")

    @property
    def asks(self) -> str:
        """ "GPUHealthy must be True, also closes an open node"."""
        return f"must be {wanted_of(self.spec)}, {MODES.get(self.spec.get('mode', CONTINUOUS), '')}"

    @property
    def target(self) -> str:
        return describe_target(self.spec["target"])

    @property
    def href(self) -> str:
        """Where all of its machines are listed, "" where one filter cannot say it."""
        target = self.spec["target"]
        labels = target.get("selector", {}).get("matchLabels", {})
        if target.get("matchAll"):
            return "/machines"
        if labels:
            q = " ".join(f"label:{shlex.quote(f'{k}={v}')}" for k, v in sorted(labels.items()))
        elif len(target.get("clusters", [])) == 1:
            q = f"cluster:{shlex.quote(target['clusters'][0])}"
        else:
            return ""
        return f"/machines?{urlencode({'q': q})}"


def wanted_of(spec: Json) -> str:
    """The status of the condition that lets a node open."""
    return "True" if spec.get("polarity", REQUIRE_TRUE) == REQUIRE_TRUE else "False"


def gate_rules(actor: Actor, query: QueryDict) -> Page:
    """All rules, those first that hold the most."""
    page = storage_for("readinessrules").page(ListQuery(limit=500))
    shown = sorted((RuleRow(o) for o in page.objects), key=lambda r: (bool(r.spec.get("dryRun")), -r.held, r.name))
    kind = storage_for("readinessrules").kind
    context = {"rules": shown, "may_create": actor.may("create", kind, None), "sentence": _list_sentence(shown)}
    fragments = (
        Fragment("o-sentence", "console/_overview_sentence.html"),
        *(Fragment(f"rule-{r.name}", "console/_gate_rule_row.html", {"r": r}) for r in shown),
    )
    crumbs = (("Clusters", "/clusters"),)
    return Page("console/gate_rules.html", "Gates", context, fragments, frozenset({READINESS_RULE}), "clusters", crumbs)


def _list_sentence(shown: list[RuleRow]) -> list[Word]:
    force = [r for r in shown if r.held and not r.spec.get("dryRun")]
    if not force:
        return [Word("No rule holds a machine closed." if shown else "No rule is declared.")]
    worst, rest = force[0], len(force) - 1
    said = [Word(worst.name, f"/gates/{quote(worst.name)}", "warn"), Word(f" holds {words.count(worst.held, 'machine')}")]  # fmt: skip
    return [*said, Word(f"; {words.count(rest, 'more rule')} {'holds' if rest == 1 else 'hold'} some too." if rest else ".")]  # fmt: skip


def gate_rule(actor: Actor, query: QueryDict, name: str) -> Page:
    """One rule, and the machines by what their condition answers."""
    stored = storage_for("readinessrules").read(name)
    if stored is None:
        raise Missing(f"There is no ReadinessRule {name}.")
    row = RuleRow(stored.obj)
    which = query.get("which", next((k for k in ANSWERS if row._n(k)), "held"))  # what there is something to see of
    if which not in ANSWERS:
        raise Missing(f"Machines are listed by which={' or which='.join(ANSWERS)}.")
    after = query.get("after", "")
    after = after if NAME.fullmatch(after) else ""
    shown, notice = _machines(actor, rule_of(name, row.spec), which, after)
    more = urlencode({"which": which, "after": shown[PAGE - 1]["name"]}) if len(shown) > PAGE else ""
    may = actor.may("update", storage_for("readinessrules").kind, None)
    context: dict[str, Any] = {
        "rule": row, "obj": row.obj, "name": name, "which": which, "answers": [(k, w, s, row._n(k)) for k, (w, s) in ANSWERS.items()],
        "machines": shown[:PAGE], "more": more, "after": after, "notice": notice, "may_write": may, "sentence": _sentence(row),
        "conditions": row.obj.get("status", {}).get("conditions", []), "scoped": actor.clusters is not None,
    }  # fmt: skip
    fragments = tuple(
        Fragment(id_, f"console/{t}.html")
        for id_, t in (
            ("g-head", "_gate_rule_head"),
            ("g-counts", "_gate_rule_counts"),
            ("g-rows", "_gate_rule_machines"),
            ("g-conditions", "_gate_rule_conditions"),
        )
    )
    crumbs = (("Clusters", "/clusters"), ("Gates", "/gates"))
    kinds = frozenset({READINESS_RULE, MACHINE})
    return Page("console/gate_rule.html", name, context, fragments, kinds, "clusters", crumbs)


def _sentence(row: RuleRow) -> list[Word]:
    asks = f"until {row.spec['conditionType']} is {wanted_of(row.spec)}"
    if "machines" not in row.obj.get("status", {}):
        return [Word("What it covers was not counted yet.")]
    if not row.machines:
        return [Word(f"It guards nothing: there is no machine that is {row.target}.")]
    rest = f"; {row.released:,} may open" + (f", of {row.unknown:,} nobody knows" if row.unknown else "")
    of = f" of {words.count(row.machines, 'machine')}"
    if row.spec.get("dryRun"):
        return [Word("It only counts: in force it would hold "), Word(f"{row.held:,}{of}"), Word(f" {asks}{rest}.")]
    if not row.held:
        return [Word(f"It holds none{of}{rest}.")]
    return [Word("It holds "), Word(f"{row.held:,}{of}", "#g-rows", "warn"), Word(f" closed {asks}{rest}.")]


def foreseen(name: str, spec: Json) -> tuple[int, int, int]:
    """(machines, held, released) that a rule would have in force; TooSlow when that takes too long to count."""
    with queries.bounded(SECONDS):
        machines, released, held = rule_storage.counted(rule_of(name, spec))
    return machines, held, released


def _machines(actor: Actor, rule: Rule, which: str, after: str) -> tuple[list[dict[str, Any]], str]:
    """(machines whose condition answers so, one more than a page; why there are none)."""
    try:
        with queries.bounded(SECONDS):
            ids = _ids(actor, rule, which, after)
    except queries.TooSlow:
        return [], f"Its machines could not be looked through in {SECONDS} s. The counts are right; name a cluster to list them."  # fmt: skip
    objects = machine_storage().by_ids(ids)
    return [queries.with_state(objects[id_]) for id_ in ids if id_ in objects], ""


def _ids(actor: Actor, rule: Rule, which: str, after: str) -> list[int]:
    where, params, join = rule_storage.target_sql(rule)
    says, values = rule_storage.says_sql(rule)
    if rule.ttl_seconds is not None:
        join += " LEFT JOIN report rp ON rp.machine_id = s.id AND rp.type = %s"
        says = f"CASE WHEN rp.received_at < now() - %s * interval '1 s' THEN '' ELSE {says} END"
        values, params = [rule.ttl_seconds, *values], [rule.type, *params]
    good, bad = ("True", "False") if rule.polarity == REQUIRE_TRUE else ("False", "True")
    answer, asked = {
        "held": ("t.says = %s AND NOT t.done", [bad]),
        "released": ("(t.says = %s OR t.done)", [good]),
        "unknown": ("t.says NOT IN (%s, %s) AND NOT t.done", [good, bad]),
    }[which]
    done = "s.is_node AND s.open" if rule.mode == BOOTSTRAP_ONLY else "false"
    ids = queries.scope_ids(actor)
    scope, scoped = ("true", []) if ids is None else ("s.cluster_id = ANY (%s)", [ids])
    sql = _LISTED.format(says=says, done=done, join=join, where=where, scope=scope, answer=answer)
    found = queries.rows(sql, [*values, *params, after, *scoped, *asked, PAGE + 1])
    return [int(r["id"]) for r in found]
