import uuid

from django.db import migrations, models

SQL = r"""
-- `map`: the ConfigMap that a report came from, as namespace/name ('' = none); `lapsed`: too old, and Unknown until it is received anew.
ALTER TABLE report ADD COLUMN map text COLLATE "C" NOT NULL DEFAULT '', ADD COLUMN lapsed boolean NOT NULL DEFAULT false;
CREATE INDEX report_map ON report (cluster_id, map);
CREATE INDEX report_age ON report (type, received_at) WHERE NOT lapsed;
-- Condition ConfigMaps as seen last: when this resourceVersion was received first, and what is wrong with it.
CREATE TABLE condition_map (cluster_id int NOT NULL, map text COLLATE "C" NOT NULL, reporter text NOT NULL DEFAULT '', rv text NOT NULL DEFAULT '', received_at timestamptz NOT NULL DEFAULT now(), problem text NOT NULL DEFAULT '',
  PRIMARY KEY (cluster_id, map)) WITH (fillfactor = 80);
"""
UNDO = "DROP TABLE condition_map; DROP INDEX report_age; DROP INDEX report_map; ALTER TABLE report DROP COLUMN map, DROP COLUMN lapsed;"


class Migration(migrations.Migration):
    dependencies = [("machines", "0001_machines")]

    operations = [
        migrations.RunSQL(SQL, UNDO),
        migrations.CreateModel(
            name="ReadinessRule",
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
