"""One machine: why, plan, packages, conditions, facts, events, YAML, and what a person may do to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.api.storage import storage_for
from fleet.api.subresources import subresource
from fleet.console import fault_queries, gates, queries, records, repair, words
from fleet.console.diffs import Line, lines
from fleet.console.page import Fragment, Missing, NotAllowed, Page, may_audit
from fleet.control.kinds import FAULT, HOLD, MACHINE, OPERATION, REMEDIATION, Json
from recovery.types import TYPES

TABS: Final = (
    ("why", "Why"),
    ("plan", "Plan"),
    ("packages", "Packages"),
    ("conditions", "Conditions"),
    ("facts", "Facts"),
    ("events", "Events"),
    ("yaml", "YAML"),
)
_SILENCE: Final = timedelta(hours=3)  # a longer gap between two events is said
_LAYERS: Final = {"machine": "this machine", "class": "its class", "cluster": "cluster default", "": "nobody"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as wanted; files carry their lines."""

    kind: str
    name: str
    wanted: str
    seen: str
    disruption: str
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Day:
    """The events of one day, newest first; an entry may be a gap instead of an event."""

    day: str
    entries: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Done:
    """An Operation as the page shows it."""

    obj: Json
    stages: list[words.Stage] = field(default_factory=list)
    done: int = 0
    total: int = 0

    @property
    def open(self) -> bool:
        return self.obj.get("status", {}).get("phase") in ("Running", "Pending")


def machine(actor: Actor, query: QueryDict, name: str, tab: str = "why") -> Page:
    """The page of one machine."""
    stored = storage_for("machines").read(name)
    if stored is None:
        raise Missing(f"There is no machine {name}.")
    cluster_name = stored.obj["spec"].get("clusterName", "")
    if actor.clusters is not None and cluster_name not in actor.clusters:
        where = f"cluster {cluster_name}" if cluster_name else "the fleet"
        raise NotAllowed(f"{actor.name} has no role in {where}. A viewer there sees this machine.")
    if tab not in dict(TABS):
        raise Missing(f"A machine has no tab {tab}. Tabs are {', '.join(dict(TABS))}.")
    m = queries.with_state(stored.obj)
    operations = [operation(o) for o in queries.operations_of(stored.id)]
    context = _seen(stored.obj, stored.id, actor) | {
        "m": m, "obj": stored.obj, "name": name, "tab": tab, "tabs": TABS,
        "current": next((o for o in operations if o.open), operations[0] if operations else None), "operations": operations,
        "days": days(_story(actor, name, tab, query.get("by", ""))), "origins": records.ORIGINS, "by": query.get("by", ""),
        "may_write": actor.may("update", storage_for("machines").kind, cluster_name), "may_approve": actor.may_approve(cluster_name),
    }  # fmt: skip
    context["lost"] = _lost(stored.obj, m["conditions"])
    context["waits"] = gates.of_machine(stored.obj)
    context |= _faults(stored.id, context["ladders"])
    context["verdict"] = (
        f"{verdict(m, context['current'], context['hold'])} {repair.said_of(context['faults'])}".strip()
    )
    if context["lost"]:
        context["verdict"] += " Its host does not answer: it stays until it does, or until an approver gives it up."
    context["blockers"] = _blockers(m, context)
    fragments = tuple(Fragment(f"m-{n}", f"console/_machine_{n}.html") for n in _fragments(tab))
    crumbs = [("Machines", "/machines")]
    if cluster_name:
        crumbs.append((cluster_name, f"/machines?q=cluster:{quote(cluster_name)}"))
    kinds = frozenset({MACHINE, OPERATION, HOLD, FAULT, REMEDIATION})
    return Page("console/machine.html", name, context, fragments, kinds, "machines", tuple(crumbs))


