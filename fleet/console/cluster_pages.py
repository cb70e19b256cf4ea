"""Clusters: the list, the page of one, and its nodes that nobody declared or that a person cordoned."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, Stored, storage_for
from fleet.console import choices, cluster_care, gates, plane, queries, words
from fleet.console import nodes as cluster_nodes
from fleet.console.cluster_seen import seen_of
from fleet.console.page import Fragment, Missing, NotAllowed, Page
from fleet.console.words import Word
from fleet.control.kinds import CLUSTER, HOLD, MACHINE, Json


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A cluster as lists show it."""

    obj: Json
    name: str
    parts: list[words.Part]
    total: int
    running: int
    failed: int

    def is_true(self, type_: str) -> bool:
        """Whether a condition of the cluster is True."""
        conditions = self.obj.get("status", {}).get("conditions", [])
        return any(c["type"] == type_ and c["status"] == "True" for c in conditions)

    @property
    def stuck(self) -> bool:
        """Whether its control plane waits for a person."""
        return self.is_true("Stalled")

    @property
    def well(self) -> bool:
        """Whether everything in it is as declared."""
        return self.total == self.running and (not self.obj["spec"].get("provider") or self.is_true("Ready"))

    @property
    def version(self) -> str:
        """What the API server says it is; until it does, what is asked for."""
        return str(self.obj.get("status", {}).get("kubernetesVersion", ""))

    @property
    def target(self) -> str:
        """The package version on the way to which it is, "" at rest."""
        wanted, reached = (
            self.obj["spec"].get("packageVersion", ""),
            self.obj.get("status", {}).get("packageVersion", ""),
        )
        return str(wanted) if wanted != reached else ""

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
    shown.sort(key=lambda c: (not (c.stuck or c.name in stopped), -c.failed, -(c.total - c.running), c.name))
    context = {
        "clusters": shown,
        "rolling": rolling,
        "may_create": actor.may_somewhere("create", storage_for("clusters").kind),
        "choices": partial(choices.for_new, actor),
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
    troubled = [c for c in shown if c.failed or c.stuck or c.name in stopped]
    if not troubled:
        well = sum(c.well for c in shown)
        return [Word(f"No cluster needs you; {well:,} of {words.count(len(shown), 'cluster')} run wholly as declared.")]
    worst = troubled[0]
    why = ["its control plane waits for a person"] if worst.stuck else []
    why += ["its layer has stopped"] if worst.name in stopped else []
    why += [f"{words.count(worst.failed, 'machine')} of {worst.total:,} failed"] if worst.failed else []
    rest = (
        f"; {len(troubled) - 1:,} more {'needs' if len(troubled) == 2 else 'need'} you too" if len(troubled) > 1 else ""
    )
    return [
        Word(worst.name, f"/clusters/{quote(worst.name)}", "bad"),
        Word(f" needs you{' most' if rest else ''}: {' and '.join(why)}{rest}."),
    ]


def cluster(actor: Actor, query: QueryDict, name: str) -> Page:
    """One cluster: its control plane, its nodes and gates, its machines by phase, its layer, what is refused in it."""
    stored = _read(actor, name)
    obj, kind = stored.obj, storage_for("clusters").kind
    row = _row(stored.obj, queries.phase_counts(actor).get(stored.id, Counter()))
    refused = queries.refusals(actor, 50, cluster_id=stored.id)
    budgets = queries.budgets([stored.id])
    layer = next((r for r in queries.layers(actor) if r["layer"] == "cluster" and r["name"] == name), None)
    shown = plane.view(obj)
    context = {
        "obj": obj,
        "name": name,
        "may_write": actor.may("update", kind, name),
        "may_approve": actor.may_approve(name),
        "snapshots": cluster_care.snapshots_of(obj),
        "seen": seen_of(obj),
        "versions": partial(choices.versions, obj, query.get("to", "")),
        "nodes": cluster_nodes.view(obj, stored.id),
        "gates": gates.of_cluster(obj),
        "parts": row.parts,
        "total": row.total,
        "refused": refused,
        "waiting": sum(r.n for r in refused),
        "conditions": obj.get("status", {}).get("conditions", []),
        "budgets": budgets,
        "layer": layer,
        "plane": shown,
        "sentence": _cluster_sentence(row, layer, budgets, shown),
    }
    fragments = tuple(
        Fragment(id_, f"console/{template}.html")
        for id_, template in (
            ("c-head", "_cluster_head"),
            ("c-acts", "_cluster_acts"),
            ("o-bar", "_overview_bar"),
            ("c-plane", "_cluster_plane"),
            ("c-nodes", "_cluster_nodes"),
            ("c-gates", "_cluster_gates"),
            ("c-layer", "_cluster_layer"),
            ("o-refused", "_overview_refused"),
            ("c-budgets", "_budgets"),
            ("c-conditions", "_conditions"),
        )
    )
    kinds = frozenset({MACHINE, CLUSTER, HOLD})
    return Page("console/cluster.html", name, context, fragments, kinds, "clusters", (("Clusters", "/clusters"),))


def _read(actor: Actor, name: str) -> Stored:
    stored = storage_for("clusters").read(name)
    if stored is None:
        raise Missing(f"There is no cluster {name}.")
    if actor.clusters is not None and name not in actor.clusters:
        raise NotAllowed(f"{actor.name} has no role in cluster {name}. A viewer of that cluster sees it.")
    return stored


def nodes(actor: Actor, query: QueryDict, name: str) -> Page:
    """All nodes of a cluster that nobody declared, or that a person cordoned, by name."""
    stored = _read(actor, name)
    which = query.get("which", "undeclared")
    if which not in cluster_nodes.WHICH:
        raise Missing(f"Nodes are listed by which={' or which='.join(cluster_nodes.WHICH)}.")
    after = query.get("after", "")[:253].replace("\x00", "")
    found = cluster_nodes.listed(stored.id, which, after)
    shown = found[: cluster_nodes.PAGE]
    more = urlencode({"which": which, "after": shown[-1]["name"]}) if len(found) > len(shown) else ""
    context = {"name": name, "which": which, "words": cluster_nodes.WHICH, "nodes": shown, "after": after, "more": more}
    crumbs = (("Clusters", "/clusters"), (name, f"/clusters/{quote(name)}"))
    kinds = frozenset({MACHINE, CLUSTER})
    return Page(
        "console/nodes.html",
        "Nodes",
        context,
        (Fragment("n-rows", "console/_node_rows.html"),),
        kinds,
        "clusters",
        crumbs,
    )


def _cluster_sentence(
    row: ClusterRow, layer: dict[str, Any] | None, budgets: list[queries.Budget], shown: plane.PlaneView | None
) -> list[Word]:
    plane_says = [Word(shown.sentence, tone="bad" if shown.tone == "bad" else "")] if shown else []
    if not row.total:
        return plane_says or [Word("No machine names this cluster yet.")]
    here = f"+cluster:{quote(row.name)}"
    said = [*plane_says, Word(" ")] if plane_says else []
    said += [Word(f"{row.running:,} of {words.count(row.total, 'machine')} run as declared")]
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
