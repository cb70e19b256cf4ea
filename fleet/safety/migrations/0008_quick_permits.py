"""Permits for one machine cost what one machine needs: plans are kept, and nothing is counted that cannot refuse; the ledger's functions as they are now."""

from __future__ import annotations

from pathlib import Path

from django.db import migrations

HERE = Path(__file__).parent
NEWEST = "".join((HERE / name).read_text() for name in ("breaker.sql", "guards.sql", "permit_batch.sql"))
# With one argument more they would stand beside the old ones, and a call that leaves it out would mean either.
BEFORE = "DROP FUNCTION IF EXISTS breaker_read(text[], int[], timestamptz, boolean); DROP FUNCTION IF EXISTS breakers_of(bigint[], timestamptz, boolean);"


class Migration(migrations.Migration):
    dependencies = [("safety", "0007_quorum")]

    operations = [
        migrations.RunSQL(BEFORE, migrations.RunSQL.noop),
        migrations.RunSQL(NEWEST.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"), migrations.RunSQL.noop),
    ]
