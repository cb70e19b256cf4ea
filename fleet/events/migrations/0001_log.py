"""Change log, event log and tombstones, partitioned by position."""

from django.db import migrations, models

SQL = """
CREATE TABLE change (
  rv bigint NOT NULL, object_id bigint NOT NULL, cluster_id int NOT NULL DEFAULT 0, kind smallint NOT NULL, op smallint NOT NULL, old jsonb,
  PRIMARY KEY (rv, object_id)
) PARTITION BY RANGE (rv);

CREATE TABLE event (
  pos bigint NOT NULL, n smallint NOT NULL DEFAULT 0, at timestamptz NOT NULL DEFAULT now(), object_id bigint NOT NULL, cluster_id int NOT NULL DEFAULT 0,
  kind smallint NOT NULL, severity smallint NOT NULL DEFAULT 0, type text NOT NULL, source text, source_id text, data jsonb,
  PRIMARY KEY (pos, n)
) PARTITION BY RANGE (pos);
CREATE INDEX event_object ON event (kind, object_id, pos);

CREATE TABLE tombstone (rv bigint PRIMARY KEY, kind smallint NOT NULL, name text COLLATE "C" NOT NULL, object jsonb NOT NULL);
CREATE INDEX tombstone_name ON tombstone (kind, name, rv);

-- Partitions ahead of the present position: `span` positions each, `ahead` of them. Attaching takes no exclusive lock on the parent.
CREATE FUNCTION fleet_partitions(parent text, span bigint, ahead int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE now_at bigint := fleet_horizon() / span; made int := 0; low bigint; part text;
BEGIN
  FOR i IN 0 .. ahead LOOP
    low := (now_at + i) * span; part := parent || '_' || (now_at + i);
    IF to_regclass(part) IS NULL THEN
      EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
      EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', parent, part, low, low + span);
      made := made + 1;
    END IF;
  END LOOP;
  RETURN made;
END $$;
SELECT fleet_partitions('change', (1::bigint << 38), 32), fleet_partitions('event', (1::bigint << 42), 32);
"""

UNDO = "DROP FUNCTION fleet_partitions(text, bigint, int); DROP TABLE tombstone; DROP TABLE event; DROP TABLE change;"


class Migration(migrations.Migration):
    initial = True
    dependencies = [("control", "0001_positions_and_work")]
    operations = [
        migrations.RunSQL(
            SQL,
            UNDO,
            state_operations=[
                migrations.CreateModel(
                    name="Change",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "rv", "object_id", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("rv", models.BigIntegerField()),
                        ("object_id", models.BigIntegerField()),
                        ("cluster_id", models.IntegerField()),
                        ("kind", models.SmallIntegerField()),
                        ("op", models.SmallIntegerField()),
                        ("old", models.JSONField(null=True)),
                    ],
                    options={"db_table": "change", "managed": False},
                ),
                migrations.CreateModel(
                    name="Event",
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
                        ("object_id", models.BigIntegerField()),
                        ("cluster_id", models.IntegerField()),
                        ("kind", models.SmallIntegerField()),
                        ("severity", models.SmallIntegerField()),
                        ("type", models.TextField()),
                        ("source", models.TextField(null=True)),
                        ("source_id", models.TextField(null=True)),
                        ("data", models.JSONField(null=True)),
                    ],
                    options={"db_table": "event", "managed": False},
                ),
            ],
        )
    ]
