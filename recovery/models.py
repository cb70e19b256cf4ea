"""Faults of machines, the rules that find them, the playbooks that repair them, and each repair."""

from __future__ import annotations

from django.db import models
from django_fsm import FSMField, transition

from fleet.control.models import KubeObject
from recovery.types import (
    CANCELLED,
    CONFIRMED,
    ESCALATED,
    LIVE,
    NEEDS_PERSON,
    OPEN,
    PROBATION,
    RECOVERING,
    REPAIRING,
    RESOLVED,
    SUCCEEDED,
    SUSPECTED,
    VERIFYING,
    WAITING,
)


class FaultRule(KubeObject):
    """What must be seen of a machine, and for how long, until it counts as a fault."""


class Playbook(KubeObject):
    """A ladder of repairs for one type of fault, the gentlest first."""


class Fault(KubeObject):
    """Something that is wrong with one machine. At most one of a type is live on a machine at a time.

    The columns beside spec and status are what detection reads and writes in batches.
    """

    machine_id = models.BigIntegerField()
    cluster_id = models.IntegerField(default=0)
    type = models.CharField(max_length=64, db_collation="C")
    category = models.CharField(max_length=16, db_collation="C")
    severity = models.SmallIntegerField(default=1)  # 0 normal, 1 warning, 2 error
    phase = FSMField(default=OPEN, protected=True, db_collation="C")
    rule = models.CharField(max_length=253, default="", db_collation="C")  # "" = a person or a tool declared it
    shadow = models.BooleanField(default=False)
    sources = models.JSONField(default=list)  # who says so: owners of conditions, senders of events
    count = models.IntegerField(default=1)  # how often it began
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    held_since = models.DateTimeField()  # the hold time counts from here
    cleared_since = models.DateTimeField(null=True)  # nothing speaks for it any more since then
    confirmed_at = models.DateTimeField(null=True)
    resolved_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(null=True)  # when time alone changes something
    evidence = models.JSONField(default=list)
    flips = models.JSONField(default=list)  # when it began, in Unix seconds, within the rule's window

    class Meta(KubeObject.Meta):
        indexes = [
            models.Index(fields=["due_at"], name="fault_due", condition=models.Q(due_at__isnull=False)),
            models.Index(fields=["machine_id", "-id"], name="fault_machine"),
            models.Index(fields=["cluster_id", "type"], name="fault_live", condition=models.Q(phase__in=LIVE)),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["machine_id", "type"], name="fault_once", condition=models.Q(phase__in=LIVE)
            )
        ]

    @transition(field=phase, source=[OPEN, CONFIRMED], target=SUSPECTED)
    def suspect(self) -> None:
        """It held for its time; a second source has not said so yet."""

    @transition(field=phase, source=[OPEN, SUSPECTED, RECOVERING, NEEDS_PERSON], target=CONFIRMED)
    def confirm(self) -> None:
        """It is believed, and a repair may begin."""

    @transition(field=phase, source=[SUSPECTED, CONFIRMED], target=OPEN)
    def doubt(self) -> None:
        """The view was broken, or it came back after a while: its time counts anew."""

    @transition(field=phase, source=[CONFIRMED, NEEDS_PERSON], target=RECOVERING)
    def recover(self) -> None:
        """A remediation works on it."""

    @transition(field=phase, source=[SUSPECTED, CONFIRMED, RECOVERING], target=NEEDS_PERSON)
    def give_up(self) -> None:
        """Fleet does nothing more by itself."""

    @transition(field=phase, source=[OPEN, SUSPECTED, CONFIRMED, RECOVERING, NEEDS_PERSON], target=RESOLVED)
    def resolve(self) -> None:
        """Nothing speaks for it any more."""


class Remediation(KubeObject):
    """One repair of one machine: rungs of a playbook, each an Operation of the Machine-Operator."""

    fault_id = models.BigIntegerField()
    machine_id = models.BigIntegerField()
    cluster_id = models.IntegerField(default=0)
    serial_number = models.CharField(max_length=128, default="")
    phase = FSMField(default=WAITING, protected=True, db_collation="C")
    playbook = models.CharField(max_length=253, db_collation="C")
    rung = models.SmallIntegerField(default=0)
    operation_uid = models.UUIDField(null=True)
    phase_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta(KubeObject.Meta):
        indexes = [
            models.Index(fields=["machine_id", "-id"], name="remediation_machine"),
            models.Index(fields=["playbook", "-id"], name="remediation_playbook"),
            models.Index(fields=["fault_id"], name="remediation_fault"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["machine_id"], name="remediation_once", condition=models.Q(ended_at__isnull=True)
            )
        ]

    @transition(field=phase, source=[WAITING, VERIFYING, PROBATION], target=REPAIRING)
    def repair(self) -> None:
        """The Operation of a rung is open."""

    @transition(field=phase, source=[REPAIRING], target=VERIFYING)
    def verify(self) -> None:
        """The rung is done; whether it helped is not seen yet."""

    @transition(field=phase, source=[WAITING, REPAIRING, VERIFYING], target=PROBATION)
    def watch(self) -> None:
        """The fault is not seen any more and must stay away for a while."""

    @transition(field=phase, source=[REPAIRING, VERIFYING, PROBATION], target=WAITING)
    def wait(self) -> None:
        """It did not help: the next rung waits for its permit."""

    @transition(field=phase, source=[PROBATION], target=SUCCEEDED)
    def succeed(self) -> None:
        """The fault stayed away."""

    @transition(field=phase, source=[WAITING, REPAIRING, VERIFYING, PROBATION], target=ESCALATED)
    def escalate(self) -> None:
        """The ladder is at its end: a person is asked."""

    @transition(field=phase, source=[WAITING, REPAIRING, VERIFYING, PROBATION], target=CANCELLED)
    def cancel(self) -> None:
        """A person's word won, or there is nothing to repair any more."""
