"""Django admin shows Fleet's objects and writes none: writes go through the API's actions, which check, audit and wake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from fleet.control.models import Installation

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Any]
else:
    Base = ModelAdmin


class ReadOnly(Base):
    """Looks, never writes; cheap on tables of any size."""

    show_full_result_count = False
    list_per_page = 50
    actions: Any = None

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyObject(ReadOnly):
    """A kind: found by the beginning of its name; what Fleet keeps for itself is left out."""

    list_display: Any = ("name", "generation", "created_at", "deleted_at")
    search_fields = ("^name",)
    ordering = ("name",)
    exclude: ClassVar[Any] = ("managed_fields",)


@admin.register(Installation)
class InstallationAdmin(ReadOnly):
    list_display = ("__str__",)
