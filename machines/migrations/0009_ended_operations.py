"""Operations that ended long ago are found without reading all: they lie in the order in which they ended, nearly."""

from __future__ import annotations

from django.db import migrations

SQL = "CREATE INDEX operation_ended ON machines_operation USING brin (ended_at) WITH (pages_per_range = 32, autosummarize = on)"


class Migration(migrations.Migration):
    dependencies = [("machines", "0008_operationbatch")]

    operations = [migrations.RunSQL(SQL, "DROP INDEX operation_ended")]
