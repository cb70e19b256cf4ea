"""Safety: breakers, budgets and what is refused now; holds, permits, policies and refusals on tabs of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from django.conf import settings
from django.http import QueryDict
from django.utils import timezone

from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.console import queries, windows, words
from fleet.console.breakers import Dial, breakers
from fleet.console.notices import told
from fleet.console.page import Fragment, Missing, Page
from fleet.console.policies import form_context, may_write, views
from fleet.console.words import Word
from fleet.control.kinds import HOLD, MACHINE, PERMIT, SAFETY_POLICY, Json
from fleet.control.times import parse_time

TABS: Final = (("now", "Now"), ("policies", "Policies"), ("holds", "Holds"), ("windows", "Windows"), ("permits", "Permits"), ("refusals", "Refusals"))  # fmt: skip
_FRAGMENTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "now": (("o-sentence", "_overview_sentence"), ("s-notices", "_notices"), ("s-breakers", "_breakers"), ("o-refused", "_overview_refused"), ("c-budgets", "_budgets"), ("s-holds", "_holds")),
    "policies": (("s-policies", "_policies"),),
    "holds": (("s-holds", "_holds"),),
    "windows": (("s-windows", "_windows"),),
    "permits": (("s-permit-counts", "_permit_counts"), ("s-permits", "_permits")),
    "refusals": (("s-refusals", "_refusals"),),
}  # fmt: skip
PAGE: Final = 100
_COUNTING: Final = 12  # closed breakers that are shown as bars
_REFUSED: Final = """
SELECT r.machine_id, coalesce(m.name, '') AS machine, coalesce(c.name, '') AS cluster, r.verb, r.owner, r.reason, r.message, r.since, coalesce(o.name, '') AS operation
FROM refusal r LEFT JOIN machine m ON m.id = r.machine_id LEFT JOIN clusters_cluster c ON c.id = r.cluster_id
LEFT JOIN machines_operation o ON o.machine_id = r.machine_id AND o.uid::text = r.owner
WHERE {scope} AND (%s = '' OR r.reason = %s) AND (r.since, r.machine_id) < (%s, %s) ORDER BY r.since DESC, r.machine_id DESC LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Refused:
    """One change that is refused now."""

    machine: str
    cluster: str
    verb: str
    operation: str
    reason: str
    message: str
    since: datetime

    @property
    def word(self) -> str:
        return words.REFUSED.get(self.reason, self.reason)

    @property
    def frees(self) -> str:
        return words.frees(self.reason)


@dataclass(frozen=True, slots=True)
class Switch:
    """The kill switch. `covers`: machines that the reader sees, by the kept counters."""

    stopped: bool
    why: str
    by: str
    covers: int


def kill_switch(actor: Actor) -> Switch:
    """How it stands and what it would stop."""
    where, parameters = queries.scoped(actor, "cluster_id")
    row = queries.rows(
        f"""SELECT stopped, coalesce(stopped_why, '') AS why, coalesce(stopped_by, '') AS by,
          (SELECT coalesce(sum(n), 0)::bigint FROM (SELECT * FROM count_total UNION ALL SELECT * FROM count_delta) t WHERE {where}) AS covers FROM ledger WHERE id = 1""",
        parameters,
    )[0]
    return Switch(**row)


def safety(actor: Actor, query: QueryDict, tab: str = "now") -> Page:
    """What may start now, and who says wait."""
    if tab not in _FRAGMENTS:
        raise Missing(f"Safety has no tab {tab}. Tabs are {', '.join(_FRAGMENTS)}.")
    holds = queries.holds(actor) if tab in ("now", "holds") else []
    switch = kill_switch(actor)  # every tab asks for the count of what it covers to be typed
    context: dict[str, Any] = {"tab": tab, "tabs": TABS, "switch": switch, "covers": switch.covers, "may_hold": _may_hold(actor), "may_reset": _may_reset(actor)}  # fmt: skip
    if tab == "now":
        context |= _now(actor, holds, switch)
    elif tab == "permits":
        context |= {"permits": queries.open_permits(actor), "counts": _permit_counts(actor)}
    elif tab == "windows":
        context["windows"] = windows.told()
    elif tab == "refusals":
        context |= _refusals(actor, query)
    elif tab == "policies":
        found = storage_for("safetypolicies").page(ListQuery(limit=500)).objects
        context |= {"policies": found, "views": views(found), "may_write": may_write(actor), **form_context()}
    if tab in ("now", "holds"):
        context["holds"] = [_hold(h) for h in holds]
    fragments = tuple(
        Fragment(id_, f"console/{template}.html") for id_, template in (("s-tabs", "_safety_tabs"), *_FRAGMENTS[tab])
    )
    kinds = frozenset({MACHINE, HOLD, PERMIT, SAFETY_POLICY})
    return Page("console/safety.html", "Safety", context, fragments, kinds, "safety")


def _may_hold(actor: Actor) -> bool:
    return actor.may_somewhere("create", storage_for("holds").kind)


def _may_reset(actor: Actor) -> bool:
    return any(role in ("approver", "admin") for role, _ in actor.bindings)


