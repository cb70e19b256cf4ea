"""Which machines carry pods of which control planes; the ledger's functions as they are now, which count those machines there as well."""

from __future__ import annotations

from pathlib import Path

from django.db import migrations

HERE = Path(__file__).parent
NEWEST = "".join((HERE / name).read_text() for name in ("breaker.sql", "guards.sql", "permit_batch.sql"))
TABLE = """
CREATE TABLE carried (plane_id int NOT NULL, machine_id bigint NOT NULL, member boolean NOT NULL, PRIMARY KEY (plane_id, machine_id));
CREATE INDEX carried_machine ON carried (machine_id);
"""
UNDO = "DROP FUNCTION IF EXISTS safety_carriers(int[]); DROP FUNCTION IF EXISTS safety_planes(bigint, jsonb, boolean); DROP TABLE carried;"


class Migration(migrations.Migration):
    dependencies = [("safety", "0009_notices_of_batches")]

    operations = [
        migrations.RunSQL(TABLE, UNDO),
        migrations.RunSQL(NEWEST.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"), migrations.RunSQL.noop),
    ]
