"""The ledger's functions look machines up by their keys, whatever statistics say of tables that have just been filled."""

from __future__ import annotations

from pathlib import Path

from django.db import migrations

FUNCTIONS = Path(__file__).with_name("permit_batch.sql").read_text()


class Migration(migrations.Migration):
    dependencies = [("safety", "0001_ledger")]

    operations = [
        migrations.RunSQL(FUNCTIONS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"), migrations.RunSQL.noop)
    ]
