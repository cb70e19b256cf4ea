import uuid

from django.db import migrations, models

SQL = r"""
CREATE SEQUENCE machine_id_seq;
CREATE TABLE machine (
  id bigint PRIMARY KEY DEFAULT nextval('machine_id_seq'), uid uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE, created_at timestamptz NOT NULL DEFAULT now(), deleted_at timestamptz,
  cluster_id int NOT NULL DEFAULT 0, name text COLLATE "C" NOT NULL UNIQUE, labels jsonb NOT NULL DEFAULT '{}', annotations jsonb NOT NULL DEFAULT '{}', finalizers jsonb NOT NULL DEFAULT '[]',
  managed_fields bytea, spec jsonb NOT NULL, idc text NOT NULL DEFAULT '', ip text NOT NULL DEFAULT '', serial_number text
) WITH (fillfactor = 90);
CREATE INDEX machine_cluster ON machine (cluster_id, name);
CREATE INDEX machine_labels ON machine USING gin (labels jsonb_path_ops);
CREATE UNIQUE INDEX machine_address ON machine (idc, ip) WHERE ip <> '';
CREATE UNIQUE INDEX machine_serial ON machine (serial_number) WHERE serial_number <> '';

-- Hot, typed, one row a machine: never widen it with prose. close_* = Continuous gates only; Unknown never closes an open node.
CREATE TABLE machine_state (
  id bigint PRIMARY KEY, rv bigint NOT NULL DEFAULT 0, desired_hash bigint NOT NULL DEFAULT 0, observed_hash bigint NOT NULL DEFAULT 0, latest_hash bigint NOT NULL DEFAULT 0,
  cond_true bigint NOT NULL DEFAULT 0, cond_false bigint NOT NULL DEFAULT 0, gate_true bigint NOT NULL DEFAULT 0, gate_false bigint NOT NULL DEFAULT 0, close_true bigint NOT NULL DEFAULT 0, close_false bigint NOT NULL DEFAULT 0,
  cond_expires timestamptz, phase_at timestamptz NOT NULL DEFAULT now(), generation int NOT NULL DEFAULT 1, observed_generation int NOT NULL DEFAULT 0,
  cluster_id int NOT NULL DEFAULT 0, rack_id int NOT NULL DEFAULT 0, seen_id int NOT NULL DEFAULT 0, idc_id smallint NOT NULL DEFAULT 0, model_id smallint NOT NULL DEFAULT 0,
  open boolean NOT NULL DEFAULT true, paused boolean NOT NULL DEFAULT false, is_node boolean NOT NULL DEFAULT false, simulated boolean NOT NULL DEFAULT false,
  phase text COLLATE "C" NOT NULL DEFAULT 'Pending', name text COLLATE "C" NOT NULL, k_cond bigint[] NOT NULL DEFAULT '{}', m_cond bigint[] NOT NULL DEFAULT '{}', x_cond bigint[] NOT NULL DEFAULT '{}', notes jsonb,
  drift smallint GENERATED ALWAYS AS ((CASE WHEN paused THEN 0 ELSE (CASE WHEN generation <> observed_generation THEN 1 ELSE 0 END) + (CASE WHEN desired_hash <> observed_hash THEN 2 ELSE 0 END) END
    + (CASE WHEN CASE WHEN open THEN (cond_false & close_true) | (cond_true & close_false) <> 0
                      ELSE (cond_true & gate_true) = gate_true AND (cond_false & gate_false) = gate_false END THEN 4 ELSE 0 END))::smallint) STORED,
  down boolean GENERATED ALWAYS AS (CASE WHEN is_node THEN NOT open OR cond_true & 1 = 0 ELSE cond_true & 2 = 0 END) STORED
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
CREATE INDEX state_drift ON machine_state (cluster_id, id) WHERE drift <> 0;
CREATE INDEX state_rare ON machine_state (phase, cluster_id, name) WHERE phase <> 'Running';
CREATE INDEX state_down ON machine_state (cluster_id, idc_id, model_id, rack_id) WHERE down;

CREATE TABLE condition_kind (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, bit smallint, type text NOT NULL, status text NOT NULL, reason text NOT NULL, message text NOT NULL DEFAULT '', UNIQUE (type, status, reason));
CREATE TABLE seen_set (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, digest bytea NOT NULL UNIQUE, body jsonb NOT NULL);
INSERT INTO seen_set (digest, body) VALUES ('\x00', '{}');
-- Small dictionaries of places: idc, rack, hardware model. 0 = none.
CREATE TABLE place (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, dim text NOT NULL, name text NOT NULL, UNIQUE (dim, name));
-- What a machine accepted: resolved packages, rendered files by content hash, units, sysctls ... as canonical JSON.
CREATE TABLE accepted_set (hash bigint PRIMARY KEY, body jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE accepted (machine_id bigint PRIMARY KEY, hash bigint NOT NULL, generation int NOT NULL, layers jsonb NOT NULL DEFAULT '{}', accepted_at timestamptz NOT NULL DEFAULT now());
-- Last observation, and the plan that it led to (cold; shown to people).
CREATE TABLE machine_fact (machine_id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), facts jsonb NOT NULL DEFAULT '{}', plan jsonb NOT NULL DEFAULT '{}', why jsonb NOT NULL DEFAULT '[]');
-- What Fleet itself installed; only this is ever removed.
CREATE TABLE inventory (machine_id bigint NOT NULL, package text NOT NULL, version text NOT NULL, format text NOT NULL, host_version text NOT NULL DEFAULT '', previous text NOT NULL DEFAULT '', installed_at timestamptz NOT NULL DEFAULT now(),
  removed_at timestamptz, PRIMARY KEY (machine_id, package));
CREATE TABLE count_delta (cluster_id int NOT NULL, phase text NOT NULL, n int NOT NULL);
CREATE TABLE count_total (cluster_id int NOT NULL, phase text NOT NULL, n bigint NOT NULL, PRIMARY KEY (cluster_id, phase));
-- One row per changed shared layer: how far its own rollout is.
CREATE TABLE layer_rollout (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, layer text NOT NULL, object_id bigint NOT NULL, from_versions jsonb NOT NULL, to_versions jsonb NOT NULL, hash text NOT NULL, canary_id bigint, canary_good_at timestamptz,
  state text NOT NULL DEFAULT 'Pending', failed_machine text NOT NULL DEFAULT '', message text NOT NULL DEFAULT '', created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), UNIQUE (layer, object_id));
-- One row a running download of a package: no more than Idc.spec.downloads of one idc at a time.
CREATE TABLE download (machine_id bigint PRIMARY KEY, idc text NOT NULL, expires_at timestamptz NOT NULL);
CREATE INDEX download_idc ON download (idc);
-- One row a Kubernetes node as the watcher saw it; without machine_id a node that nobody declared.
CREATE TABLE node (cluster_id int NOT NULL, name text COLLATE "C" NOT NULL, uid text NOT NULL DEFAULT '', machine_id bigint, provider_id text NOT NULL DEFAULT '', unschedulable boolean NOT NULL DEFAULT false, closed_by text NOT NULL DEFAULT '',
  taints jsonb NOT NULL DEFAULT '[]', labels jsonb NOT NULL DEFAULT '{}', boot_id text NOT NULL DEFAULT '', kubelet_version text NOT NULL DEFAULT '', internal_ip text NOT NULL DEFAULT '', created_at timestamptz, seen_at timestamptz NOT NULL DEFAULT now(), rv text NOT NULL DEFAULT '',
  PRIMARY KEY (cluster_id, name)) WITH (fillfactor = 80);
CREATE UNIQUE INDEX node_machine ON node (machine_id) WHERE machine_id IS NOT NULL;
-- Conditions set by declared reporters (x_cond holds them packed); age counts from our own receipt.
CREATE TABLE report (machine_id bigint NOT NULL, cluster_id int NOT NULL, type text NOT NULL, status text NOT NULL, reason text NOT NULL DEFAULT '', message text NOT NULL DEFAULT '', source text NOT NULL, received_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz,
  PRIMARY KEY (machine_id, type)) WITH (fillfactor = 80);
CREATE INDEX report_expires ON report (expires_at) WHERE expires_at IS NOT NULL;
-- What fleet.safety asks of the apps above it: names and labels for holds, places for budgets.
CREATE VIEW safety_target AS SELECT m.id AS machine_id, m.name, m.cluster_id, coalesce(c.name, '') AS cluster, m.labels, s.paused FROM machine m JOIN machine_state s ON s.id = m.id LEFT JOIN clusters_cluster c ON c.id = m.cluster_id;
CREATE VIEW safety_place AS SELECT dim, id AS key, name FROM place UNION ALL SELECT 'cluster', id::int, name FROM clusters_cluster;
"""

