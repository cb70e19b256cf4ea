from django.db import migrations

SQL = r"""
-- A simulated box: what a real host keeps on its own disk. Not part of Fleet's truth: Fleet reads it only through the Hosts port.
-- host and ops hold differences from the bare host that `seed` gives; settled_at: everything that happened up to then is in the row.
CREATE TABLE simulated_host (uid uuid PRIMARY KEY, seed bigint NOT NULL, boots int NOT NULL DEFAULT 0, boot_until timestamptz NOT NULL DEFAULT '-infinity', settled_at timestamptz NOT NULL DEFAULT now(),
  incarnation int NOT NULL DEFAULT 0, epoch int NOT NULL DEFAULT -1, marker text NOT NULL DEFAULT '', host jsonb NOT NULL DEFAULT '{}', ops jsonb NOT NULL DEFAULT '{}', faults jsonb NOT NULL DEFAULT '{}');
-- Mishaps a machine and hour that befall by themselves; no row = none.
CREATE TABLE simulated_weather (id smallint PRIMARY KEY CHECK (id = 1), rate double precision NOT NULL, since timestamptz NOT NULL DEFAULT now());
"""

UNDO = "DROP TABLE simulated_weather; DROP TABLE simulated_host;"


class Migration(migrations.Migration):
    dependencies = [("machines", "0001_machines")]

    operations = [
        migrations.RunSQL(SQL, UNDO),
    ]
