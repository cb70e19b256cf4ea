"""Whose turn it is lies by cluster: a storm in one is not read for a fault in another."""

from __future__ import annotations

from django.db import migrations

INDEX = "CREATE INDEX fault_turn ON recovery_fault ({}severity DESC, confirmed_at, id) WHERE phase = 'Confirmed' AND NOT shadow;"
DROP = "DROP INDEX fault_turn;"


class Migration(migrations.Migration):
    dependencies = [("recovery", "0004_ended")]

    operations = [migrations.RunSQL(DROP + INDEX.format("cluster_id, "), DROP + INDEX.format(""))]