def _faults(id_: int, ladders: list[Any]) -> dict[str, Any]:
    """Live faults, and behind the other ladders why nobody repairs the worst of them."""
    found = [{**f, "who": repair.sources_of(f)} for f in fault_queries.of_machine(id_)]
    why = repair.ladder(found)
    return {
        "faults": found,
        "worst": found[0]["phase"] if found else "",
        "ladders": [*ladders, why] if why and repair.stops(why) else ladders,
        "fault_types": sorted(TYPES),
    }


def _lost(obj: Json, conditions: dict[str, Json]) -> bool:
    """It is to leave and its host does not answer: only an approver's word ends that."""
    said = conditions.get("Decommissioned", {})
    reachable = conditions.get("Reachable", {}).get("status") == "True"
    return "deletionTimestamp" in obj["metadata"] and said.get("status") == "False" and not reachable


def _story(actor: Actor, name: str, tab: str, by: str) -> list[dict[str, Any]]:
    """The time line of a tab: long and with the audit trail on its own tab, short beside the others."""
    if by and by not in records.ORIGINS:
        raise Missing(f"Nobody tells by={by[:40]}. Tellers are {', '.join(records.ORIGINS)}.")
    if tab != "events":
        return records.story(actor, name, 30, audited=False)
    return records.story(actor, name, 300, audited=may_audit(actor), origin=by)


def _fragments(tab: str) -> tuple[str, ...]:
    shown: tuple[str, ...] = ("head", "acts")
    if tab == "why":
        shown += ("faults", "gates", "why", "operation", "plan", "packages")
    elif tab == "plan":
        shown += ("plan", "steps", "operation")
    else:
        shown += (tab,)
    return shown if tab == "events" else (*shown, "time")


def _seen(obj: Json, id_: int, actor: Actor) -> dict[str, Any]:
    """What Fleet saw and concluded: ladders, plan, facts, packages with where they come from, the hold that covers it."""
    answer = subresource("machines", "why")
    why = answer.get(obj, actor) if answer else {}
    plan = why.get("plan", {})
    extra = queries.machine_extra(id_)
    return {
        "ladders": why.get("ladders", []), "facts": facts(why.get("facts", {})), "seen_at": extra["at"], "plan": plan,
        "differences": [difference(d) for d in plan.get("diffs", [])], "stages": words.stages(_planned(plan)),
        "packages": [p | {"origin": _LAYERS.get(extra["of"].get(p["name"], ""), extra["of"].get(p["name"], ""))} for p in obj.get("status", {}).get("packages", [])],
        "conditions": obj.get("status", {}).get("conditions", []), "hold": extra["hold"],
    }  # fmt: skip


def _planned(plan: Json) -> list[Json]:
    """Names of planned steps (`11-install-package-containerd`) as steps."""
    verbs = (
        "install-package",
        "write-files",
        "set-units",
        "restart-units",
        "stage-package",
        "remove-package",
        "health-check",
    )
    out = []
    for name in plan.get("steps", []):
        bare = str(name).split("-", 1)[1] if "-" in str(name) else str(name)
        verb = next((v for v in verbs if bare.startswith(v)), bare)
        out.append({"name": name, "verb": verb, "subject": bare[len(verb) + 1 :], "status": "Unknown"})
    return out


def operation(obj: Json) -> Done:
    """An Operation with its steps drawn together."""
    steps = obj.get("status", {}).get("steps", [])
    for step in steps:
        step["state"] = words.step_state(step)
    return Done(obj, words.stages(steps), sum(s["state"] == "done" for s in steps), len(steps))


def difference(diff: Json) -> Difference:
    """A difference of the plan."""
    return Difference(
        diff.get("kind", ""), diff.get("name", ""), diff.get("wanted") or "none", diff.get("seen") or "none",
        diff.get("disruption", ""), tuple(lines(str(diff.get("diff", "")))),
    )  # fmt: skip


_FACTS: Final = (
    ("os", "Operating system"), ("kernel", "Kernel"), ("architecture", "Architecture"), ("bootId", "Boot"), ("uptimeSeconds", "Up"),
    ("serialNumber", "Serial number"), ("systemState", "systemd"), ("memoryBytes", "Memory"), ("diskTotalBytes", "Disk"),
    ("diskFreeGiB", "Free on disk"), ("clockOffsetSeconds", "Clock"), ("packageLockHolder", "Package lock"), ("unattendedUpgrades", "Unattended upgrades"),
)  # fmt: skip


