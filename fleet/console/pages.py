"""The pages: each a function from (actor, query) to a Page. Overview, machine list and machine page have modules of their own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from django.http import QueryDict

from fleet.api.audit import verify
from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.console import plane, queries, records, words
from fleet.console.machine_list import machines
from fleet.console.machine_page import machine
from fleet.console.overview import overview
from fleet.console.page import Fragment, Missing, NotAllowed, Page
from fleet.console.words import Word
from fleet.control.kinds import CLUSTER, HOLD, MACHINE, OPERATION, PERMIT, Json
from machines.schema import package_version

__all__ = ["audit", "cluster", "clusters", "events", "machine", "machines", "overview", "packages", "safety"]


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A cluster as lists show it."""

    obj: Json
    name: str
    parts: list[words.Part]
    total: int
    running: int
    failed: int

    @property
    def percent(self) -> str:
        """Running machines in percent; rounded down, so that 100 % means all."""
        return f"{int(self.running * 1000 / self.total) / 10:g} %" if self.total else "–"


def _row(obj: Json, phases: Counter[str]) -> ClusterRow:
    name = obj["metadata"]["name"]
    return ClusterRow(obj, name, words.legend(phases), phases.total(), phases["Running"], phases["Failed"])


def clusters(actor: Actor, query: QueryDict) -> Page:
    """Clusters, trouble first."""
    by_cluster = queries.phase_counts(actor)
    objects = storage_for("clusters").page(ListQuery(limit=500, clusters=actor.clusters)).objects
    ids = queries.cluster_numbers([o["metadata"]["name"] for o in objects])
    shown = [_row(o, by_cluster.get(ids.get(o["metadata"]["name"], -1), Counter())) for o in objects]
    rolling = {r["name"]: r for r in queries.layers(actor) if r["layer"] == "cluster"}
    stopped = {name for name, r in rolling.items() if r["state"] == "Stopped"}
    shown.sort(key=lambda c: (c.name not in stopped, -c.failed, -(c.total - c.running), c.name))
    context = {
        "clusters": shown,
        "rolling": rolling,
        "outside": by_cluster.get(0, Counter()).total(),
        "sentence": _clusters_sentence(shown, stopped),
    }
    fragments = (
        Fragment("o-sentence", "console/_overview_sentence.html"),
        *(
            Fragment(f"cluster-{c.name}", "console/_cluster_row.html", {"c": c, "layer": rolling.get(c.name)})
            for c in shown
        ),
    )
    return Page("console/clusters.html", "Clusters", context, fragments, frozenset({MACHINE, CLUSTER}), "clusters")


def _clusters_sentence(shown: list[ClusterRow], stopped: set[str]) -> list[Word]:
    troubled = [c for c in shown if c.failed or c.name in stopped]
    if not troubled:
        well = sum(c.total == c.running for c in shown)
        return [Word(f"No cluster needs you; {well:,} of {words.count(len(shown), 'cluster')} run wholly as declared.")]
    worst = troubled[0]
    why = ["its layer has stopped"] if worst.name in stopped else []
    why += [f"{words.count(worst.failed, 'machine')} of {worst.total:,} failed"] if worst.failed else []
    rest = (
        f"; {len(troubled) - 1:,} more {'needs' if len(troubled) == 2 else 'need'} you too" if len(troubled) > 1 else ""
    )
    return [
        Word(worst.name, f"/clusters/{quote(worst.name)}", "bad"),
        Word(f" needs you{' most' if rest else ''}: {' and '.join(why)}{rest}."),
    ]


def cluster(actor: Actor, query: QueryDict, name: str) -> Page:
    """One cluster: its machines by phase, its layer, what is refused in it."""
    stored = storage_for("clusters").read(name)
    if stored is None:
        raise Missing(f"There is no cluster {name}.")
    if actor.clusters is not None and name not in actor.clusters:
        raise NotAllowed(f"{actor.name} has no role in cluster {name}. A viewer of that cluster sees it.")
    row = _row(stored.obj, queries.phase_counts(actor).get(stored.id, Counter()))
    refused = queries.refusals(actor, 50, cluster_id=stored.id)
    budgets = queries.budgets([stored.id])
    layer = next((r for r in queries.layers(actor) if r["layer"] == "cluster" and r["name"] == name), None)
    shown = plane.view(stored.obj)
    context = {
        "obj": stored.obj,
        "name": name,
        "parts": row.parts,
        "total": row.total,
        "refused": refused,
        "waiting": sum(r.n for r in refused),
        "conditions": stored.obj.get("status", {}).get("conditions", []),
        "budgets": budgets,
        "layer": layer,
        "plane": shown,
        "sentence": _cluster_sentence(row, layer, budgets, shown),
    }
    fragments = tuple(
        Fragment(id_, f"console/{template}.html")
        for id_, template in (
            ("c-head", "_cluster_head"),
            ("o-bar", "_overview_bar"),
            ("c-plane", "_cluster_plane"),
            ("c-layer", "_cluster_layer"),
            ("o-refused", "_overview_refused"),
            ("c-budgets", "_budgets"),
            ("c-conditions", "_conditions"),
        )
    )
    kinds = frozenset({MACHINE, CLUSTER, HOLD})
    return Page("console/cluster.html", name, context, fragments, kinds, "clusters", (("Clusters", "/clusters"),))


