import uuid

import django_fsm
from django.db import migrations, models

SQL = r"""
-- Keys and certificates of control planes by the plane's uid: they outlive the object for the time of undo. `sealed` to the workers' key.
CREATE TABLE cluster_secret (cluster_uid uuid NOT NULL, name text COLLATE "C" NOT NULL, public text NOT NULL DEFAULT '', sealed bytea, not_after timestamptz, PRIMARY KEY (cluster_uid, name));
-- How workers and watchers reach the API server of a cluster; `sealed` holds token or client key.
CREATE TABLE cluster_access (cluster_id int PRIMARY KEY, server text NOT NULL, ca text NOT NULL DEFAULT '', server_name text NOT NULL DEFAULT '', sealed bytea, updated_at timestamptz NOT NULL DEFAULT now());
-- A watcher's lease on a cluster, and how fresh the view is that it keeps.
CREATE TABLE shard (cluster_id int PRIMARY KEY, holder int, epoch int NOT NULL DEFAULT 0, lease_until timestamptz, fresh_at timestamptz, version text NOT NULL DEFAULT '', state text NOT NULL DEFAULT '', message text NOT NULL DEFAULT '');
CREATE TABLE cluster_snapshot (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, cluster_uid uuid NOT NULL, name text COLLATE "C" NOT NULL, taken_at timestamptz NOT NULL DEFAULT now(), why text NOT NULL, path text NOT NULL, size bigint NOT NULL, sha256 text NOT NULL,
  revision bigint NOT NULL DEFAULT 0, package_version text NOT NULL DEFAULT '', UNIQUE (cluster_uid, name));
-- A deleted cluster's data and PKI stay until `purge_at`; undo = a new Cluster with restoreFrom.
CREATE TABLE deleted_cluster (uid uuid PRIMARY KEY, name text NOT NULL, spec jsonb NOT NULL, status jsonb NOT NULL, deleted_at timestamptz NOT NULL DEFAULT now(), purge_at timestamptz NOT NULL);
"""
UNDO = "DROP TABLE deleted_cluster; DROP TABLE cluster_snapshot; DROP TABLE shard; DROP TABLE cluster_access; DROP TABLE cluster_secret;"


class Migration(migrations.Migration):
    initial = True

    dependencies = [("fleet_api", "0001_identity_and_audit")]

    operations = [
        migrations.RunSQL(SQL, UNDO),
        migrations.CreateModel(
            name="Cluster",
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
                ("phase", django_fsm.FSMField(default="Pending", max_length=50, protected=True)),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="ClusterPackageVersion",
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
                ("kubernetes_version", models.CharField(max_length=32)),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="Idc",
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
        # Set-based writers name no phase: a new cluster is Pending.
        migrations.RunSQL(
            "ALTER TABLE clusters_cluster ALTER COLUMN phase SET DEFAULT 'Pending'",
            "ALTER TABLE clusters_cluster ALTER COLUMN phase DROP DEFAULT",
        ),
    ]
