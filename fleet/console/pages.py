"""The pages: each a function from (actor, query) to a Page."""

from __future__ import annotations

from collections import Counter
from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict

from fleet.api.audit import verify
from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.api.subresources import subresource
from fleet.console import filters, queries
from fleet.console.page import Fragment, Missing, NotAllowed, Page
from fleet.console.templatetags.fleet import STATES
from fleet.control.kinds import CLUSTER, HOLD, MACHINE, OPERATION, PERMIT, Json

# phase → swatch of the bar and word of the legend
_LEGEND = (
    ("Running", "s-open", "Running", "phase:Running"),
    ("Provisioning", "s-busy", "Provisioning", "phase:Provisioning"),
    ("Updating", "s-busy", "Updating", "phase:Updating"),
    ("Repairing", "s-repair", "Under repair", "phase:Repairing"),
    ("Probation", "s-repair", "On probation", "phase:Probation"),
    ("Failed", "s-failed", "Need a person", "phase:Failed"),
    ("Pending", "s-unknown", "Not looked at yet", "phase:Pending"),
    ("Decommissioning", "s-off", "Leaving", "phase:Decommissioning"),
    ("Retired", "s-off", "Retired", "phase:Retired"),
)


def legend(phases: Counter[str]) -> list[dict[str, Any]]:
    """Bar and legend of machines by phase; phases that nobody is in are left out."""
    return [{"swatch": s, "word": w, "q": q, "n": phases[p]} for p, s, w, q in _LEGEND if phases[p]]


