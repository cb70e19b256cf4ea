"""What a hold may mean, for lookups by id. With a join of the cluster the planner may read all machines for each one while it calls the table empty."""

from __future__ import annotations

from django.db import migrations

VIEW = """
CREATE VIEW safety_target_by_key AS SELECT m.id AS machine_id, m.name, m.cluster_id,
  coalesce((SELECT c.name FROM clusters_cluster c WHERE c.id = m.cluster_id), '') AS cluster, m.labels, s.paused
FROM machine m JOIN machine_state s ON s.id = m.id
"""


class Migration(migrations.Migration):
    dependencies = [("machines", "0003_scheduling")]

    operations = [migrations.RunSQL(VIEW, "DROP VIEW safety_target_by_key")]
