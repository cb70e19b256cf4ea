"""Every write leaves one row in a chain that shows any tampering; secrets never reach it, nor anything else that can be read."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import Error as DatabaseError
from django.db import connection, transaction

from fleet.api import audit
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.rights import SYSTEM, Actor
from tests.api.http import BASE, MERGE, Http
from tests.servers import Kubectl, People, Server

CANARY = "canary-7f3a9c51e2"
CREDENTIAL: dict[str, Any] = {
    "apiVersion": "fleet.dev/v1",
    "kind": "Credential",
    "metadata": {"name": "lab"},
    "spec": {"type": "ssh", "data": {"username": "root", "password": CANARY}, "clusters": ["*"]},
}


def classes(*names: str) -> None:
    for name in names:
        manifest = {"apiVersion": "fleet.dev/v1", "kind": "MachineClass", "metadata": {"name": name}, "spec": {}}
        create_object("machineclasses", manifest, write=Write(by=SYSTEM))


def sql(statement: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def tamper(statement: str) -> None:
    """As a superuser who switches the triggers off."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement)


@pytest.mark.usefixtures("fleet_db")
def test_each_write_tells_who_what_from_where_before_and_after() -> None:
    by = Actor("ann", bindings=(("admin", ""),), address="10.1.2.3")
    write = Write(by=by)
    manifest = {"apiVersion": "fleet.dev/v1", "kind": "MachineClass", "metadata": {"name": "gpu"}, "spec": {}}
    create_object("machineclasses", manifest, write=write)
    patch_object("machineclasses", "gpu", lambda o: {**o, "spec": {"versions": {"pouch": "1"}}}, write=write)
    patch_object("machineclasses", "gpu", lambda o: o, write=write)  # nothing changes, so nothing is written down
    create_object("machineclasses", {**manifest, "metadata": {"name": "dry"}}, write=Write(by=by, dry_run=True))
    delete_object("machineclasses", "gpu", write=write)
    rows = sql("SELECT actor, address, verb, kind, name, before->'spec', after->'spec' FROM audit ORDER BY pos")
    assert [(*r[:5], *(json.loads(v) if v else None for v in r[5:])) for r in rows] == [
        ("ann", "10.1.2.3", "create", "MachineClass", "gpu", None, {}),
        ("ann", "10.1.2.3", "patch", "MachineClass", "gpu", {}, {"versions": {"pouch": "1"}}),
        ("ann", "10.1.2.3", "delete", "MachineClass", "gpu", {"versions": {"pouch": "1"}}, None),
    ]


@pytest.mark.usefixtures("fleet_db")
def test_the_chain_holds_while_nobody_touches_it() -> None:
    classes("a", "b", "c")
    assert audit.seal() == 3
    classes("d")
    assert (audit.seal(), audit.seal()) == (1, 0)
    verdict = audit.verify()
    assert (verdict.rows, verdict.problem) == (4, "")


@pytest.mark.usefixtures("fleet_db")
def test_a_row_is_sealed_only_when_no_earlier_one_can_come() -> None:
    with transaction.atomic():
        classes("a")
        assert audit.seal() == 0
    assert audit.seal() == 1


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE audit SET actor = 'somebody' WHERE name = 'b'", "was changed after it was sealed"),
        ("UPDATE audit SET at = at - interval '1 day' WHERE name = 'b'", "was changed after it was sealed"),
        ("UPDATE audit SET after = after || '{\"spec\": {\"versions\": {}}}' WHERE name = 'b'", "was changed after it was sealed"),
        ("DELETE FROM audit WHERE name = 'b'", "was deleted"),
        ("DELETE FROM audit WHERE name = 'c'", "was deleted"),
        ("INSERT INTO audit SELECT pos + 1, n, at, actor, address, verb, kind, name, uid, cluster, before, after FROM audit WHERE name = 'a'", "another was put in before it"),
        ("DELETE FROM audit_seal WHERE seq = 2", "seal 2 is missing"),
        ("UPDATE audit SET pos = CASE name WHEN 'a' THEN (SELECT pos FROM audit WHERE name = 'b') ELSE (SELECT pos FROM audit WHERE name = 'a') END, n = n + 1 WHERE name IN ('a', 'b')", "was deleted"),
    ],
    ids=["actor", "time", "content", "middle row", "last row", "row between", "seal", "order"],
)  # fmt: skip
def test_tampering_in_the_database_is_found(statement: str, problem: str) -> None:
    classes("a", "b", "c")
    audit.seal()
    tamper(statement)
    assert problem in audit.verify().problem


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit", "DELETE FROM audit_seal"]
)
def test_the_trail_refuses_changes(statement: str) -> None:
    classes("a")
    audit.seal()
    with pytest.raises(DatabaseError, match="append"), transaction.atomic():
        sql(statement)
    assert audit.verify().rows == 1