def facts(seen: Json) -> list[tuple[str, str]]:
    """What the host said, in the words and units of people; what has no word of its own keeps its name."""
    known = [(word, _fact(key, seen[key])) for key, word in _FACTS if key in seen]
    rest = [(key, str(value)) for key, value in sorted(seen.items()) if key not in dict(_FACTS) and key != "osFamily"]
    return known + rest


def _fact(key: str, value: Any) -> str:
    if key.endswith("Bytes"):
        return f"{value / 2**30:,.0f} GiB"
    if key == "diskFreeGiB":
        return f"{value:,} GiB"
    if key == "clockOffsetSeconds":
        return "exact" if not value else f"{value:+g} s"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) or "free" if key == "packageLockHolder" else str(value)


def days(events: Sequence[dict[str, Any]]) -> list[Day]:
    """Events by day, newest first, with the silences between them."""
    out: list[tuple[str, list[dict[str, Any]]]] = []
    before: datetime | None = None
    for event in events:
        day = event["at"].strftime("%A %-d %B")
        if not out or out[-1][0] != day:
            out.append((day, []))
            before = None
        if before is not None and before - event["at"] > _SILENCE:
            out[-1][1].append({"gap": f"no events {event['at']:%H:%M}–{before:%H:%M}"})
        out[-1][1].append(event)
        before = event["at"]
    return [Day(day, tuple(entries)) for day, entries in out]


def verdict(m: dict[str, Any], current: Done | None, hold: Json | None) -> str:
    """What is so, since when, why, and what comes next."""
    phase = m["status"].get("phase", "Pending")
    stalled = m["conditions"].get("Stalled", {})
    if m["state"] == "bad":
        return f"Needs a person. {_full(m['why'])} Next: {words.next_step(stalled.get('reason', ''))}."
    if m["state"] == "held" and hold:
        until = "" if hold["until"] is None else f" until {hold['until']:%-d %b %H:%M} UTC"
        return f"Held by {hold['owner'] or 'somebody'}{until}: {_full(hold['reason'])} Fleet looks and changes nothing."
    if m["state"] == "busy" and current is not None and current.open:
        now = next((s for s in current.stages if s.state in ("now", "wait", "failed")), None)
        at = f", now at {now.name}" if now else ""
        return f"{words.verb_words(current.obj['spec'].get('verb', 'Work'))} is under way{at}: {current.done} of {current.total} steps done."
    if m["state"] == "ok" and not m["why"]:
        return "Runs as declared." if phase == "Running" else "Not looked at yet."
    if m["state"] == "off":
        return "Leaves the fleet." if phase == "Decommissioning" else "Left the fleet."
    if stalled.get("status") == "True":
        return f"{_full(m['why'])} Next: {words.next_step(stalled.get('reason', ''))}."
    if m["state"] in ("busy", "warn") and m["why"]:
        return f"{_full(m['why'])} Fleet tries again by itself."
    return _full(m["why"]) or f"{words.STATES[m['state']][0]}."


def _full(text: str) -> str:
    text = text.strip()
    return text if not text or text.endswith((".", "?", ")")) else f"{text}."


def _blockers(m: dict[str, Any], context: dict[str, Any]) -> list[str]:
    """Why a disruptive act would not start now; empty = it asks for its permit at once."""
    said = []
    if context["hold"]:
        said.append(f"{context['name']} is held: {_full(context['hold']['reason'])}")
    if m["conditions"].get("Reachable", {}).get("status") != "True":
        said.append(
            f"The host does not answer: {m['conditions'].get('Reachable', {}).get('message', 'it was not seen yet.')}"
        )
    current = context["current"]
    if current is not None and current.open:
        said.append(f"{current.obj['metadata']['name']} runs; this comes after its present step.")
    return said
