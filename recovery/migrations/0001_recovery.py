"""Faults, rules, playbooks, remediations; what events said of machines; which of Fleet's own objects were ever put there."""

import uuid

import django_fsm
from django.db import migrations, models

SQL = """
-- What events say of a machine, as long as it counts; conditions lie in machine_state and are read there.
CREATE TABLE recovery_evidence (machine_id bigint NOT NULL, type text COLLATE "C" NOT NULL, source text COLLATE "C" NOT NULL, status text NOT NULL, reason text NOT NULL DEFAULT '', message text NOT NULL DEFAULT '',
  since timestamptz NOT NULL DEFAULT now(), until timestamptz, count int NOT NULL DEFAULT 1, PRIMARY KEY (machine_id, type, source));
CREATE INDEX recovery_evidence_until ON recovery_evidence (until) WHERE until IS NOT NULL;
CREATE TABLE recovery_builtin (name text COLLATE "C" PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE INDEX fault_turn ON recovery_fault (severity DESC, confirmed_at, id) WHERE phase = 'Confirmed' AND NOT shadow;
-- The worst confirmed fault of a machine: it keeps a closed node closed, and leaves what it is about to recovery.
CREATE OR REPLACE VIEW machine_fault AS
SELECT DISTINCT ON (f.machine_id) f.machine_id, f.name::text COLLATE "default" AS name, f.type::text COLLATE "default" AS type, f.phase::text COLLATE "default" AS phase, coalesce(f.status ->> 'message', '') AS message,
  bool_or(f.category = 'Component' AND f.cleared_since IS NULL) OVER (PARTITION BY f.machine_id) AS mine
FROM recovery_fault f WHERE f.phase IN ('Confirmed', 'Recovering', 'NeedsPerson') AND NOT f.shadow ORDER BY f.machine_id, f.severity DESC, f.id;
"""
UNDO = """
CREATE OR REPLACE VIEW machine_fault AS SELECT NULL::bigint AS machine_id, NULL::text AS name, NULL::text AS type, NULL::text AS phase, NULL::text AS message, false AS mine WHERE false;
DROP TABLE recovery_builtin; DROP TABLE recovery_evidence;
"""


class Migration(migrations.Migration):
    initial = True

    dependencies = [("machines", "0006_faults")]

    operations = [
        migrations.CreateModel(
            name="FaultRule",
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
            name="Playbook",
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
            name="Fault",
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
                ("machine_id", models.BigIntegerField()),
                ("cluster_id", models.IntegerField(default=0)),
                ("type", models.CharField(db_collation="C", max_length=64)),
                ("category", models.CharField(db_collation="C", max_length=16)),
                ("severity", models.SmallIntegerField(default=1)),
                ("phase", django_fsm.FSMField(db_collation="C", default="Open", max_length=50, protected=True)),
                ("rule", models.CharField(db_collation="C", default="", max_length=253)),
                ("shadow", models.BooleanField(default=False)),
                ("sources", models.JSONField(default=list)),
                ("count", models.IntegerField(default=1)),
                ("first_seen", models.DateTimeField()),
                ("last_seen", models.DateTimeField()),
                ("held_since", models.DateTimeField()),
                ("cleared_since", models.DateTimeField(null=True)),
                ("confirmed_at", models.DateTimeField(null=True)),
                ("resolved_at", models.DateTimeField(null=True)),
                ("due_at", models.DateTimeField(null=True)),
                ("evidence", models.JSONField(default=list)),
                ("flips", models.JSONField(default=list)),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
                "indexes": [
                    models.Index(condition=models.Q(("due_at__isnull", False)), fields=["due_at"], name="fault_due"),
                    models.Index(fields=["machine_id", "-id"], name="fault_machine"),
                    models.Index(
                        condition=models.Q(
                            ("phase__in", ("Open", "Suspected", "Confirmed", "Recovering", "NeedsPerson"))
                        ),
                        fields=["cluster_id", "type"],
                        name="fault_live",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(
                            ("phase__in", ("Open", "Suspected", "Confirmed", "Recovering", "NeedsPerson"))
                        ),
                        fields=("machine_id", "type"),
                        name="fault_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Remediation",
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
                ("fault_id", models.BigIntegerField()),
                ("machine_id", models.BigIntegerField()),
                ("cluster_id", models.IntegerField(default=0)),
                ("serial_number", models.CharField(default="", max_length=128)),
                ("phase", django_fsm.FSMField(db_collation="C", default="Waiting", max_length=50, protected=True)),
                ("playbook", models.CharField(db_collation="C", max_length=253)),
                ("rung", models.SmallIntegerField(default=0)),
                ("operation_uid", models.UUIDField(null=True)),
                ("phase_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
                "indexes": [
                    models.Index(fields=["machine_id", "-id"], name="remediation_machine"),
                    models.Index(fields=["playbook", "-id"], name="remediation_playbook"),
                    models.Index(fields=["fault_id"], name="remediation_fault"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("ended_at__isnull", True)), fields=("machine_id",), name="remediation_once"
                    )
                ],
            },
        ),
        migrations.RunSQL(SQL, UNDO),
    ]
