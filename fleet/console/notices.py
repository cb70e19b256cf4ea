"""Notices as the page of safety shows them: what lasts now, who took it, and whether the reader may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.api.rights import Actor
from fleet.api.safety_door import may_acknowledge
from fleet.safety.notices import Notice, read_notices

SHOWN = 50  # the gravest; there are as many as there are clusters at the most


@dataclass(frozen=True, slots=True)
class Told:
    """One notice for one reader."""

    notice: Notice
    may_take: bool

    @property
    def tone(self) -> str:
        return "bad" if self.notice.severity > 1 else "warn"


def told(actor: Actor) -> Sequence[Told]:
    """Those of the clusters that the reader sees, and of the fleet for who sees all of it; what nobody took comes first."""
    seen = actor.clusters
    found = [Told(n, may_acknowledge(n, actor)) for n in read_notices() if seen is None or n.cluster in seen]
    return sorted(found, key=lambda t: bool(t.notice.acked_by))[:SHOWN]
