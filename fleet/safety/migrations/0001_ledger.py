import uuid
from pathlib import Path

from django.db import migrations, models

SQL = r"""
-- One row: the lock of all grants and the kill switch.
CREATE TABLE ledger (id smallint PRIMARY KEY CHECK (id = 1), stopped boolean NOT NULL DEFAULT false, stopped_by text, stopped_why text, stopped_at timestamptz);
INSERT INTO ledger (id) VALUES (1);
-- fleet.safety's own view of machines, one row each, written by `machines` in its record statement.
CREATE TABLE capacity (machine_id bigint PRIMARY KEY, cluster_id int NOT NULL DEFAULT 0, idc_id smallint NOT NULL DEFAULT 0, model_id smallint NOT NULL DEFAULT 0,
  rack_id int NOT NULL DEFAULT 0, in_service boolean NOT NULL DEFAULT false, down boolean NOT NULL DEFAULT true) WITH (fillfactor = 80);
CREATE INDEX capacity_down ON capacity (cluster_id, idc_id, model_id, rack_id) INCLUDE (machine_id) WHERE in_service AND down;
CREATE INDEX capacity_service ON capacity (cluster_id) WHERE in_service;
CREATE TABLE capacity_total (cluster_id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
-- cost: what it took from the budget when granted; draws: its verb takes capacity away, so that the machine counts as unavailable until release.
CREATE TABLE permit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, rv bigint NOT NULL DEFAULT 0, uid uuid NOT NULL DEFAULT gen_random_uuid(), machine_id bigint NOT NULL, verb text NOT NULL,
  unplanned boolean NOT NULL, cost smallint NOT NULL, draws boolean NOT NULL, cluster_id int NOT NULL, idc_id smallint NOT NULL, model_id smallint NOT NULL, rack_id int NOT NULL, owner text NOT NULL,
  granted_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz NOT NULL, released_at timestamptz);
CREATE UNIQUE INDEX permit_open ON permit (machine_id) INCLUDE (cost, cluster_id, idc_id, model_id, rack_id) WHERE released_at IS NULL;
CREATE INDEX permit_name ON permit ((('permit-' || id) COLLATE "C"));
CREATE INDEX permit_window ON permit (granted_at) INCLUDE (machine_id, cluster_id) WHERE unplanned;
CREATE TABLE refusal (machine_id bigint PRIMARY KEY, cluster_id int NOT NULL DEFAULT 0, verb text NOT NULL, owner text NOT NULL, reason text NOT NULL, message text NOT NULL, since timestamptz NOT NULL DEFAULT now());
CREATE TABLE breaker (dim text COLLATE "C" NOT NULL, key int NOT NULL, state text NOT NULL DEFAULT 'closed', allow int NOT NULL DEFAULT 0, percent numeric(5,2), since timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (dim, key));
"""

UNDO = "DROP TABLE breaker; DROP TABLE refusal; DROP TABLE permit; DROP TABLE capacity_total; DROP TABLE capacity; DROP TABLE ledger;"
FUNCTIONS = Path(__file__).with_name("permit_batch.sql").read_text()
UNDO_FUNCTIONS = """DROP FUNCTION permit_batch(text, boolean, text, interval, bigint[]); DROP FUNCTION permit_each(bigint[], text[], boolean[], text[], int[]); DROP FUNCTION safety_limits(bigint[]);
DROP FUNCTION safety_usage(text, int[]); DROP FUNCTION safety_held(bigint[]); DROP FUNCTION safety_matches(jsonb, text, text, jsonb); DROP FUNCTION safety_budgets(); DROP FUNCTION safety_scopes(); DROP FUNCTION safety_class(text);
DROP FUNCTION safety_sentence(text, text, int, int, int, boolean, text);"""


class Migration(migrations.Migration):
    initial = True

    dependencies = [("events", "0001_log")]

    operations = [
        migrations.RunSQL(SQL, UNDO),
        migrations.RunSQL(FUNCTIONS, UNDO_FUNCTIONS),
        migrations.CreateModel(
            name="Permit",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("rv", models.BigIntegerField(default=0)),
                ("uid", models.UUIDField()),
                ("machine_id", models.BigIntegerField()),
                ("verb", models.TextField()),
                ("unplanned", models.BooleanField()),
                ("cost", models.SmallIntegerField()),
                ("draws", models.BooleanField()),
                ("cluster_id", models.IntegerField()),
                ("idc_id", models.SmallIntegerField()),
                ("model_id", models.SmallIntegerField()),
                ("rack_id", models.IntegerField()),
                ("owner", models.TextField()),
                ("granted_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField()),
                ("released_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "permit",
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="Hold",
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
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="SafetyPolicy",
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
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
            },
        ),
    ]
