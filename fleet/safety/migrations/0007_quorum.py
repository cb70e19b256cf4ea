"""Quorums of control planes, and what policies say of pods; the ledger's functions as they are now."""

from __future__ import annotations

from pathlib import Path

from django.db import migrations

HERE = Path(__file__).parent
NEWEST = "".join((HERE / name).read_text() for name in ("breaker.sql", "guards.sql", "permit_batch.sql"))


class Migration(migrations.Migration):
    dependencies = [("safety", "0006_notices")]

    operations = [
        migrations.RunSQL(NEWEST.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"), migrations.RunSQL.noop),
    ]
