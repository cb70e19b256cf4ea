"""What of the event log somebody may see."""

from __future__ import annotations

from fleet.api.rights import Actor
from fleet.api.storage import cluster_ids
from fleet.control.kinds import kinds
from fleet.events.log import Sight


def sight_of(actor: Actor) -> Sight | None:
    """Events of the actor's clusters, and of the kinds that belong to no cluster; None = everything.

    An object outside every cluster is none of a cluster's people's business, and neither are its events.
    """
    if actor.clusters is None:
        return None
    ids = tuple(cluster_ids(actor.clusters).values()) if actor.clusters else ()
    return Sight(ids, tuple(k.number for k in kinds().values() if k.cluster_field is None) if actor.bindings else ())
