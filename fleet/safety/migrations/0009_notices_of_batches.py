"""People are told of batches that wait for a second person, or that stopped; the notices' functions as they are now."""

from __future__ import annotations

from pathlib import Path

from django.db import migrations

NEWEST = (Path(__file__).parent / "notices.sql").read_text()


class Migration(migrations.Migration):
    dependencies = [("safety", "0008_quick_permits")]

    operations = [
        migrations.RunSQL(NEWEST.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"), migrations.RunSQL.noop),
    ]
