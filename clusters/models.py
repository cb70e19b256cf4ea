"""Clusters, their package versions, and data centres."""

from __future__ import annotations

from django.db import models
from django_fsm import FSMField, transition

from fleet.control.models import KubeObject

PENDING, PROVISIONING, RUNNING, UPGRADING, DEGRADED, DELETING, FAILED = (
    "Pending", "Provisioning", "Running", "Upgrading", "Degraded", "Deleting", "Failed",
)  # fmt: skip
_ALIVE = [PENDING, PROVISIONING, RUNNING, UPGRADING, DEGRADED, FAILED]


def _others(phase: str) -> list[str]:
    return [p for p in _ALIVE if p != phase]


class Cluster(KubeObject):
    """A group of machines with common defaults; with a provider also a Kubernetes control plane.

    The phase sums up the conditions for people; it is moved by `clusters.phases` along the transitions declared here.
    """

    phase = FSMField(default=PENDING, protected=True)

    def move_to(self, phase: str) -> None:
        """Along the transition that leads there; TransitionNotAllowed when there is none."""
        moves = {
            PENDING: self.emptied, PROVISIONING: self.provision, RUNNING: self.run, UPGRADING: self.upgrade, DEGRADED: self.degrade,
            FAILED: self.fail, DELETING: self.delete_it,
        }  # fmt: skip
        moves[phase]()

    @transition(field=phase, source=[PROVISIONING, RUNNING, DEGRADED, FAILED], target=PENDING)
    def emptied(self) -> None:
        """A group of plain hosts lost its last machine."""

    @transition(field=phase, source=[PENDING, RUNNING, DEGRADED, FAILED], target=PROVISIONING)
    def provision(self) -> None:
        """The control plane is made, or machines are new."""

    @transition(field=phase, source=_others(RUNNING), target=RUNNING)
    def run(self) -> None:
        """Everything wanted is there and ready."""

    @transition(field=phase, source=_others(UPGRADING), target=UPGRADING)
    def upgrade(self) -> None:
        """The control plane moves to another package version, up or back; one taken up again may have to at once."""

    @transition(field=phase, source=_others(DEGRADED), target=DEGRADED)
    def degrade(self) -> None:
        """Something that was ready is not."""

    @transition(field=phase, source=_others(FAILED), target=FAILED)
    def fail(self) -> None:
        """Stopped: needs a person or a new spec."""

    @transition(field=phase, source=_ALIVE, target=DELETING)
    def delete_it(self) -> None:
        """A confirmed deletion."""


class ClusterPackageVersion(KubeObject):
    """What a cluster consists of: Kubernetes' version, components, addons, versions for its machines. Immutable."""

    kubernetes_version = models.CharField(max_length=32)


class Idc(KubeObject):
    """A data centre: mirrors, host CAs, limits of connections and downloads. Optional: an idc is first of all a name."""
