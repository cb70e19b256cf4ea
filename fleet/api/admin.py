"""People: users, groups, roles and tokens. The only things Django admin writes, and each write leaves a row in the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db import connection
from django.db.models import QuerySet
from django.forms import ModelForm
from django.forms.formsets import BaseFormSet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from fleet.api import audit
from fleet.api.authentication import actor_of, forget
from fleet.api.models import Credential, RoleBinding, Token
from fleet.api.storage import cluster_ids
from fleet.control.admin import ReadOnly, ReadOnlyObject

if TYPE_CHECKING:
    Inline = admin.TabularInline[Any, Any]
    Unfold = admin.ModelAdmin[Any]
else:
    Inline, Unfold = TabularInline, ModelAdmin


def note(request: HttpRequest, verb: str, subject: str, name: str, detail: dict[str, Any]) -> None:
    """One row of the audit trail, in the transaction of the change."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    with connection.cursor() as cursor:
        audit.note(cursor, actor, verb, subject, name, detail)


class RoleForm(ModelForm):  # type: ignore[type-arg]
    """A role within one cluster that there is, or within the whole fleet."""

    class Meta:
        model = RoleBinding
        fields = ("role", "cluster")

    def clean_cluster(self) -> str:
        name = str(self.cleaned_data.get("cluster", "")).strip()
        if name and not cluster_ids([name]):
            raise forms.ValidationError(f"There is no cluster {name}. Empty means the whole fleet.")
        return name


class RoleInline(Inline):
    model = RoleBinding
    form = RoleForm
    extra = 0
    verbose_name_plural = "Roles (an empty cluster means the whole fleet)"


class Audited(Unfold):
    """Writes what was changed, never a password."""

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm, change: bool) -> None:  # type: ignore[type-arg]
        super().save_model(request, obj, form, change)
        changed = sorted(set(form.changed_data) - {"password1", "password2", "usable_password"})
        note(request, "update" if change else "create", type(obj).__name__, str(obj), {"changed": changed})
        forget(getattr(obj, "pk", None) if isinstance(obj, User) else None)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        name = str(obj)
        super().delete_model(request, obj)
        note(request, "delete", type(obj).__name__, name, {})
        forget()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for each in queryset:
            self.delete_model(request, each)


admin.site.unregister([User, Group])


@admin.register(User)
class PersonAdmin(UserAdmin, Audited):  # type: ignore[type-arg]
    """A user and the roles it has."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "roles", "is_active", "is_staff", "last_login")
    inlines = (RoleInline,)

    @admin.display(description="Roles")
    def roles(self, user: User) -> str:
        bound = [f"{b.role}{f' of {b.cluster}' if b.cluster else ''}" for b in user.role_bindings.all()]
        return ", ".join(sorted(bound)) or "none"

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("role_bindings")

    def save_related(self, request: HttpRequest, form: Any, formsets: Sequence[BaseFormSet[Any]], change: bool) -> None:
        """Roles given and taken, one row each."""
        before = _roles(form.instance)
        super().save_related(request, form, formsets, change)
        after = _roles(form.instance)
        for verb, moved in (("grant", after - before), ("revoke", before - after)):
            for role, cluster in sorted(moved):
                note(request, verb, "RoleBinding", form.instance.username, {"role": role, "cluster": cluster})
        forget(form.instance.pk)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Also called when a password is set by its own page."""
        if "password" in str(message).lower():
            note(request, "set-password", "User", str(obj), {})
        return super().log_change(request, obj, message)


def _roles(user: Any) -> set[tuple[str, str]]:
    return set(RoleBinding.objects.filter(user_id=user.pk).values_list("role", "cluster"))


@admin.register(Group)
class TeamAdmin(GroupAdmin, Audited):
    """A group of users; Fleet's own rights are roles, not groups."""


@admin.register(Token)
class TokenAdmin(ReadOnly):
    """Tokens by the beginning that is kept of them. They may be revoked here, never made: a token is shown once, to its owner."""

    list_display = ("name", "user", "prefix", "created_at", "expires_at", "revoked_at", "last_used_at")
    list_select_related = ("user",)
    exclude = ("digest",)
    actions = ("revoke",)

    @admin.action(description="Revoke")
    def revoke(self, request: HttpRequest, queryset: QuerySet[Token]) -> None:
        for token in queryset.filter(revoked_at=None).select_related("user"):
            token.revoked_at = timezone.now()
            token.save(update_fields=["revoked_at"])
            note(request, "revoke", "Token", token.name, {"user": token.user.get_username(), "prefix": token.prefix})
        forget()


@admin.register(Credential)
class CredentialAdmin(ReadOnlyObject):
    """Where credentials may be used; never what they are."""

    exclude = ("managed_fields", "sealed", "fingerprints", "annotations")
