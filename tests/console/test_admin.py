"""Django admin: looks at Fleet's objects, writes people and roles only, and leaves a row for each write."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from fleet.api.models import Audit, RoleBinding, Token
from tests.servers import People

USER, ROLES = "/admin/auth/user", "role_bindings"
LOOKED_AT = [
    "/admin/machines/machine/",
    "/admin/machines/machinestate/",
    "/admin/machines/operation/",
    "/admin/machines/machineclass/",
    "/admin/clusters/cluster/",
    "/admin/safety/hold/",
    "/admin/safety/permit/",
    "/admin/fleet_api/credential/",
    "/admin/fleet_api/token/",
]


@pytest.fixture
def chief(people: People) -> Client:
    """A superuser who is an admin of the fleet."""
    user = get_user_model().objects.get(username="admin")
    user.is_staff = user.is_superuser = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def _form(user: str, bindings: list[tuple[str, str]]) -> dict[str, str]:
    form = {"username": user, "is_active": "on", "last_login_0": "", "last_login_1": "", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}  # fmt: skip
    form |= {f"{ROLES}-TOTAL_FORMS": str(len(bindings)), f"{ROLES}-INITIAL_FORMS": "0"}
    for number, (role, cluster) in enumerate(bindings):
        form |= {f"{ROLES}-{number}-role": role, f"{ROLES}-{number}-cluster": cluster}
    return form


@pytest.mark.parametrize("path", LOOKED_AT)
def test_objects_of_fleet_can_be_looked_at_and_not_written(small_fleet: list[str], chief: Client, path: str) -> None:
    assert chief.get(path).status_code == 200
    assert chief.get(f"{path}add/").status_code == 403


def test_a_machine_has_no_save_and_no_delete(small_fleet: list[str], chief: Client) -> None:
    from machines.models import Machine

    path = f"/admin/machines/machine/{Machine.objects.get(name='a1').pk}"
    assert 'name="_save"' not in chief.get(f"{path}/change/").content.decode()
    assert chief.post(f"{path}/change/", {"name": "x"}).status_code == 403
    assert chief.post(f"{path}/delete/", {"post": "yes"}).status_code == 403
    assert Machine.objects.filter(name="a1").exists()


def test_a_role_given_in_admin_leaves_a_row_with_who_and_what(small_fleet: list[str], chief: Client) -> None:
    user = get_user_model().objects.get(username="stranger")
    done = chief.post(f"{USER}/{user.pk}/change/", _form("stranger", [("operator", "a")]))
    assert done.status_code == 302, done.content.decode()[-3000:]
    assert list(RoleBinding.objects.filter(user=user).values_list("role", "cluster")) == [("operator", "a")]
    row = Audit.objects.get(verb="grant")
    assert (row.actor, row.name, row.after) == ("admin", "stranger", {"role": "operator", "cluster": "a"})


def test_a_role_in_a_cluster_that_is_not_there_is_refused(small_fleet: list[str], chief: Client) -> None:
    user = get_user_model().objects.get(username="stranger")
    answer = chief.post(f"{USER}/{user.pk}/change/", _form("stranger", [("operator", "nowhere")]))
    assert answer.status_code == 200
    assert "There is no cluster nowhere" in answer.content.decode()
    assert not RoleBinding.objects.filter(user=user).exists()


def test_a_password_never_reaches_the_audit_trail(small_fleet: list[str], chief: Client) -> None:
    secret = "correct-horse-battery"
    made = chief.post(f"{USER}/add/", _form("newcomer", []) | {"password1": secret, "password2": secret, "usable_password": "true"})  # fmt: skip
    assert made.status_code == 302, made.content.decode()[-3000:]
    rows = Audit.objects.filter(name="newcomer")
    assert {r.verb for r in rows} == {"create"}
    assert secret not in str([(r.before, r.after) for r in rows])


def test_a_token_is_revoked_and_never_shown(small_fleet: list[str], chief: Client) -> None:
    token = Token.objects.get(user__username="viewer")
    assert token.digest not in chief.get(f"/admin/fleet_api/token/{token.pk}/change/").content.decode()
    chief.post("/admin/fleet_api/token/", {"action": "revoke", "_selected_action": str(token.pk)})
    token.refresh_from_db()
    assert token.revoked_at is not None
    assert Audit.objects.filter(verb="revoke", kind="Token").count() == 1


def test_who_is_no_staff_does_not_get_in(small_fleet: list[str], people: People) -> None:
    client = Client()
    client.force_login(get_user_model().objects.get(username="viewer"))
    assert client.get("/admin/auth/user/").status_code == 302
