"""Faults and their repairs, to look at."""

from __future__ import annotations

from django.contrib import admin

from fleet.control.admin import ReadOnlyObject
from recovery.models import Fault, FaultRule, Playbook, Remediation

admin.site.register([FaultRule, Playbook], ReadOnlyObject)


@admin.register(Fault)
class FaultAdmin(ReadOnlyObject):
    list_display = ("name", "phase", "type", "machine_id", "first_seen", "last_seen")
    ordering = ("-id",)


@admin.register(Remediation)
class RemediationAdmin(ReadOnlyObject):
    list_display = ("name", "phase", "playbook", "machine_id", "rung", "created_at", "ended_at")
    ordering = ("-id",)