def _now(actor: Actor, holds: Sequence[Json], switch: Switch) -> dict[str, Any]:
    found, notices = breakers(actor), told(actor)
    refused = queries.refusals(actor, 20)
    waiting = sum(r.n for r in refused)
    tally = {state: sum(b.state == state for b in found) for state in ("open", "half-open", "off", "closed")}
    return {
        "notices": notices,
        "untaken": sum(not n.notice.acked_by for n in notices),
        "may_take": any(n.may_take for n in notices),
        "two_people": settings.FLEET_REQUIRE_APPROVAL,
        "breakers": [b for b in found if b.drawn],
        "counting": [b for b in found if not b.drawn and b.breaker.count][:_COUNTING],
        "quiet": sum(not b.drawn and not b.breaker.count for b in found),
        "tally": ", ".join(f"{n:,} {state}" for state, n in tally.items() if n),
        "budgets": queries.budgets(queries.scope_ids(actor)),
        "refused": refused,
        "waiting": waiting,
        "sentence": sentence(switch, found, holds, waiting),
    }


def sentence(switch: Switch, found: Sequence[Dial], holds: Sequence[Json], waiting: int) -> list[Word]:
    """What keeps changes from starting, the hardest first."""
    if switch.stopped:
        why = switch.why.rstrip(".")
        return [Word("All changes are stopped", tone="bad"), Word(f" by {switch.by}: {why}. Fleet only looks.")]
    said: list[Word] = []
    troubled = [b for b in found if b.trouble]
    if troubled:
        first, rest = troubled[0], len(troubled) - 1
        since = f" since {first.since:%H:%M} UTC" if first.since else ""
        said += [Word(f"The breaker of {first.place.lower() if first.dim != 'fleet' else 'the whole fleet'}", "#s-breakers", "bad"), Word(f" is {first.state}{since}")]  # fmt: skip
        said += [Word(f", {words.count(rest, 'more')}".replace("mores", "more"))] if rest else []
    over = sum(bool(h.get("status", {}).get("overdue")) for h in holds)
    if len(holds) > over:
        n = len(holds) - over
        said += [Word("; " if said else ""), Word(words.count(n, "hold"), "/safety/holds", "held"), Word(f" {'keeps' if n == 1 else 'keep'} Fleet's hands off")]  # fmt: skip
    if over:
        said += [Word("; " if said else ""), Word(words.count(over, "hold"), "/safety/holds", "warn"), Word(f" {'is' if over == 1 else 'are'} overdue")]  # fmt: skip
    if waiting:
        said += [Word("; " if said else ""), Word(words.count(waiting, "change"), "/safety/refusals", "held"), Word(f" {'waits' if waiting == 1 else 'wait'}")]  # fmt: skip
    return [*said, Word(".")] if said else [Word("Nothing is refused and nobody holds anything: changes start within their budgets.")]  # fmt: skip


def _hold(obj: Json) -> Json:
    """A hold with how long it is over, and what an extension would begin with."""
    until = parse_time(obj["spec"]["until"])
    over = until is not None and until <= timezone.now()
    return {**obj, "over": over, "until": until}


def _permit_counts(actor: Actor) -> list[dict[str, Any]]:
    where, params = queries.scoped(actor, "cluster_id")
    return queries.rows(
        f"SELECT verb, unplanned, count(*) AS n, count(*) FILTER (WHERE draws) AS taking, min(granted_at) AS since FROM permit WHERE released_at IS NULL AND {where} GROUP BY 1, 2 ORDER BY n DESC, verb",
        params,
    )


def _refusals(actor: Actor, query: QueryDict) -> dict[str, Any]:
    """Machine by machine, the newest first."""
    reason = query.get("reason", "")
    if reason and reason not in words.REFUSED:
        raise Missing(f"Nothing is refused for “{reason[:40]}”. Reasons are {', '.join(words.REFUSED)}.")
    since, _, number = query.get("after", "").rpartition("~")
    at = parse_time(since) if since else None
    last = int(number) if number.isdecimal() and len(number) < 19 else 0
    scope, params = queries.scoped(actor, "r.cluster_id")
    place = [at, last] if at is not None and at.tzinfo else ["infinity", 0]
    found = queries.rows(_REFUSED.format(scope=scope), [*params, reason, reason, *place, PAGE + 1])
    shown = [Refused(**{k: v for k, v in r.items() if k not in ("machine_id", "owner")}) for r in found[:PAGE]]
    more = ""
    if len(found) > PAGE:
        end = found[PAGE - 1]
        more = urlencode({"reason": reason, "after": f"{end['since'].isoformat()}~{end['machine_id']}"})
    groups = queries.refusals(actor, 100)
    tally: dict[str, int] = {}
    for group in groups:
        tally[group.reason] = tally.get(group.reason, 0) + group.n
    chips = [(r, words.REFUSED.get(r, r), n) for r, n in sorted(tally.items(), key=lambda t: -t[1])]
    return {
        "rows": shown,
        "more": more,
        "after": bool(since),
        "reason": reason,
        "chips": chips,
        "waiting": sum(tally.values()),
    }
