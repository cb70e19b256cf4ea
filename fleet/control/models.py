"""The shape that every kind's table shares, and the tables of the loop."""

from __future__ import annotations

import uuid

from django.db import models


class KubeObject(models.Model):
    """A Kubernetes-shaped object: one row, spec and status as JSON. `rv` is its resourceVersion (see `fleet.control.position`).

    Written through `fleet.api.storage` (spec, metadata) and by the kind's own controller (status); never by `save()`.
    """

    id = models.BigAutoField(primary_key=True)
    uid = models.UUIDField(default=uuid.uuid4, unique=True)
    name = models.CharField(max_length=253, unique=True, db_collation="C")
    rv = models.BigIntegerField(default=0)
    generation = models.IntegerField(default=1)
    labels = models.JSONField(default=dict)
    annotations = models.JSONField(default=dict)
    finalizers = models.JSONField(default=list)
    managed_fields = models.JSONField(default=list)
    spec = models.JSONField(default=dict)
    status = models.JSONField(default=dict)
    created_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        abstract = True
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class WorkItem(models.Model):
    """One row per object for ever: schedule, lease and epoch in one (`data.md`, section 2 of the design of data)."""

    pk = models.CompositePrimaryKey("kind", "object_id")
    kind = models.SmallIntegerField()
    object_id = models.BigIntegerField()
    idc_id = models.SmallIntegerField(default=0)
    shard = models.SmallIntegerField(default=0)
    cluster_id = models.IntegerField(default=0)
    attempts = models.SmallIntegerField(default=0)
    epoch = models.IntegerField(default=0)
    holder = models.IntegerField(null=True)
    wake = models.BooleanField(default=False)
    due_at = models.DateTimeField()
    resting = models.BooleanField(default=False)
    tried = models.BigIntegerField(default=0)

    class Meta:
        managed = False
        db_table = "work_item"

    def __str__(self) -> str:
        return f"WorkItem {self.pk}"


class Installation(models.Model):
    """The one row that names this installation and its incarnation; a copied or restored database must not act."""

    id = models.SmallIntegerField(primary_key=True)
    installation = models.UUIDField()
    incarnation = models.IntegerField()
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "installation"

    def __str__(self) -> str:
        return f"Installation {self.pk}"
