"""Risk prevention: who may take capacity away, and the kill switch. The ledger's tables are SQL (migration 0001)."""

from __future__ import annotations

from django.db import models

from fleet.control.models import KubeObject


class SafetyPolicy(KubeObject):
    """Budgets and rates of a scope."""


class Hold(KubeObject):
    """A person says: leave this alone, for this reason, until then."""


class PermitRequest(KubeObject):
    """A Permit that a person or a foreign tool asked for by a name of its own. Ids are drawn with those of grants: both are one kind."""

    machine_id = models.BigIntegerField()
    permit_id = models.BigIntegerField(null=True)  # its grant in the ledger, which is not shown besides


class Permit(models.Model):
    """One grant of the ledger; shown read-only as the kind Permit under the name `permit-<id>`."""

    id = models.BigAutoField(primary_key=True)
    rv = models.BigIntegerField(default=0)
    uid = models.UUIDField()
    machine_id = models.BigIntegerField()
    verb = models.TextField()
    unplanned = models.BooleanField()
    cost = models.SmallIntegerField()
    draws = models.BooleanField()
    cluster_id = models.IntegerField()
    idc_id = models.SmallIntegerField()
    model_id = models.SmallIntegerField()
    rack_id = models.IntegerField()
    owner = models.TextField()
    granted_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "permit"

    def __str__(self) -> str:
        return f"Permit {self.pk}"
