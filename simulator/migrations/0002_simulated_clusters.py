from django.db import migrations

SQL = r"""
-- Where the simulated API server of a Cluster listens; written by the process that serves it, which takes the same port again.
CREATE TABLE simulated_cluster (uid uuid PRIMARY KEY, url text NOT NULL, since timestamptz NOT NULL DEFAULT now());
"""

UNDO = "DROP TABLE simulated_cluster;"


class Migration(migrations.Migration):
    dependencies = [("simulator", "0001_simulated_hosts")]

    operations = [
        migrations.RunSQL(SQL, UNDO),
    ]