def _bar(parts: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [(p["swatch"], p["n"], p["word"]) for p in parts]


def overview(actor: Actor, query: QueryDict) -> Page:
    """Who needs me, what runs, what is refused."""
    phases: Counter[str] = Counter()
    for each in queries.phase_counts(actor).values():
        phases += each
    refused = queries.refusals(actor)
    parts = legend(phases)
    needs = [queries.with_state(o) for o in queries.failed(actor)]
    context = {
        "sentence": _sentence(phases, refused, queries.guard()),
        "total": phases.total(),
        "parts": parts,
        "bar": _bar(parts),
        "needs": needs,
        "refused": refused,
        "waiting": sum(int(r["n"]) for r in refused),
        "operations": queries.open_operations(actor),
        "drifted": queries.drift_count(actor),
        "events": queries.events(actor, limit=12),
    }
    fragments = tuple(
        Fragment(f"o-{n}", f"console/_overview_{n}.html")
        for n in ("sentence", "bar", "needs", "refused", "doing", "events")
    )
    return Page(
        "console/overview.html",
        "Overview",
        context,
        fragments,
        frozenset({MACHINE, OPERATION, CLUSTER, HOLD}),
        "overview",
    )


def _sentence(phases: Counter[str], refused: list[dict[str, Any]], guard: queries.Guard) -> str:
    if guard.stopped:
        return f"All changes are stopped by {guard.by}: {guard.why}"
    if not phases.total():
        return "No machine is declared yet."
    moving = phases["Provisioning"] + phases["Updating"] + phases["Repairing"] + phases["Probation"]
    first = (
        f"{phases['Failed']:,} machine{'s need' if phases['Failed'] != 1 else ' needs'} you"
        if phases["Failed"]
        else "Nothing needs you"
    )
    second = f"Fleet works on {moving:,}" if moving else "Fleet has nothing to do"
    waiting = sum(int(r["n"]) for r in refused)
    third = f" and {waiting:,} change{'s wait' if waiting != 1 else ' waits'} for a permit" if waiting else ""
    return f"{first}; {second}{third}. {phases['Running']:,} of {phases.total():,} run as declared."


def clusters(actor: Actor, query: QueryDict) -> Page:
    """Clusters, trouble first."""
    by_cluster = queries.phase_counts(actor)
    storage = storage_for("clusters")
    page = storage.page(ListQuery(limit=500, clusters=actor.clusters))
    ids = dict(
        zip(
            [o["metadata"]["name"] for o in page.objects],
            storage.ids_of([o["metadata"]["name"] for o in page.objects]),
            strict=False,
        )
    )
    names = {
        r["name"]: r["id"]
        for r in queries.rows("SELECT id, name FROM clusters_cluster WHERE name = ANY (%s)", [list(ids)])
    }
    shown = []
    for obj in page.objects:
        parts = legend(by_cluster.get(names.get(obj["metadata"]["name"], -1), Counter()))
        counts = Counter({p["word"]: p["n"] for p in parts})
        shown.append(
            {
                "obj": obj,
                "name": obj["metadata"]["name"],
                "parts": parts,
                "bar": _bar(parts),
                "total": sum(p["n"] for p in parts),
                "failed": counts["Need a person"],
                "running": counts["Running"],
            }
        )
    shown.sort(key=lambda c: (-c["failed"], -(c["total"] - c["running"]), c["name"]))
    outside = sum(by_cluster.get(0, Counter()).values())
    fragments = tuple(Fragment(f"cluster-{c['name']}", "console/_cluster_row.html", {"c": c}) for c in shown)
    return Page(
        "console/clusters.html",
        "Clusters",
        {"clusters": shown, "outside": outside},
        fragments,
        frozenset({MACHINE, CLUSTER}),
        "clusters",
    )


def cluster(actor: Actor, query: QueryDict, name: str) -> Page:
    """One cluster: its machines by phase, its layer, what is refused in it."""
    stored = storage_for("clusters").read(name)
    if stored is None:
        raise Missing(f"There is no cluster {name}.")
    if actor.clusters is not None and name not in actor.clusters:
        raise NotAllowed(f"{actor.name} has no role in cluster {name}. A viewer of that cluster sees it.")
    parts = legend(queries.phase_counts(actor).get(stored.id, Counter()))
    refused = [r for r in queries.refusals(actor, 200) if r["cluster"] == name]
    context = {
        "obj": stored.obj, "name": name, "parts": parts, "bar": _bar(parts), "total": sum(p["n"] for p in parts),
        "refused": refused, "waiting": sum(int(r["n"]) for r in refused), "conditions": stored.obj.get("status", {}).get("conditions", []),
        "budget": queries.rows("SELECT (SELECT count(*) FROM capacity WHERE cluster_id = %s AND in_service AND down) AS down, coalesce((SELECT n FROM capacity_total WHERE cluster_id = %s), 0) AS total", [stored.id, stored.id])[0],
    }  # fmt: skip
    fragments = (
        Fragment("o-bar", "console/_overview_bar.html"),
        Fragment("o-refused", "console/_overview_refused.html"),
        Fragment("c-conditions", "console/_conditions.html"),
    )
    return Page(
        "console/cluster.html",
        name,
        context,
        fragments,
        frozenset({MACHINE, CLUSTER}),
        "clusters",
        (("Clusters", "/clusters"),),
    )


def machines(actor: Actor, query: QueryDict) -> Page:
    """Machines: filter, keyset pages of 100."""
    text, after = query.get("q", "").strip(), query.get("after", "")
    error, shown, next_name = "", list[dict[str, Any]](), ""
    parsed = filters.Filter()
    try:
        parsed = filters.parse(text)
        shown, next_name = _machine_rows(actor, parsed, after)
    except filters.FilterError as problem:
        error = str(problem)
    tokens = [
        {
            "key": k,
            "value": v,
            "without": urlencode({"q": filters.join(tuple(t for t in parsed.tokens if t != (k, v)), parsed.words)}),
        }
        for k, v in parsed.tokens
    ]
    context = {
        "q": text, "error": error, "machines": shown, "tokens": tokens, "words": " ".join(parsed.words), "after": after,
        "next": urlencode({"q": text, "after": next_name}) if next_name else "", "states": [(k, w[0]) for k, w in STATES.items()],
        "clusters": sorted(actor.clusters) if actor.clusters is not None else [r["name"] for r in queries.rows("SELECT name FROM clusters_cluster ORDER BY name LIMIT 50")],
        "command": f"kubectl get machines{_kubectl_filter(parsed)}",
    }  # fmt: skip
    fragments = tuple(Fragment(f"row-{m['name']}", "console/_machine_row.html", {"m": m}) for m in shown)
    return Page("console/machines.html", "Machines", context, fragments, frozenset({MACHINE}), "machines")


def _kubectl_filter(parsed: filters.Filter) -> str:
    fields = ",".join(
        f"{p}{o}{v}"
        for p, o, v in parsed.fields.terms
        if p in ("spec.clusterName", "spec.idc", "spec.ip", "status.phase")
    )
    return f" --field-selector '{fields}'" if fields else ""


def _machine_rows(actor: Actor, parsed: filters.Filter, after: str) -> tuple[list[dict[str, Any]], str]:
    storage = storage_for("machines")
    if parsed.prefix:
        found = queries.rows(
            "SELECT name FROM machine WHERE (name >= %s AND name < %s) OR serial_number = %s ORDER BY name LIMIT %s",
            [parsed.prefix, parsed.prefix + "\uffff", parsed.prefix, 2_000],
        )
        return _named(actor, parsed, [r["name"] for r in found if r["name"] > after])
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


TABS = (
    ("why", "Why"),
    ("plan", "Plan"),
    ("packages", "Packages"),
    ("conditions", "Conditions"),
    ("facts", "Facts"),
    ("events", "Events"),
    ("yaml", "YAML"),
)


def machine(actor: Actor, query: QueryDict, name: str, tab: str = "why") -> Page:
    """One machine."""
    stored = storage_for("machines").read(name)
    if stored is None:
        raise Missing(f"There is no machine {name}.")
    cluster_name = stored.obj["spec"].get("clusterName", "")
    if actor.clusters is not None and cluster_name not in actor.clusters:
        raise NotAllowed(
            f"{actor.name} has no role in {'cluster ' + cluster_name if cluster_name else 'the fleet'}. A viewer there sees this machine."
        )
    if tab not in dict(TABS):
        raise Missing(f"A machine has no tab {tab}. Tabs are {', '.join(dict(TABS))}.")
    m = queries.with_state(stored.obj)
    why = _why(stored.obj, actor)
    operations = queries.operations_of(name)
    for each in operations:
        each["done"] = sum(1 for s in each.get("status", {}).get("steps", []) if s.get("status") == "True")
    current = next(
        (o for o in operations if o.get("status", {}).get("phase") in ("Running", "Pending")),
        operations[0] if operations else None,
    )
    context = {
        "m": m, "obj": stored.obj, "name": name, "tab": tab, "tabs": TABS, "verdict": _verdict(m, current),
        "operation": current, "operations": operations, "plan": _plan(why.get("plan", {})),
        "ladders": why.get("ladders", []), "conditions": stored.obj.get("status", {}).get("conditions", []),
        "packages": stored.obj.get("status", {}).get("packages", []), "facts": why.get("facts", {}),
        "events": queries.events(actor, machine=name, limit=200 if tab == "events" else 25),
        "holds": machine_holds(name), "may_write": actor.may("update", storage_for("machines").kind, cluster_name),
    }  # fmt: skip
    fragments = tuple(Fragment(f"m-{n}", f"console/_machine_{n}.html") for n in ("head", tab, "operation", "time"))
    return Page(
        "console/machine.html",
        name,
        context,
        fragments,
        frozenset({MACHINE, OPERATION, HOLD}),
        "machines",
        (("Machines", "/machines"),),
    )


def _plan(plan: Json) -> Json:
    """The plan with its file differences as lines."""
    return {**plan, "diffs": [{**d, "lines": d.get("diff", "").splitlines()} for d in plan.get("diffs", [])]}


def _verdict(m: dict[str, Any], operation: Json | None) -> str:
    """What is so, since when, why, and what comes next."""
    if m["state"] == "ok" and not m["why"]:
        return "Runs as declared." if m["status"].get("phase") == "Running" else "Not looked at yet."
    if m["state"] == "busy" and operation is not None:
        steps = operation.get("status", {}).get("steps", [])
        now = next((s for s in steps if s.get("status") == "Unknown" and s.get("startTime")), None)
        return f"{operation['spec'].get('verb', 'Work')} is under way{': ' + now['name'] if now else ''}."
    return m["why"] or STATES[m["state"]][0] + "."


def _why(obj: Json, actor: Actor) -> Json:
    """Ladders, plan and facts, as the subresource `why` gives them."""
    answer = subresource("machines", "why")
    return answer(obj, actor) if answer is not None else {}


def machine_holds(name: str) -> list[Json]:
    page = storage_for("holds").page(ListQuery(limit=500))
    return [h for h in page.objects if h["spec"].get("target", {}).get("machine") == name]


def packages(actor: Actor, query: QueryDict) -> Page:
    """Package versions and how many machines hold each."""
    page = storage_for("machinepackageversions").page(ListQuery(limit=500))
    used = {
        (r["name"], r["version"]): int(r["n"])
        for r in queries.rows(
            "SELECT p ->> 'name' AS name, p ->> 'version' AS version, sum(u.n) AS n FROM accepted_set a JOIN (SELECT desired_hash, count(*) AS n FROM machine_state GROUP BY 1) u ON u.desired_hash = a.hash, jsonb_array_elements(a.body -> 'packages') p GROUP BY 1, 2"
        )
    }
    from machines.schema import package_version

    shown = [
        {
            "obj": o,
            "package": o["spec"]["packageName"],
            "version": package_version(o),
            "n": used.get((o["spec"]["packageName"], package_version(o)), 0),
        }
        for o in page.objects
    ]
    return Page("console/packages.html", "Packages", {"packages": shown}, (), frozenset(), "packages")


def safety(actor: Actor, query: QueryDict) -> Page:
    """Kill switch, holds, permits in use, what is refused."""
    refused = queries.refusals(actor, 100)
    context: dict[str, Any] = {
        "holds": storage_for("holds").page(ListQuery(limit=200)).objects,
        "permits": _open_permits(actor),
        "policies": storage_for("safetypolicies").page(ListQuery(limit=100)).objects,
        "refused": refused,
        "waiting": sum(int(r["n"]) for r in refused),
        "switch": queries.guard(),
    }
    fragments = (Fragment("o-refused", "console/_overview_refused.html"),)
    return Page("console/safety.html", "Safety", context, fragments, frozenset({MACHINE, HOLD, PERMIT}), "safety")


def _open_permits(actor: Actor, limit: int = 100) -> list[Json]:
    """Permits that still count, newest first."""
    found = queries.rows("SELECT id FROM permit WHERE released_at IS NULL ORDER BY id DESC LIMIT %s", [limit])
    objects = storage_for("permits").by_ids([r["id"] for r in found])
    return [o for o in objects.values() if actor.clusters is None or o["spec"].get("clusterName", "") in actor.clusters]


def events(actor: Actor, query: QueryDict) -> Page:
    """What happened, newest first."""
    text = query.get("q", "").strip()[:100]
    before = int(query.get("before", "0")) if query.get("before", "0").isdigit() else 0
    shown = queries.events(actor, before=before, text=text)
    more = urlencode({"q": text, "before": shown[-1]["pos"]}) if len(shown) == 100 else ""
    fragments = () if before else (Fragment("e-rows", "console/_event_rows.html"),)
    return Page(
        "console/events.html",
        "Events",
        {"events": shown, "q": text, "more": more},
        fragments,
        frozenset({MACHINE, OPERATION, CLUSTER}),
        "events",
    )


def audit(actor: Actor, query: QueryDict) -> Page:
    """Who wrote what; the chain verified on request."""
    if ("admin", "") not in actor.bindings and ("approver", "") not in actor.bindings:
        raise NotAllowed(
            f"{actor.name} may not read the audit trail. It takes the role approver or admin of the whole fleet."
        )
    before = int(query.get("before", "0")) if query.get("before", "0").isdigit() else 0
    shown = queries.audit(before)
    verdict = verify() if query.get("verify") else None
    return Page(
        "console/audit.html",
        "Audit",
        {
            "rows": shown,
            "more": urlencode({"before": shown[-1]["pos"]}) if len(shown) == 100 else "",
            "verdict": verdict,
        },
        (),
        frozenset(),
        "audit",
    )
