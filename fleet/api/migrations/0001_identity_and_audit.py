import uuid

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

SQL = r"""
CREATE TABLE audit (pos bigint NOT NULL, n smallint NOT NULL DEFAULT 0, at timestamptz NOT NULL DEFAULT now(), actor text NOT NULL, address text NOT NULL DEFAULT '', verb text NOT NULL,
  kind text NOT NULL, name text NOT NULL, uid uuid, cluster text NOT NULL DEFAULT '', before jsonb, after jsonb, PRIMARY KEY (pos, n));
-- The chain: one row per sealed audit row, in order; digest = sha256(previous digest || canonical row).
CREATE TABLE audit_seal (seq bigint PRIMARY KEY, pos bigint NOT NULL, n smallint NOT NULL, digest bytea NOT NULL, UNIQUE (pos, n));
CREATE FUNCTION fleet_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION fleet_audit_is_append_only();
CREATE TRIGGER audit_seal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seal FOR EACH STATEMENT EXECUTE FUNCTION fleet_audit_is_append_only();
"""

UNDO = "DROP TABLE audit_seal; DROP TABLE audit; DROP FUNCTION fleet_audit_is_append_only();"


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL(SQL, UNDO),
        migrations.CreateModel(
            name="Audit",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "pos", "n", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("pos", models.BigIntegerField()),
                ("n", models.SmallIntegerField()),
                ("at", models.DateTimeField()),
                ("actor", models.TextField()),
                ("address", models.TextField()),
                ("verb", models.TextField()),
                ("kind", models.TextField()),
                ("name", models.TextField()),
                ("uid", models.UUIDField(null=True)),
                ("cluster", models.TextField()),
                ("before", models.JSONField(null=True)),
                ("after", models.JSONField(null=True)),
            ],
            options={
                "db_table": "audit",
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="Credential",
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
                ("sealed", models.BinaryField(default=b"")),
                ("fingerprints", models.JSONField(default=dict)),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="Token",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100)),
                ("digest", models.CharField(max_length=128, unique=True)),
                ("prefix", models.CharField(max_length=12)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("expires_at", models.DateTimeField()),
                ("revoked_at", models.DateTimeField(null=True)),
                ("last_used_at", models.DateTimeField(null=True)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="fleet_tokens",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="RoleBinding",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "role",
                    models.CharField(
                        choices=[
                            ("viewer", "Viewer"),
                            ("operator", "Operator"),
                            ("approver", "Approver"),
                            ("admin", "Admin"),
                        ],
                        max_length=16,
                    ),
                ),
                ("cluster", models.CharField(blank=True, default="", max_length=253)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="role_bindings",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("user", "role", "cluster"), name="role_binding_once")],
            },
        ),
    ]
