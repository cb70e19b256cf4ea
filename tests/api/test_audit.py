"""The audit trail: who, what, from where, before and after; and that nobody can bend it unseen."""

from __future__ import annotations

import pytest
from django.db import connection
from django.db.utils import DatabaseError

from fleet.api import audit
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.patches import merge_patch
from fleet.api.rights import Actor

V1 = "fleet.dev/v1"
ALICE = Actor("alice", bindings=(("admin", ""),), address="10.0.0.9")


def write_three_rows() -> None:
    write = Write(by=ALICE)
    create_object(
        "machineclasses",
        {"apiVersion": V1, "kind": "MachineClass", "metadata": {"name": "gpu"}, "spec": {}},
        write=write,
    )
    patch_object(
        "machineclasses", "gpu", lambda live: merge_patch(live, {"spec": {"versions": {"a": "1"}}}), write=write
    )
    delete_object("machineclasses", "gpu", write=write)


def tamper(sql: str) -> None:
    """As the owner of the database could: with the triggers off."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(sql)
        cursor.execute("SET session_replication_role = DEFAULT")


@pytest.mark.usefixtures("fleet_db")
def test_every_write_leaves_a_row_with_before_and_after() -> None:
    write_three_rows()
    with connection.cursor() as cursor:
        cursor.execute("SELECT actor, address, verb, kind, name, before IS NULL, after IS NULL FROM audit ORDER BY pos")
        rows = cursor.fetchall()
    assert [r[2:] for r in rows] == [
        ("create", "MachineClass", "gpu", True, False),
        ("patch", "MachineClass", "gpu", False, False),
        ("delete", "MachineClass", "gpu", False, True),
    ]
    assert {r[:2] for r in rows} == {("alice", "10.0.0.9")}


@pytest.mark.usefixtures("fleet_db")
def test_the_chain_holds_and_grows_only_over_new_rows() -> None:
    write_three_rows()
    assert audit.seal() == 3
    assert audit.seal() == 0
    verdict = audit.verify()
    assert (verdict.rows, verdict.problem) == (3, "")


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("UPDATE audit SET actor = 'mallory' WHERE verb = 'patch'", "was changed after it was sealed"),
        (
            "UPDATE audit SET after = jsonb_set(after, '{spec}', '{}') WHERE verb = 'patch'",
            "was changed after it was sealed",
        ),
        ("DELETE FROM audit WHERE verb = 'patch'", "was deleted"),
        ("DELETE FROM audit_seal WHERE seq = 2", "is missing"),
        ("UPDATE audit SET name = name || E'\\r\\nforged'", "was changed after it was sealed"),
    ],
)
def test_rows_that_were_edited_deleted_or_split_are_found(sql: str, sentence: str) -> None:
    write_three_rows()
    audit.seal()
    tamper(sql)
    assert sentence in audit.verify().problem


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize("sql", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"])
def test_the_database_itself_refuses_to_change_the_trail(sql: str) -> None:
    write_three_rows()
    with connection.cursor() as cursor, pytest.raises(DatabaseError, match="append-only"):
        cursor.execute(sql)
