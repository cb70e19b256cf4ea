"""Tickets for parts to be replaced: what was posted, and what is to be posted again."""

from __future__ import annotations

from django.db import migrations

SQL = """
CREATE TABLE recovery_ticket (fault_id bigint PRIMARY KEY, number text NOT NULL, tries int NOT NULL DEFAULT 0, due_at timestamptz NOT NULL, sent_at timestamptz);
CREATE INDEX fault_of_people ON recovery_fault (id) WHERE phase = 'NeedsPerson';
"""


class Migration(migrations.Migration):
    dependencies = [("recovery", "0001_recovery")]

    operations = [migrations.RunSQL(SQL, "DROP INDEX fault_of_people; DROP TABLE recovery_ticket;")]
