"""The way to a cluster: kept sealed, opened by a worker."""

from __future__ import annotations

from django.db import connection

from clusters import access
from fleet.control import db
from fleet.control.endpoint import Endpoint
from fleet.control.threads import in_thread

WAY = Endpoint("https://10.0.0.1:6443", ca="CA", certificate="CRT", key="KEY", token="TOKEN", server_name="c1")


async def known() -> dict[int, Endpoint]:
    conn = await db.connect()
    try:
        return await access.endpoints(conn)
    finally:
        await conn.close()


def raw() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT string_agg(a::text || convert_from(sealed, 'UTF8'), ' ') FROM cluster_access a")
        return str(cursor.fetchone()[0])


async def test_an_endpoint_comes_back_as_it_was_stored_and_its_secrets_lie_sealed(fleet_db: None) -> None:
    await in_thread(lambda: access.store(7, Endpoint("https://10.0.0.9:6443")))
    await in_thread(lambda: access.store(7, WAY))
    assert await known() == {7: WAY}
    text = await in_thread(raw)
    assert "KEY" not in text and "TOKEN" not in text


async def test_a_forgotten_cluster_has_no_endpoint(fleet_db: None) -> None:
    await in_thread(lambda: access.store(7, WAY))
    await in_thread(lambda: access.forget(7))
    assert await known() == {}
