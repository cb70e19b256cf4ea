"""`/kit`: every component in every state, with made-up content. What screenshots and accessibility checks look at."""

from __future__ import annotations

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.console.page import Page


def kit(actor: Actor, query: QueryDict) -> Page:
    return Page("console/kit.html", "Kit", {})
