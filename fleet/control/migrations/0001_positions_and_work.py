"""Positions in commit order, the work items of the loop, and this installation's identity."""

from django.db import migrations, models

SQL = """
CREATE FUNCTION fleet_pos(k int DEFAULT 1) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE n bigint := coalesce(nullif(current_setting('fleet.n', true), ''), '0')::bigint;
BEGIN
  IF n + k > 1048576 THEN RAISE 'more than 2^20 positions in one transaction'; END IF;
  PERFORM set_config('fleet.n', (n + k)::text, true);
  RETURN ((pg_current_xact_id()::text::bigint << 20) | n) + (SELECT lift FROM installation WHERE id = 1);
END $$;

CREATE TABLE installation (
  id smallint PRIMARY KEY CHECK (id = 1),
  installation uuid NOT NULL DEFAULT gen_random_uuid(),
  incarnation int NOT NULL DEFAULT 1,
  lift bigint NOT NULL DEFAULT 0,
  -- A reader that comes with a position below is told to begin anew (410): retention and a restore raise these.
  kept_from bigint NOT NULL DEFAULT 0, -- of the change log
  events_from bigint NOT NULL DEFAULT 0, -- of the event log
  created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO installation (id) VALUES (1);

CREATE FUNCTION fleet_horizon() RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint << 20) + (SELECT lift FROM installation WHERE id = 1)
$$;

UPDATE installation SET kept_from = fleet_horizon(), events_from = fleet_horizon();

CREATE TABLE work_item (
  kind smallint NOT NULL,
  object_id bigint NOT NULL,
  idc_id smallint NOT NULL DEFAULT 0,
  shard smallint NOT NULL DEFAULT 0,
  cluster_id int NOT NULL DEFAULT 0,
  attempts smallint NOT NULL DEFAULT 0,
  epoch int NOT NULL DEFAULT 0,
  holder int,
  wake boolean NOT NULL DEFAULT false,
  due_at timestamptz NOT NULL DEFAULT now(),
  resting boolean NOT NULL DEFAULT false,
  tried bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (kind, object_id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
-- Clusters are served in turn and each in order of due time: one descent a cluster. idc and shard are tested inside the index.
CREATE INDEX work_due ON work_item (kind, cluster_id, due_at, idc_id, shard);

-- Who works here. `id` is the holder in work_item; a process gets a new one each time it starts.
CREATE TABLE worker (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  idcs text[] NOT NULL DEFAULT '{}',
  started_at timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now(),
  stopping boolean NOT NULL DEFAULT false
);

-- Periodic work: the newest slot (unix time / period) that somebody took, and how far it had come. Two schedulers find one row.
CREATE TABLE slot (name text PRIMARY KEY, slot bigint NOT NULL, taken_at timestamptz NOT NULL DEFAULT now(), pos bigint NOT NULL DEFAULT 0);

-- Where the horizon stood when: retention by age of tables that are cut by position.
CREATE TABLE position_mark (at timestamptz PRIMARY KEY DEFAULT now(), pos bigint NOT NULL);
"""

UNDO = """
DROP TABLE position_mark; DROP TABLE slot; DROP TABLE worker;
DROP TABLE work_item; DROP FUNCTION fleet_horizon(); DROP FUNCTION fleet_pos(int); DROP TABLE installation;
"""


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.RunSQL(
            SQL,
            UNDO,
            state_operations=[
                migrations.CreateModel(
                    name="Installation",
                    fields=[
                        ("id", models.SmallIntegerField(primary_key=True, serialize=False)),
                        ("installation", models.UUIDField()),
                        ("incarnation", models.IntegerField()),
                        ("created_at", models.DateTimeField()),
                    ],
                    options={"db_table": "installation", "managed": False},
                ),
                migrations.CreateModel(
                    name="WorkItem",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "kind", "object_id", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("kind", models.SmallIntegerField()),
                        ("object_id", models.BigIntegerField()),
                        ("idc_id", models.SmallIntegerField(default=0)),
                        ("shard", models.SmallIntegerField(default=0)),
                        ("cluster_id", models.IntegerField(default=0)),
                        ("attempts", models.SmallIntegerField(default=0)),
                        ("epoch", models.IntegerField(default=0)),
                        ("holder", models.IntegerField(null=True)),
                        ("wake", models.BooleanField(default=False)),
                        ("due_at", models.DateTimeField()),
                        ("resting", models.BooleanField(default=False)),
                        ("tried", models.BigIntegerField(default=0)),
                    ],
                    options={"db_table": "work_item", "managed": False},
                ),
            ],
        )
    ]
