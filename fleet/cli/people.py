"""`token`, `user` and `role`: who may speak to Fleet; `audit`: what they did."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from fleet.cli.environment import CliError, out, start_django, who

token = typer.Typer(help="Bearer tokens.", no_args_is_help=True)
user = typer.Typer(help="People and robots.", no_args_is_help=True)
role = typer.Typer(help="Who may do what.", no_args_is_help=True)
audit = typer.Typer(help="The audit trail.", no_args_is_help=True)
ROLES = ("viewer", "operator", "approver", "admin")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for name, group in (("token", token), ("user", user), ("role", role), ("audit", audit)):
        app.add_typer(group, name=name)


def _user(name: str) -> Any:
    start_django()
    from django.contrib.auth import get_user_model

    found = get_user_model()._default_manager.filter(username=name).first()
    if found is None:
        raise CliError(f"there is no user {name!r}; make one with: fleetctl user create {name}")
    return found


def _note(verb: str, subject: str, name: str, detail: dict[str, Any]) -> None:
    from django.db import connection

    from fleet.api.audit import note
    from fleet.api.rights import Actor

    with connection.cursor() as cursor:
        note(cursor, Actor(who(), is_system=True, address="fleetctl"), verb, subject, name, detail)


@token.command("create")
def token_create(
    user: Annotated[str, typer.Option(help="Whose token.")],
    name: Annotated[str, typer.Option(help="What it is for.")],
    days: Annotated[float, typer.Option(min=0.001, max=3650, help="When it ends.")] = 30,
) -> None:
    """Make a token. It is shown this once and never again."""
    owner = _user(user)
    from fleet.api.authentication import create_token

    text = create_token(owner, name, days=days)
    _note("create", "Token", name, {"user": user, "days": days, "prefix": text[:12]})
    out.print(text, markup=False)


@token.command("list")
def token_list() -> None:
    """All tokens, by the beginning that is kept of them."""
    start_django()
    from django.utils import timezone

    from fleet.api.models import Token

    table = Table("token", "user", "name", "state", "ends", "last used", box=None, pad_edge=False)
    for each in Token.objects.select_related("user").order_by("user__username", "created_at"):
        state = "revoked" if each.revoked_at else "ended" if each.expires_at <= timezone.now() else "good"
        used = f"{each.last_used_at:%Y-%m-%d %H:%M}" if each.last_used_at else "never"
        table.add_row(
            f"{each.prefix}…", each.user.get_username(), each.name, state, f"{each.expires_at:%Y-%m-%d}", used
        )
    out.print(table)


@token.command("revoke")
def token_revoke(prefix: Annotated[str, typer.Argument(help="Its beginning, as listed.")]) -> None:
    """End a token now."""
    start_django()
    from django.utils import timezone

    from fleet.api.models import Token

    start = prefix.rstrip("…")
    found = list(Token.objects.filter(prefix__startswith=start, revoked_at=None)[:2]) if len(start) >= 8 else []
    if len(found) != 1:
        raise CliError(
            f"{'several tokens begin' if found else 'no good token begins'} with {start!r}; see: fleetctl token list"
        )
    Token.objects.filter(pk=found[0].pk).update(revoked_at=timezone.now())
    _note("revoke", "Token", found[0].name, {"prefix": found[0].prefix})
    out.print("Revoked; it opens nothing within five seconds.", markup=False)


@user.command("create")
def user_create(
    name: str,
    robot: Annotated[bool, typer.Option("--robot", help="No password: tokens only.")] = False,
) -> None:
    """Make a user; the password is asked for, or read from a pipe. A new user has no role yet."""
    start_django()
    from django.contrib.auth import get_user_model
    from django.contrib.auth.password_validation import validate_password
    from django.core.exceptions import ValidationError

    users = get_user_model()
    if users._default_manager.filter(username=name).exists():
        raise CliError(f"there is a user {name!r} already.")
    made = users(username=name)
    if robot:
        made.set_unusable_password()
    else:
        password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        try:
            validate_password(password, made)
        except ValidationError as error:
            raise CliError(" ".join(error.messages)) from None
        made.set_password(password)
    made.save()
    _note("create", "User", name, {"robot": robot})
    out.print(f"Made {name}. Give a role with: fleetctl role grant {name} viewer", markup=False)


@role.command("grant")
def role_grant(name: str, role: str, cluster: Annotated[str, typer.Option(help="Only in this cluster.")] = "") -> None:
    """Give a role: viewer, operator, approver or admin."""
    _change_role(name, role, cluster, give=True)


@role.command("revoke")
def role_revoke(
    name: str, role: str, cluster: Annotated[str, typer.Option(help="The binding of this cluster.")] = ""
) -> None:
    """Take a role away; it is gone within five seconds."""
    _change_role(name, role, cluster, give=False)


def _change_role(name: str, role: str, cluster: str, *, give: bool) -> None:
    if role not in ROLES:
        raise CliError(f"{role!r} is no role; there are {', '.join(ROLES)}.")
    person = _user(name)
    from fleet.api.models import RoleBinding
    from fleet.api.storage import cluster_ids

    if give and cluster and not cluster_ids([cluster]):
        raise CliError(f"there is no cluster {cluster!r}.")
    bindings = RoleBinding.objects.filter(user=person, role=role, cluster=cluster)
    if give:
        RoleBinding.objects.get_or_create(user=person, role=role, cluster=cluster)
    elif not bindings.delete()[0]:
        raise CliError(f"{name} is not {role} of {cluster or 'the fleet'}.")
    _note("grant" if give else "revoke", "RoleBinding", name, {"role": role, "cluster": cluster})
    out.print(f"{name} is {'now' if give else 'no longer'} {role} of {cluster or 'the fleet'}.", markup=False)


@audit.command("verify")
def audit_verify() -> None:
    """Recompute the hash chain: finds audit rows that were changed, deleted or put in later."""
    start_django()
    from fleet.api.audit import seal, verify

    while seal():
        continue
    verdict = verify()
    if verdict.problem:
        raise CliError(f"the audit trail was tampered with after {verdict.rows} good rows: {verdict.problem}")
    out.print(f"{verdict.rows} rows, unbroken up to position {verdict.position}.", markup=False)
