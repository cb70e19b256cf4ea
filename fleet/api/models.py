"""Identity, rights, secrets and the audit trail."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from fleet.control.models import KubeObject


class Credential(KubeObject):
    """A secret that Fleet uses at hosts. `sealed` is a libsodium sealed box; `fingerprints` are keyed HMACs of the values."""

    sealed = models.BinaryField(default=b"")
    fingerprints = models.JSONField(default=dict)


class Role(models.TextChoices):
    """What a person or token may do, weakest first (approver = viewer plus approvals; see `fleet.api.rights`)."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


class RoleBinding(models.Model):
    """A role of a user within a scope: one cluster by name, or the whole fleet when `cluster` is empty."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="role_bindings")
    role = models.CharField(max_length=16, choices=Role.choices)
    cluster = models.CharField(max_length=253, blank=True, default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "role", "cluster"], name="role_binding_once")]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.cluster or 'the fleet'}"


class Token(models.Model):
    """A bearer token: only its SHA-512 is kept; shown once; expires; may be revoked."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="fleet_tokens")
    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=128, unique=True)
    prefix = models.CharField(max_length=12)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class Audit(models.Model):
    """Who wrote what, from where, before and after. Appended at its position; sealed into a hash chain below the horizon."""

    pk = models.CompositePrimaryKey("pos", "n")
    pos = models.BigIntegerField()
    n = models.SmallIntegerField()
    at = models.DateTimeField()
    actor = models.TextField()
    address = models.TextField()
    verb = models.TextField()
    kind = models.TextField()
    name = models.TextField()
    uid = models.UUIDField(null=True)
    cluster = models.TextField()
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)

    class Meta:
        managed = False
        db_table = "audit"

    def __str__(self) -> str:
        return f"{self.actor} {self.verb} {self.kind} {self.name}"
