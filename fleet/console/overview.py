"""The overview: who needs me, what runs, what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.console import batch_pages, fault_queries, queries, records, repair, words
from fleet.console.page import Fragment, Page
from fleet.console.words import Word
from fleet.control.kinds import CLUSTER, FAULT, HOLD, MACHINE, OPERATION, OPERATION_BATCH, REMEDIATION
from machines.batches.schema import AWAITING

_LOOKED_AT = 100  # machines in need that are read to group them by cause; the counters know how many there are


@dataclass(frozen=True, slots=True)
class Need:
    """One cause that needs a person, with the machines that have it."""

    title: str
    href: str
    said: str
    next: str
    since: str
    where: str
    n: int
    tone: str = "bad"
    one: str = "machine"  # or layer, or cluster


@dataclass(frozen=True, slots=True)
class Doing:
    """What is under way, in numbers: machines in work, layers that roll out, changes that wait for a permit."""

    working: int = 0
    rolling: int = 0
    waiting: int = 0

    @property
    def parts(self) -> list[list[Word]]:
        """What Fleet does, as parts of a sentence."""
        found: list[list[Word]] = []
        if self.working:
            found.append([Word("works on "), Word(words.count(self.working, "machine"), "/machines?q=state:busy")])
        if self.rolling:
            found.append([Word("rolls out "), Word(words.count(self.rolling, "layer"), "/clusters")])
        return found


def overview(actor: Actor, query: QueryDict) -> Page:
    """Who needs me, what runs, what is refused."""
    phases: Counter[str] = Counter()
    for each in queries.phase_counts(actor).values():
        phases += each
    refused = queries.refusals(actor)
    layers = queries.layers(actor)
    machines, needy, drifted = queries.in_need(actor, _LOOKED_AT)
    faults = fault_queries.needing(actor)
    now = fault_queries.now(actor)
    needs = [
        *stuck(now.stuck),
        *of_batches(batch_pages.waiting(actor)),
        *needs_of(machines, layers, needy),
        *of_faults(faults),
    ]
    work = queries.work_in_hand(actor)
    rolling = [r for r in layers if r["state"] != "Stopped"]
    doing = Doing(sum(w["n"] for w in work), len(rolling), sum(r.n for r in refused))
    context = {
        "sentence": sentence(phases, needy, needs, now, doing),
        "total": phases.total(),
        "parts": words.legend(phases),
        "needs": needs,
        "untaken": now.untaken,
        "refused": refused,
        "waiting": sum(r.n for r in refused),
        "work": work[:6],
        "operations": queries.newest_operations(work),
        "layers": rolling,
        "repairs": [(*repair.REMEDIATION_WORDS[p], n, p) for p, n in now.repairs.items()],
        "drifted": drifted,
        "events": records.notable(actor, 12),
    }
    fragments = tuple(
        Fragment(f"o-{n}", f"console/_overview_{n}.html")
        for n in ("sentence", "bar", "needs", "refused", "doing", "events")
    )
    kinds = frozenset({MACHINE, OPERATION, OPERATION_BATCH, CLUSTER, HOLD, FAULT, REMEDIATION})
    return Page("console/overview.html", "Overview", context, fragments, kinds, "overview")


def stuck(clusters: Iterable[dict[str, Any]]) -> list[Need]:
    """One need a cluster whose control plane is stalled."""
    return [
        Need(f"Cluster {c['name']}", f"/clusters/{quote(c['name'])}", words.closed(c["message"] or c["reason"]), words.cluster_step(c["reason"]), c["since"] or "", "", 1, one="cluster")
        for c in clusters
    ]  # fmt: skip


def of_batches(found: Iterable[dict[str, Any]]) -> list[Need]:
    """One need a batch that waits for a second person, or that stopped."""
    out = []
    for each in found:
        asked = each["phase"] == AWAITING
        title = f"{each['verb']} of {words.count(each['count'], 'machine')}"
        said = f"{each['author']} asks: {words.closed(each['reason'])}" if asked else each["message"]
        step = (
            "look at the list, then approve it or let it lapse"
            if asked
            else "find out what those that failed share, then let it go on or cancel it"
        )
        out.append(Need(title, f"/batches/{quote(each['name'], safe='')}", said, step, each["created_at"], each["cluster"], 1, "held" if asked else "bad", one="batch"))  # fmt: skip
    return out


def of_faults(faults: Iterable[fault_queries.FaultRow]) -> list[Need]:
    """Faults that Fleet has given to people: one need a type and cluster, the widest first."""
    groups: dict[tuple[str, str], list[fault_queries.FaultRow]] = {}
    for each in faults:
        groups.setdefault((each.type, each.cluster), []).append(each)
    out = []
    for (type_, cluster), found in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0])):
        first, n = found[0], len(found)
        title = f"{first.machine}: {type_}" if n == 1 else f"{words.count(n, 'machine')}: {type_}"
        q = quote(f"type:{type_} phase:NeedsPerson" + (f" cluster:{cluster}" if cluster else ""))
        href = f"/faults/{quote(first.name, safe='')}" if n == 1 else f"/faults?q={q}"
        said = words.closed(first.said) if n == 1 else f"{first.machine}: {words.closed(first.said)}"
        since = min(f.first_seen for f in found).isoformat()
        out.append(
            Need(
                title,
                href,
                said,
                "read what was tried, repair it, then say that it is over",
                since,
                cluster,
                n,
                one="fault",
            )
        )
    return out


def needs_of(needy: Iterable[dict[str, Any]], layers: Iterable[dict[str, Any]], total: int) -> list[Need]:
    """Causes, the widest first: stopped layers, then failed machines that share reason and cluster."""
    out = [
        Need(f"Layer {r['name']} has stopped", f"/clusters/{quote(r['name'])}" if r["layer"] == "cluster" else "/packages",
             words.plainly(r["message"]) or f"{r['failed_machine']} failed.", "look at the machine that failed, then correct the layer", r["updated_at"], "", 1, one="layer")
        for r in layers
        if r["state"] == "Stopped"
    ]  # fmt: skip
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for m in needy:
        stalled = m["conditions"].get("Stalled", {})
        groups.setdefault((stalled.get("reason", ""), m["spec"].get("clusterName", "")), []).append(m)
    for (reason, cluster), machines in sorted(groups.items(), key=lambda g: -len(g[1])):
        first = machines[0]
        since = min((m["conditions"].get("Stalled", {}).get("lastTransitionTime", "") for m in machines), default="")
        if len(machines) == 1:
            title, href = first["name"], f"/machines/{quote(first['name'])}/why"
        else:
            title = f"{words.count(len(machines), 'machine')}: {reason or 'failed'}"
            href = f"/machines?q=phase:{quote(first['status'].get('phase', 'Failed'))}{'+cluster:' + quote(cluster) if cluster else ''}"
        said = first["why"] or "It failed."
        if len(machines) > 1:
            said = f"{first['name']}: {said}"
        out.append(Need(title, href, said, words.next_step(reason), since, cluster, len(machines)))
    seen = sum(n.n for n in out if n.one == "machine")
    if total > max(seen, _LOOKED_AT):
        rest = total - seen
        out.append(
            Need(f"{words.count(rest, 'more machine')}", "/machines?q=state:bad", "Not grouped by cause here.", "look through the list", "", "", rest)
        )  # fmt: skip
    return out


def sentence(
    phases: Counter[str], needy: int, needs: list[Need], now: queries.Guard | fault_queries.Now, doing: Doing
) -> list[Word]:
    """What is wrong, what Fleet does about it, what it refuses."""
    if now.stopped:
        return [
            Word("All changes are stopped", "/safety", "bad"),
            Word(f" by {now.by}: {now.why.rstrip('.')}. Fleet only looks."),
        ]
    total = phases.total()
    if not total:
        return [Word("No machine is declared yet.")]
    said = _needs(needy, needs)
    for number, part in enumerate(doing.parts):
        said += [Word("; Fleet " if number == 0 else " and "), *part]
    if doing.waiting:
        waits = "waits" if doing.waiting == 1 else "wait"
        said += [
            Word("; "),
            Word(words.count(doing.waiting, "change"), "/safety", "held"),
            Word(f" {waits} for a permit"),
        ]
    well = "All" if phases["Running"] == total else f"{phases['Running']:,} of {total:,}"
    return [*said, Word(f". {well} run as declared.")]


def _needs(needy: int, needs: list[Need]) -> list[Word]:
    parts: list[list[Word]] = []
    for one, does, do in (
        ("cluster", "needs you", "need you"),
        ("layer", "has stopped", "have stopped"),
        ("fault", "needs you", "need you"),
        ("batch", "waits for you", "wait for you"),
    ):
        found = [n for n in needs if n.one == one]
        if found:
            many = sum(n.n for n in found)
            verb = does if many == 1 else do
            plural = "batches" if one == "batch" else ""
            parts.append(
                [
                    Word(words.count(many, one, plural), found[0].href, "held" if one == "batch" else "bad"),
                    Word(f" {verb}"),
                ]
            )
    if needy:
        causes = sum(n.one == "machine" for n in needs)
        cause = f", {words.count(causes, 'cause')}" if 1 < causes < needy else ""
        verb = "needs" if needy == 1 else "need"
        parts.append([Word(words.count(needy, "machine"), "#o-needs", "bad"), Word(f" {verb} you{cause}")])
    said: list[Word] = []
    for number, part in enumerate(parts):
        if number:
            said.append(Word(" and " if number == len(parts) - 1 else ", "))
        said += part
    return said or [Word("Nothing needs you")]
