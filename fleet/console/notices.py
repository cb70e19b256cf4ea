"""Notices as the page of safety shows them: what lasts now, who took it, and whether the reader may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

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
    def id(self) -> int:
        return self.notice.id

    @property
    def tone(self) -> str:
        return "bad" if self.notice.severity > 1 else "warn"

    @property
    def subject(self) -> str:
        return self.notice.subject

    @property
    def message(self) -> str:
        return self.notice.message

    @property
    def cluster(self) -> str:
        return self.notice.cluster

    @property
    def since(self) -> datetime:
        return self.notice.since

    @property
    def taken_by(self) -> str:
        return self.notice.acked_by

    @property
    def taken_at(self) -> datetime | None:
        return self.notice.acked_at


def told(actor: Actor) -> Sequence[Told]:
    """Those of the clusters that the reader sees, and of the fleet for who sees all of it; what nobody took comes first."""
    seen = actor.clusters
    found = [Told(n, may_acknowledge(n, actor)) for n in read_notices() if seen is None or n.cluster in seen]
    return sorted(found, key=lambda t: bool(t.taken_by))[:SHOWN]
