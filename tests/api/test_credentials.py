"""Secrets: written, never read; sealed at rest; bound to clusters and networks; in no answer, log, event or audit row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection

from fleet.api.actions import Write, create_object, patch_object
from fleet.api.credentials import open_credential
from fleet.api.errors import ApiError
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control.errors import PermanentError

CANARY = "canary-7f3a-never-shown"


def write(**spec: Any) -> Any:
    obj = {
        "apiVersion": "fleet.dev/v1",
        "kind": "Credential",
        "metadata": {
            "name": "ops",
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": {"data": {"password": CANARY}}})
            },
        },
        "spec": {"type": "ssh", "data": {"username": "root", "password": CANARY}, "clusters": ["a"], **spec},
    }
    return create_object("credentials", obj, write=Write(by=SYSTEM))


@pytest.mark.usefixtures("fleet_db")
def test_the_secret_stands_nowhere_in_the_database_and_in_no_answer() -> None:
    shown = json.dumps(write())
    assert CANARY not in shown
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT count(*) FROM "{table}" t WHERE t::text LIKE %s', [f"%{CANARY}%"])
            assert cursor.fetchone()[0] == 0, table


@pytest.mark.usefixtures("fleet_db")
def test_a_worker_opens_it_for_the_cluster_it_is_for() -> None:
    write(networks=["10.1.0.0/16"])
    assert open_credential("ops", cluster="a", address="10.1.2.3") == {"username": "root", "password": CANARY}


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize(
    ("cluster", "address", "sentence"),
    [
        ("b", "10.1.2.3", "is not for machines of cluster b"),
        ("", "10.1.2.3", "is not for machines outside every cluster"),
        ("a", "10.2.0.1", "may not be sent to 10.2.0.1"),
    ],
)
def test_it_goes_nowhere_else(cluster: str, address: str, sentence: str) -> None:
    write(networks=["10.1.0.0/16"])
    with pytest.raises(PermanentError, match=sentence):
        open_credential("ops", cluster=cluster, address=address)


@pytest.mark.usefixtures("fleet_db")
def test_a_value_left_out_is_kept_and_an_equal_one_is_no_change() -> None:
    write()
    before = storage_for("credentials").read("ops")
    assert before is not None
    patch_object(
        "credentials",
        "ops",
        lambda live: merge_patch(live, {"spec": {"data": {"password": CANARY}}}),
        write=Write(by=SYSTEM),
    )
    same = storage_for("credentials").read("ops")
    assert same is not None
    assert same.rv == before.rv
    patch_object(
        "credentials",
        "ops",
        lambda live: merge_patch(live, {"spec": {"data": {"username": "fleet"}}}),
        write=Write(by=SYSTEM),
    )
    assert open_credential("ops", cluster="a", address="10.0.0.1") == {"username": "fleet", "password": CANARY}


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"data": {"token": "x", "password": "y"}}, "spec.data[token]"),
        ({"data": {"username": "root"}}, "spec.data"),
        ({"networks": ["10.0.0.0/99"]}, "spec.networks[0]"),
        ({"type": "ftp"}, "spec.type"),
    ],
)
def test_a_bad_credential_names_its_field_and_not_its_value(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError) as refused:
        write(**spec)
    assert refused.value.code == 422
    assert field in refused.value.message
    assert CANARY not in refused.value.message
