"""A page = a template, its context, and the fragments of it that live updates may replace. One builder serves both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError
from fleet.api.rights import Actor
from fleet.console import queries


@dataclass(frozen=True, slots=True)
class Fragment:
    """An element of the page: its id, its template and what the template is given besides the page's context.

    A fragment depends on rights, never on who looks, and holds no form and no input: it is rendered once for all who may
    see the same, and nothing that somebody types is overwritten.
    """

    id: str
    template: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """`kinds`: numbers of the kinds whose changes matter."""

    template: str
    title: str
    context: dict[str, Any]
    fragments: tuple[Fragment, ...] = ()
    kinds: frozenset[int] = frozenset()
    section: str = ""
    crumbs: tuple[tuple[str, str], ...] = ()
    status: int = 200

    def render_fragments(self, shared: Mapping[str, Any]) -> dict[str, str]:
        """HTML by element id."""
        return {
            f.id: render_to_string(f.template, {**shared, **self.context, **f.extra}).strip() for f in self.fragments
        }


class NotAllowed(Exception):
    """The reader's role does not reach this; the message says which would."""


class Missing(Exception):
    """There is no such object; the message says so."""


Builder = Callable[..., Page]


def shared_context(actor: Actor) -> dict[str, Any]:
    """What every page and every fragment may use; it follows from the actor's rights alone."""
    roles = sorted({role for role, _ in actor.bindings})
    return {
        "roles": ", ".join(roles) or "no role",
        "can_write": bool(set(roles) & {"operator", "admin"}),
        "can_audit": may_audit(actor),
        "is_admin": ("admin", "") in actor.bindings,
    }


def may_audit(actor: Actor) -> bool:
    """Whether the audit trail is open to somebody."""
    return bool({("admin", ""), ("approver", "")} & set(actor.bindings))


def page_view(builder: Builder) -> Callable[..., HttpResponse]:
    """A Django view of a page: log in, build, render; refusals become pages of their own."""

    @login_required
    def view(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
        guard = queries.guard(actor)  # before the page: its position must not be newer than what the page shows
        try:
            if not actor.bindings:
                raise NotAllowed(
                    f"{actor.name} has no role yet. An admin grants one in the admin pages, under role bindings."
                )
            page = builder(actor, request.GET, **kwargs)
        except NotAllowed as refusal:
            page = Page("console/refused.html", "Not allowed", {"sentence": str(refusal)}, status=403)
        except Missing as missing:
            page = Page("console/refused.html", "Not found", {"sentence": str(missing)}, status=404)
        except ApiError as error:
            page = Page("console/refused.html", "Not done", {"sentence": error.message}, status=error.code)
        return respond(request, actor, page, guard)

    return view


def respond(request: HttpRequest, actor: Actor, page: Page, guard: queries.Guard | None = None) -> HttpResponse:
    """Render a whole page."""
    theme = request.COOKIES.get("theme", "")
    context = {
        **shared_context(actor),
        "actor": actor,
        "page": page,
        "guard": guard or queries.guard(actor),
        "theme": theme if theme in ("light", "dark") else "",
        "toast": request.GET.get("did", "")[:200],
        "undo": request.GET.get("undo", "")[:20],
        **page.context,
    }
    return render(request, page.template, context, status=page.status)
