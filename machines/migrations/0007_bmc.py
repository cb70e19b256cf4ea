"""Machines with a controller are found by its address, and all of them at once."""

from __future__ import annotations

from django.db import migrations

SQL = "CREATE INDEX machine_bmc ON machine ((spec #>> '{bmc,address}')) WHERE spec #>> '{bmc,address}' IS NOT NULL;"


class Migration(migrations.Migration):
    dependencies = [("machines", "0006_faults")]

    operations = [migrations.RunSQL(SQL, "DROP INDEX machine_bmc;")]
