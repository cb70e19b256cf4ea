"""Safety's objects, to look at."""

from __future__ import annotations

from django.contrib import admin

from fleet.control.admin import ReadOnly, ReadOnlyObject
from fleet.safety.models import Hold, Permit, PermitRequest, SafetyPolicy

admin.site.register([Hold, PermitRequest, SafetyPolicy], ReadOnlyObject)


@admin.register(Permit)
class PermitAdmin(ReadOnly):
    list_display = ("id", "verb", "owner", "machine_id", "granted_at", "expires_at", "released_at")
    ordering = ("-id",)
