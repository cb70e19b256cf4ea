"""One verb on many machines: the batch, and its frozen list."""

from __future__ import annotations

import uuid

from django.db import migrations, models

SQL = """
-- The list of a batch, as it was when it was asked for. state: 0 waits, 1 open, 2 done, 3 failed, 4 skipped.
CREATE TABLE operation_batch_target (batch_id bigint NOT NULL, machine_id bigint NOT NULL, cluster_id int NOT NULL, name text COLLATE "C" NOT NULL, state smallint NOT NULL DEFAULT 0,
  operation_id bigint, said text NOT NULL DEFAULT '', due_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (batch_id, machine_id));
CREATE INDEX operation_batch_waiting ON operation_batch_target (batch_id, cluster_id, due_at, machine_id) WHERE state = 0;
CREATE INDEX operation_batch_open ON operation_batch_target (batch_id, cluster_id) WHERE state = 1;
-- How many machines somebody deleted lately.
CREATE INDEX audit_machine_deletes ON audit (actor, at) WHERE verb = 'delete' AND kind = 'Machine';
CREATE INDEX operation_batch_live ON machines_operationbatch (id) WHERE NOT status ? 'endTime';
"""


class Migration(migrations.Migration):
    dependencies = [("machines", "0007_bmc"), ("fleet_api", "0001_identity_and_audit")]

    operations = [
        migrations.CreateModel(
            name="OperationBatch",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("uid", models.UUIDField(default=uuid.uuid4, unique=True)),
                ("name", models.CharField(db_collation="C", max_length=253, unique=True)),
                ("rv", models.BigIntegerField(default=0)),
                ("generation", models.IntegerField(default=1)),
                ("labels", models.JSONField(default=dict)),
                ("annotations", models.JSONField(default=dict)),
                ("finalizers", models.JSONField(default=list)),
                ("managed_fields", models.JSONField(default=list)),
                ("spec", models.JSONField(default=dict)),
                ("status", models.JSONField(default=dict)),
                ("created_at", models.DateTimeField()),
                ("deleted_at", models.DateTimeField(null=True)),
                ("cluster_id", models.IntegerField(default=0)),
            ],
            options={"ordering": ["name"], "abstract": False},
        ),
        migrations.RunSQL(SQL, "DROP TABLE operation_batch_target; DROP INDEX audit_machine_deletes;"),
    ]
