"""A SafetyPolicy as people read it: what it says, what that is in machines now, and the form that changes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.api.storage import storage_for
from fleet.console import windows, words
from fleet.console.page import Fragment, Missing, Page
from fleet.console.queries import Budget
from fleet.console.words import Word
from fleet.control.kinds import SAFETY_POLICY, Json
from fleet.safety.pods import AT_LEAST, PERCENT, WINDOW_SECONDS
from fleet.safety.schema import describe_target

PLURAL: Final = "safetypolicies"
DIMS: Final = {"cluster": "cluster", "idc": "idc", "rack": "rack", "hardwareModel": "model", "matchAll": "fleet"}
DOMAINS: Final = (("", "one rack, as by default"), ("rack", "one rack"), ("idc", "one idc"), ("none", "everywhere"))


@dataclass(frozen=True, slots=True)
class PolicyView:
    """One policy."""

    obj: Json

    @property
    def name(self) -> str:
        return str(self.obj["metadata"]["name"])

    @property
    def href(self) -> str:
        return f"/safety/policies/{quote(self.name, safe='')}"

    @property
    def spec(self) -> Json:
        spec: Json = self.obj["spec"]
        return spec

    @property
    def status(self) -> Json:
        status: Json = self.obj.get("status", {})
        return status

    @property
    def total(self) -> int:
        return int(self.status.get("total") or 0)

    @property
    def gone(self) -> int:
        return int(self.status.get("unavailable") or 0)

    @property
    def limit(self) -> int | None:
        """In machines, None = it says nothing of that."""
        found = self.status.get("limit")
        return None if found is None else int(found)

    @property
    def dim(self) -> str:
        return next((word for key, word in DIMS.items() if key in self.spec["scope"]), "")

    @property
    def where(self) -> str:
        """ "cluster fra2-data"; "the fleet"."""
        return "the fleet" if self.dim == "fleet" else describe_target(self.spec["scope"]).replace("/", " ", 1)

    @property
    def budget(self) -> Budget | None:
        """For the bar."""
        if self.limit is None:
            return None
        return Budget(self.dim, self.where, self.limit, self.total, self.gone, self.name)

    @property
    def said(self) -> list[tuple[str, list[str]]]:
        """(what, its words), of what it says."""
        spec = self.spec
        found = [
            ("May be unavailable", [limit_words(spec["maxUnavailable"])] if "maxUnavailable" in spec else []),
            ("Breaker", breaker_words(spec["breaker"]) if "breaker" in spec else []),
            ("Begun at most", [f"{r['verb']}: {r['count']:,} within {words.span(r['windowSeconds'])}" for r in spec.get("rates", [])]),
            ("Planned changes go on in", [dict(DOMAINS)[spec["domain"]]] if "domain" in spec else []),
            ("Always left", [words.count(spec["minSchedulable"], "machine")] if "minSchedulable" in spec else []),
            ("Planned changes begin", [windows.window_words(w) for w in spec.get("windows", [])]),
        ]  # fmt: skip
        return [(what, lines) for what, lines in found if lines]

    @property
    def scope_key(self) -> str:
        """By what its scope is said."""
        return next((key for key in DIMS if key in self.spec["scope"]), "")

    @property
    def windows(self) -> list[windows.Row]:
        """As the form asks them."""
        return windows.rows(self.spec.get("windows", []))

    @property
    def rates(self) -> str:
        """As the form writes them."""
        return "\n".join(f"{r['verb']} = {r['count']} in {r['windowSeconds']}" for r in self.spec.get("rates", []))


def limit_words(limits: Json) -> str:
    """ "3 %, at most 600 machines"."""
    parts = [f"{limits['percent']:g} %"] if "percent" in limits else []
    if "count" in limits:
        parts.append(
            f"at most {words.count(int(limits['count']), 'machine')}"
            if parts
            else words.count(int(limits["count"]), "machine")
        )
    return ", ".join(parts)


def breaker_words(breaker: Json) -> list[str]:
    """When it opens."""
    if breaker.get("disabled"):
        return ["switched off"]
    limit = limit_words({k: v for k, v in breaker.items() if k in ("percent", "count")})
    said = [f"opens at {limit}"] if limit else []
    said += [f"counts for {words.span(breaker['windowSeconds'])}"] if "windowSeconds" in breaker else []
    pods = breaker.get("podSuccess")
    if pods:
        said.append("pods open none" if pods.get("disabled") else f"when under {pods.get('percent', PERCENT):g} % of pods start, of at least {int(pods.get('atLeast', AT_LEAST)):,} tried within {words.span(pods.get('windowSeconds', WINDOW_SECONDS))}")  # fmt: skip
    return said


def policy(actor: Actor, query: QueryDict, name: str) -> Page:
    """The page of one policy."""
    stored = storage_for(PLURAL).read(name)
    if stored is None:
        raise Missing(f"There is no policy {name}.")
    view = PolicyView(stored.obj)
    context: dict[str, Any] = {
        "p": view, "obj": stored.obj, "name": name, "sentence": sentence(view), "may_write": may_write(actor), "opening": windows.opening_of(name, view.spec), **form_context(),
        "budgets": [view.budget] if view.budget else [], "conditions": view.status.get("conditions", []),
    }  # fmt: skip
    fragments = tuple(
        Fragment(id_, f"console/{t}.html") for id_, t in (("p-head", "_policy_head"), ("p-says", "_policy_says"))
    )
    crumbs = (("Safety", "/safety"), ("Policies", "/safety/policies"))
    return Page("console/policy.html", name, context, fragments, frozenset({SAFETY_POLICY}), "safety", crumbs)


def form_context() -> dict[str, Any]:
    """What the form of a policy chooses from."""
    return {"domains": DOMAINS, "blank": windows.BLANK, "zones": windows.zones(), "most": windows.MOST}


def may_write(actor: Actor) -> bool:
    """Policies bind every cluster's people: a fleet-wide admin writes them."""
    return actor.may("update", storage_for(PLURAL).kind, None)


def sentence(view: PolicyView) -> list[Word]:
    """What it allows now, and what is used of it."""
    if not view.total:
        return [Word(f"No machine in service belongs to {view.where} now: it guards nothing.")]
    of = f"of {words.count(view.total, 'machine')} of {view.where}"
    if view.limit is None:
        said = [Word(f"{view.gone:,} {of} {'is' if view.gone == 1 else 'are'} unavailable; how many may be, others say.")]  # fmt: skip
    else:
        full = view.gone >= view.limit
        said = [Word(f"{view.gone:,} {of} {'is' if view.gone == 1 else 'are'} unavailable, and "), Word(f"at most {view.limit:,} may be", tone="warn" if full else ""), Word(".")]  # fmt: skip
    state = view.status.get("breaker", {}).get("state", "closed")
    if state in ("open", "half-open"):
        said += [Word(" Its breaker is "), Word(state, "/safety#s-breakers", "bad" if state == "open" else "warn"), Word(".")]  # fmt: skip
    elif state == "off":
        said.append(Word(" Its breaker is switched off."))
    return said


def views(objects: Sequence[Json]) -> list[PolicyView]:
    """As the list shows them."""
    return [PolicyView(o) for o in objects]
