"""Permits that are asked for from outside, by names of their own."""

from __future__ import annotations

import uuid

from django.db import migrations, models

# One kind, one space of ids: watches find both kinds of rows by the id in the log.
IDS = """
ALTER TABLE safety_permitrequest ALTER COLUMN id DROP IDENTITY;
ALTER TABLE safety_permitrequest ALTER COLUMN id SET DEFAULT nextval(pg_get_serial_sequence('permit', 'id')::regclass);
CREATE INDEX permitrequest_open ON safety_permitrequest (id) WHERE status ->> 'phase' IN ('Pending', 'Granted', 'Expired');
"""


class Migration(migrations.Migration):
    dependencies = [("safety", "0004_guards")]

    operations = [
        migrations.CreateModel(
            name="PermitRequest",
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
                ("permit_id", models.BigIntegerField(null=True)),
            ],
            options={"ordering": ["name"], "abstract": False},
        ),
        migrations.RunSQL(IDS, migrations.RunSQL.noop),
    ]