def _cluster_sentence(
    row: ClusterRow, layer: dict[str, Any] | None, budgets: list[queries.Budget], shown: plane.PlaneView | None
) -> list[Word]:
    if not row.total and shown is not None:
        return [Word(shown.sentence, tone="bad" if shown.tone == "bad" else "")]
    if not row.total:
        return [Word("No machine names this cluster yet.")]
    here = f"+cluster:{quote(row.name)}"
    said = [Word(f"{row.running:,} of {words.count(row.total, 'machine')} run as declared")]
    if row.failed:
        verb = "needs" if row.failed == 1 else "need"
        said += [Word("; "), Word(f"{row.failed:,}", f"/machines?q=state:bad{here}", "bad"), Word(f" {verb} you")]
    if layer is not None:
        state = "has stopped" if layer["state"] == "Stopped" else "rolls out"
        said += [Word("; its layer "), Word(state, "#c-layer", "bad" if layer["state"] == "Stopped" else "")]
    full = next((b for b in budgets if b.gone >= b.cap), None)
    if full is not None:
        said += [Word("; "), Word("its budget is used up", "#c-budgets", "held")]
    return [*said, Word(".")]


def packages(actor: Actor, query: QueryDict) -> Page:
    """Package versions and on how many machines each was seen."""
    page = storage_for("machinepackageversions").page(ListQuery(limit=500))
    used, counted_at = queries.versions_seen()
    found: dict[str, list[dict[str, Any]]] = {}
    for obj in page.objects:
        name, version = obj["spec"]["packageName"], package_version(obj)
        found.setdefault(name, []).append({"obj": obj, "version": version, "n": used.get((name, version), 0)})
    shown = []
    for name, versions in sorted(found.items()):
        most = max((v["n"] for v in versions), default=0) or 1
        for v in versions:
            v["width"] = round(v["n"] / most * 200)
        shown.append({"name": name, "versions": versions, "total": sum(v["n"] for v in versions)})
    context = {"packages": shown, "counted_at": counted_at}
    return Page("console/packages.html", "Packages", context, (), frozenset(), "packages")


def safety(actor: Actor, query: QueryDict) -> Page:
    """Kill switch, holds, budgets, permits in use, what is refused."""
    refused = queries.refusals(actor, 100)
    context: dict[str, Any] = {
        "holds": queries.holds(actor),
        "permits": queries.open_permits(actor),
        "budgets": queries.budgets(queries.scope_ids(actor)),
        "refused": refused,
        "waiting": sum(r.n for r in refused),
        "switch": queries.guard(),
    }
    fragments = tuple(
        Fragment(id_, f"console/{template}.html")
        for id_, template in (
            ("o-refused", "_overview_refused"),
            ("s-permits", "_permits"),
            ("s-holds", "_holds"),
            ("c-budgets", "_budgets"),
        )
    )
    return Page("console/safety.html", "Safety", context, fragments, frozenset({MACHINE, HOLD, PERMIT}), "safety")


def _before(query: QueryDict) -> int:
    text = query.get("before", "0")
    return int(text) if text.isdigit() and len(text) < 19 else 0


def events(actor: Actor, query: QueryDict) -> Page:
    """What happened, newest first."""
    text = query.get("q", "").strip()[:100].replace("\x00", "")
    before = _before(query)
    shown = records.events(actor, before=before, text=text)
    more = urlencode({"q": text, "before": shown[-1]["pos"]}) if len(shown) == 100 else ""
    fragments = () if before else (Fragment("e-rows", "console/_event_rows.html"),)
    context = {"events": shown, "q": text, "more": more, "before": before, "searched": records.SEARCHED}
    return Page("console/events.html", "Events", context, fragments, frozenset({MACHINE, OPERATION, CLUSTER}), "events")


def audit(actor: Actor, query: QueryDict) -> Page:
    """Who wrote what; the chain verified on request."""
    if ("admin", "") not in actor.bindings and ("approver", "") not in actor.bindings:
        raise NotAllowed(
            f"{actor.name} may not read the audit trail. It takes the role approver or admin of the whole fleet."
        )
    shown = records.audit(_before(query))
    context = {
        "rows": shown,
        "more": urlencode({"before": shown[-1]["pos"]}) if len(shown) == 100 else "",
        "verdict": verify() if query.get("verify") else None,
    }
    return Page("console/audit.html", "Audit", context, (), frozenset(), "audit")
