"""The append-only log: changes of objects (the watch) and events (what happened), at one position in commit order.

Both tables are partitioned by position and written by SQL in the transaction of the change; these models only read. Beside them what was set
aside, and who is told by webhook.
"""

from __future__ import annotations

from django.db import models

from fleet.control.models import KubeObject


class Change(models.Model):
    """One write of one object: op 1 ADDED, 2 MODIFIED, 3 DELETED; `old` holds what selectors need of before."""

    pk = models.CompositePrimaryKey("rv", "object_id")
    rv = models.BigIntegerField()
    object_id = models.BigIntegerField()
    cluster_id = models.IntegerField()
    kind = models.SmallIntegerField()
    op = models.SmallIntegerField()
    old = models.JSONField(null=True)

    class Meta:
        managed = False
        db_table = "change"

    def __str__(self) -> str:
        return f"Change {self.pk}"


class Event(models.Model):
    """Something that happened, in CloudEvents' terms. `data` carries reason, message, name (of the object), from, to, by."""

    pk = models.CompositePrimaryKey("pos", "n")
    pos = models.BigIntegerField()
    n = models.SmallIntegerField()
    at = models.DateTimeField()
    object_id = models.BigIntegerField()
    cluster_id = models.IntegerField()
    kind = models.SmallIntegerField()
    severity = models.SmallIntegerField()  # 0 normal, 1 warning, 2 error
    type = models.TextField()
    source = models.TextField(null=True)
    source_id = models.TextField(null=True)
    data = models.JSONField(null=True)

    class Meta:
        managed = False
        db_table = "event"

    def __str__(self) -> str:
        return f"Event {self.pk}"


class DeadLetter(models.Model):
    """An event that was set aside: no handler could take it (`consumer`), or it came in and fits nowhere (consumer empty)."""

    id = models.BigAutoField(primary_key=True)
    consumer = models.TextField()
    state = models.SmallIntegerField(default=0)  # 0 waits for a person, 1 is to be tried again, 2 is being tried
    reason = models.TextField()
    message = models.TextField(default="")
    attempts = models.IntegerField(default=1)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    cluster_id = models.IntegerField(default=0)
    kind = models.SmallIntegerField(default=0)
    severity = models.SmallIntegerField(default=0)
    type = models.TextField()
    source = models.TextField(null=True)
    source_id = models.TextField(null=True)
    subject = models.TextField(default="")
    data = models.JSONField(null=True)
    publisher = models.TextField(default="")

    class Meta:
        managed = False
        db_table = "dead_letter"

    def __str__(self) -> str:
        return f"DeadLetter {self.pk}"


class Subscription(KubeObject):
    """Whom to tell of which events by webhook. `sealed` is a libsodium sealed box with the signing secret, `fingerprint` its keyed HMAC."""

    sealed = models.BinaryField(default=b"")
    fingerprint = models.CharField(max_length=64, default="")
