"""One index less on faults: names are in the collation C, where the unique index finds beginnings of names too, and a storm writes each index 20,000 times."""

from __future__ import annotations

from django.db import migrations

SQL = """
DO $$
DECLARE spare text;
BEGIN
  FOR spare IN SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() AND tablename = 'recovery_fault' AND indexdef LIKE '%(name varchar_pattern_ops)' LOOP
    EXECUTE format('DROP INDEX %I', spare);
  END LOOP;
END $$;
"""
UNDO = "CREATE INDEX recovery_fault_name_like ON recovery_fault (name varchar_pattern_ops)"


class Migration(migrations.Migration):
    dependencies = [("recovery", "0002_tickets")]

    operations = [migrations.RunSQL(SQL, UNDO)]
