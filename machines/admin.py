"""Machines and what belongs to them, to look at."""

from __future__ import annotations

from django.contrib import admin

from fleet.control.admin import ReadOnly, ReadOnlyObject
from machines.models import (
    Machine,
    MachineClass,
    MachineConfigVersion,
    MachinePackageVersion,
    MachineState,
    Operation,
    ReadinessRule,
)

admin.site.register([MachineClass, MachineConfigVersion, MachinePackageVersion, ReadinessRule], ReadOnlyObject)


@admin.register(Operation)
class OperationAdmin(ReadOnlyObject):
    list_display = ("name", "phase", "machine_id", "owner_class", "started_at", "ended_at")
    ordering = ("-id",)


@admin.register(Machine)
class MachineAdmin(ReadOnly):
    list_display = ("name", "cluster_id", "created_at", "deleted_at")
    search_fields = ("^name",)
    ordering = ("name",)


@admin.register(MachineState)
class MachineStateAdmin(ReadOnly):
    list_display = ("name", "phase", "phase_at", "generation", "observed_generation", "paused", "drift")
    search_fields = ("^name",)
    ordering = ("name",)