UNDO = "DROP VIEW safety_place; DROP VIEW safety_target; DROP TABLE download; DROP TABLE report; DROP TABLE node; DROP TABLE layer_rollout; DROP TABLE count_total; DROP TABLE count_delta; DROP TABLE inventory; DROP TABLE machine_fact; DROP TABLE accepted; DROP TABLE accepted_set; DROP TABLE place; DROP TABLE seen_set; DROP TABLE condition_kind; DROP TABLE machine_state; DROP TABLE machine; DROP SEQUENCE machine_id_seq;"


class Migration(migrations.Migration):
    initial = True

    dependencies = [("fleet_api", "0001_identity_and_audit"), ("safety", "0001_ledger"), ("clusters", "0001_clusters")]

    operations = [
        migrations.RunSQL(SQL, UNDO),
        migrations.CreateModel(
            name="Machine",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("uid", models.UUIDField()),
                ("name", models.TextField()),
                ("cluster_id", models.IntegerField()),
                ("labels", models.JSONField()),
                ("annotations", models.JSONField()),
                ("finalizers", models.JSONField()),
                ("spec", models.JSONField()),
                ("created_at", models.DateTimeField()),
                ("deleted_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "machine",
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="MachineState",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("rv", models.BigIntegerField()),
                ("cluster_id", models.IntegerField()),
                ("name", models.TextField()),
                ("phase", models.TextField()),
                ("phase_at", models.DateTimeField()),
                ("generation", models.IntegerField()),
                ("observed_generation", models.IntegerField()),
                ("desired_hash", models.BigIntegerField()),
                ("observed_hash", models.BigIntegerField()),
                ("latest_hash", models.BigIntegerField()),
                ("cond_true", models.BigIntegerField()),
                ("cond_false", models.BigIntegerField()),
                ("paused", models.BooleanField()),
                ("drift", models.SmallIntegerField()),
                ("down", models.BooleanField()),
            ],
            options={
                "db_table": "machine_state",
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="MachineClass",
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
            name="MachineConfigVersion",
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
                ("config_name", models.CharField(max_length=128)),
                ("version", models.CharField(max_length=128)),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
                "constraints": [models.UniqueConstraint(fields=("config_name", "version"), name="config_version_once")],
            },
        ),
        migrations.CreateModel(
            name="MachinePackageVersion",
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
                ("package_name", models.CharField(max_length=128)),
                ("version", models.CharField(max_length=128)),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
                "constraints": [
                    models.UniqueConstraint(fields=("package_name", "version"), name="package_version_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="Operation",
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
                ("machine_uid", models.UUIDField()),
                ("cluster_id", models.IntegerField(default=0)),
                (
                    "owner_class",
                    models.SmallIntegerField(choices=[(0, "Drift"), (1, "Rollout"), (2, "Remediation"), (3, "Person")]),
                ),
                ("phase", models.CharField(db_collation="C", default="Pending", max_length=16)),
                ("started_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                ("permit_id", models.BigIntegerField(null=True)),
                ("epoch", models.IntegerField(default=0)),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
                "indexes": [
                    models.Index(fields=["machine_id", "-id"], name="operation_machine"),
                    models.Index(
                        fields=["machine_id"], condition=models.Q(("ended_at__isnull", True)), name="operation_open"
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("ended_at__isnull", True), ("started_at__isnull", False)),
                        fields=("machine_id",),
                        name="operation_started_once",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("ended_at__isnull", True), ("started_at__isnull", True)),
                        fields=("machine_id", "owner_class"),
                        name="operation_pending_once",
                    ),
                ],
            },
        ),
    ]
