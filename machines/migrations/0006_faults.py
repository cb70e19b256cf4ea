"""What the app above tells of faults, and evidence that steps collected."""

from __future__ import annotations

from django.db import migrations

SQL = """
-- The worst confirmed fault of a machine. Empty until the app that knows faults puts its own view in its place.
CREATE VIEW machine_fault AS SELECT NULL::bigint AS machine_id, NULL::text AS name, NULL::text AS type, NULL::text AS phase, NULL::text AS message, false AS mine WHERE false;
-- What a step collected on a host before anything was changed there. Kept with the Operation's history.
CREATE TABLE machine_evidence (operation_uid uuid NOT NULL, step text COLLATE "C" NOT NULL, machine_id bigint NOT NULL, at timestamptz NOT NULL DEFAULT now(), content text NOT NULL, PRIMARY KEY (operation_uid, step));
CREATE INDEX machine_evidence_at ON machine_evidence (at);
"""


class Migration(migrations.Migration):
    dependencies = [("machines", "0005_event_target")]

    operations = [migrations.RunSQL(SQL, "DROP TABLE machine_evidence; DROP VIEW machine_fault;")]