def test_a_secret_never_shows_anywhere(server: Server, people: People, kubectl: Kubectl) -> None:
    manifest = json.dumps(CREDENTIAL)
    shown = [
        kubectl("apply", "-f", "-", "-o", "json", stdin=manifest).stdout,
        kubectl("apply", "-f", "-", "-o", "yaml", stdin=manifest.replace("root", "admin")).stdout,
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", "-o", "json", stdin=manifest).stdout,
        kubectl("get", "cred", "lab", "-o", "yaml", "--show-managed-fields").stdout,
        kubectl("describe", "cred", "lab").stdout,
        kubectl("diff", "-f", "-", stdin=manifest, ok=False).stderr,
    ]
    with Http(server.http, people.headers("admin")) as http:
        for body in (
            {"spec": {"type": CANARY}},
            {"spec": {"data": {CANARY: "x"}}},
            {"spec": {"data": {"password": [CANARY]}}},
            {"spec": {"data": CANARY}},
        ):
            reply = http("PATCH", f"{BASE}/credentials/lab", body, Content_Type=MERGE)
            assert reply.status == 422
        # What a message may quote is what is no secret: the type and the names of the keys. Values under data never.
        for body in (
            {"spec": {"data": {"password": [CANARY]}}},
            {"spec": {"data": CANARY}},
            {"spec": {"data": {"password": CANARY * 4000}}},
        ):
            shown.append(http("PATCH", f"{BASE}/credentials/lab", body, Content_Type=MERGE).data.decode())
        shown.append(http("PUT", f"{BASE}/credentials/lab", CREDENTIAL).data.decode())
        shown.append(http("POST", f"{BASE}/credentials", CREDENTIAL).data.decode())
        shown.append(http("GET", f"{BASE}/credentials?" + urlencode({"watch": 1, "timeoutSeconds": 1})).data.decode())
        shown.append(http("DELETE", f"{BASE}/credentials/lab").data.decode())
        shown.append(http("GET", "/api/v1/events").data.decode())
    assert [text for text in shown if CANARY in text] == []
    rows = dump()
    assert "lab" in rows
    assert [secret for secret in (CANARY, CANARY.encode().hex()) if secret in rows] == []
    assert CANARY not in (server.ca.parent / "log").read_text()


def dump() -> str:
    """Every row of every table as text; binary columns stand there in hexadecimal."""
    tables = sql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
    )
    return "\n".join(row[0] for (table,) in tables for row in sql(f'SELECT t::text FROM "{table}" t'))


@pytest.mark.usefixtures("fleet_db")
def test_data_left_out_or_empty_is_kept_and_equality_shows_by_fingerprint() -> None:
    from fleet.api.credentials import open_credential

    write = Write(by=SYSTEM)
    first = create_object("credentials", CREDENTIAL, write=write)
    again = patch_object("credentials", "lab", lambda o: {**o, "spec": CREDENTIAL["spec"]}, write=write)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    patch_object(
        "credentials",
        "lab",
        lambda o: {**o, "spec": {"type": "ssh", "clusters": ["*"], "networks": ["10.0.0.0/8"]}},
        write=write,
    )
    assert open_credential("lab", cluster="a", address="10.1.1.1") == {"username": "root", "password": CANARY}
    changed = patch_object(
        "credentials", "lab", lambda o: {**o, "spec": {**o["spec"], "data": {"password": "new"}}}, write=write
    )
    prints, earlier = changed["status"]["fingerprints"], first["status"]["fingerprints"]
    assert prints["username"] == earlier["username"]
    assert prints["password"] != earlier["password"]
    assert open_credential("lab", cluster="a", address="10.1.1.1")["password"] == "new"
