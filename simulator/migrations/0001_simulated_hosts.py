from django.db import migrations

SQL = r"""
-- A simulated box: what a real host keeps on its own disk. Not part of Fleet's truth: Fleet reads it only through the Hosts port.
CREATE TABLE simulated_host (uid uuid PRIMARY KEY, seed bigint NOT NULL DEFAULT 0, boot_id uuid NOT NULL DEFAULT gen_random_uuid(), boot_until timestamptz, incarnation int NOT NULL DEFAULT 0, epoch int NOT NULL DEFAULT -1, marker text NOT NULL DEFAULT '',
  host jsonb NOT NULL DEFAULT '{}', ops jsonb NOT NULL DEFAULT '{}', fault text NOT NULL DEFAULT '', fault_until timestamptz);
"""

UNDO = "DROP TABLE simulated_host;"


class Migration(migrations.Migration):
    dependencies = [("machines", "0001_machines")]

    operations = [
        migrations.RunSQL(SQL, UNDO),
    ]
