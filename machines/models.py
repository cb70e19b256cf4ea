"""Machines: what people want (cold), what was seen (hot, typed) and the packages, configurations and operations around them.

The hot tables are SQL (migration 0001); models with `managed = False` are for reading them.
"""

from __future__ import annotations

from django.db import models
from django_fsm import FSMField, transition

from fleet.control.models import KubeObject


class MachineClass(KubeObject):
    """Versions, variables and gates that a pool of machines has in common."""


class ReadinessRule(KubeObject):
    """A readiness gate for many machines."""


class MachinePackageVersion(KubeObject):
    """One version of one package: artifacts, units, configuration, health check. Immutable."""

    package_name = models.CharField(max_length=128)
    version = models.CharField(max_length=128)

    class Meta(KubeObject.Meta):
        constraints = [models.UniqueConstraint(fields=["package_name", "version"], name="package_version_once")]


class MachineConfigVersion(KubeObject):
    """One version of a configuration: files, sysctls, modules, boot parameters. Immutable."""

    config_name = models.CharField(max_length=128)
    version = models.CharField(max_length=128)

    class Meta(KubeObject.Meta):
        constraints = [models.UniqueConstraint(fields=["config_name", "version"], name="config_version_once")]


class OwnerClass(models.IntegerChoices):
    """Who wants an Operation; the higher wins between steps."""

    DRIFT = 0
    ROLLOUT = 1
    REMEDIATION = 2
    PERSON = 3


class Operation(KubeObject):
    """The intent: what is done to one machine, for whom, in which steps. One started and open per machine."""

    machine_id = models.BigIntegerField()
    machine_uid = models.UUIDField()
    cluster_id = models.IntegerField(default=0)
    owner_class = models.SmallIntegerField(choices=OwnerClass.choices)
    phase = models.CharField(
        max_length=16, default="Pending", db_collation="C"
    )  # Pending Running Succeeded Failed Cancelled
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    permit_id = models.BigIntegerField(null=True)
    epoch = models.IntegerField(default=0)

    class Meta(KubeObject.Meta):
        indexes = [
            models.Index(fields=["machine_id", "-id"], name="operation_machine"),
            models.Index(fields=["machine_id"], condition=models.Q(ended_at__isnull=True), name="operation_open"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["machine_id"],
                condition=models.Q(started_at__isnull=False, ended_at__isnull=True),
                name="operation_started_once",
            ),
            models.UniqueConstraint(
                fields=["machine_id", "owner_class"],
                condition=models.Q(started_at__isnull=True, ended_at__isnull=True),
                name="operation_pending_once",
            ),
        ]


class OperationBatch(KubeObject):
    """One verb on many machines. Its frozen list is the table `operation_batch_target`."""

    cluster_id = models.IntegerField(default=0)


class Machine(models.Model):
    """What people wrote about a machine (cold). Joined with MachineState by id."""

    id = models.BigIntegerField(primary_key=True)
    uid = models.UUIDField()
    name = models.TextField()
    cluster_id = models.IntegerField()
    labels = models.JSONField()
    annotations = models.JSONField()
    finalizers = models.JSONField()
    spec = models.JSONField()
    created_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "machine"

    def __str__(self) -> str:
        return f"Machine {self.pk}"


class MachineState(models.Model):
    """What was seen of a machine (hot). Conditions are packed, see `machines.packing`."""

    id = models.BigIntegerField(primary_key=True)
    rv = models.BigIntegerField()
    cluster_id = models.IntegerField()
    name = models.TextField()
    phase = FSMField(default="Pending", protected=True)
    phase_at = models.DateTimeField()
    generation = models.IntegerField()
    observed_generation = models.IntegerField()
    desired_hash = models.BigIntegerField()
    observed_hash = models.BigIntegerField()
    latest_hash = models.BigIntegerField()
    cond_true = models.BigIntegerField()
    cond_false = models.BigIntegerField()
    paused = models.BooleanField()
    drift = models.SmallIntegerField()
    down = models.BooleanField()

    class Meta:
        managed = False
        db_table = "machine_state"

    def __str__(self) -> str:
        return f"MachineState {self.pk}"

    # The legal moves. Hot paths move phases by SQL and take their legality from here (`machines.phases.LEGAL`).

    @transition(field=phase, source=["Pending", "Failed"], target="Provisioning")
    def provision(self) -> None:
        """The first Operation works on it."""

    @transition(field=phase, source=["Pending", "Provisioning", "Updating", "Probation", "Failed"], target="Running")
    def run(self) -> None:
        """It is as wanted."""

    @transition(field=phase, source=["Running", "Failed"], target="Updating")
    def update(self) -> None:
        """A new set is brought to it."""

    @transition(field=phase, source=["Provisioning", "Running", "Updating", "Probation", "Failed"], target="Repairing")
    def repair(self) -> None:
        """What was changed or broke is put back."""

    @transition(field=phase, source=["Repairing"], target="Probation")
    def watch(self) -> None:
        """It is as wanted again and must stay so for a while."""

    @transition(field=phase, source=["Provisioning", "Running", "Updating", "Repairing", "Probation"], target="Failed")
    def fail(self) -> None:
        """It needs a person or a new spec."""

    @transition(
        field=phase,
        source=["Pending", "Provisioning", "Running", "Updating", "Repairing", "Probation", "Failed"],
        target="Decommissioning",
    )
    def decommission(self) -> None:
        """It is taken out of service."""

    @transition(field=phase, source=["Decommissioning"], target="Retired")
    def retire(self) -> None:
        """It is clean and out of service for good."""
