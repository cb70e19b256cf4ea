"""What events from outside may be about, by kind and name: fleet.events asks, and knows no app above it."""

from __future__ import annotations

from django.db import migrations

VIEW = """
CREATE VIEW event_target AS
  SELECT 1::smallint AS kind, m.name, m.id, m.cluster_id FROM machine m
  UNION ALL SELECT 2::smallint, c.name::text, c.id, c.id::int FROM clusters_cluster c
"""


class Migration(migrations.Migration):
    dependencies = [("machines", "0004_safety_target_by_key")]

    operations = [migrations.RunSQL(VIEW, "DROP VIEW event_target")]
