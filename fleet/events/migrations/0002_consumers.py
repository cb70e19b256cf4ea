"""Durable cursors of those who read the event log inside Fleet, and what could not be handled."""

from django.db import migrations, models

SQL = """
CREATE TABLE event_consumer (
  name text COLLATE "C" PRIMARY KEY,
  pos bigint NOT NULL, -- everything up to here is done
  moved_at timestamptz NOT NULL DEFAULT now(),
  -- The event that is being tried: its handler failed that often in a row.
  failing_pos bigint NOT NULL DEFAULT 0, failing_n smallint NOT NULL DEFAULT 0, failures int NOT NULL DEFAULT 0,
  -- Retention went over the cursor: how often, from and to where the last time, and how many events were lost in all.
  gaps int NOT NULL DEFAULT 0, gap_from bigint, gap_to bigint, lost bigint NOT NULL DEFAULT 0,
  at_risk bigint NOT NULL DEFAULT 0 -- unread events that retention will take next, counted while they are there
);

-- What was set aside, for people to look at: events that no handler can take, and what came in and fits nowhere (consumer '').
CREATE TABLE dead_letter (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  consumer text COLLATE "C" NOT NULL,
  state smallint NOT NULL DEFAULT 0, -- 0 waits for a person, 1 is to be tried again, 2 is being tried
  reason text NOT NULL, message text NOT NULL DEFAULT '',
  attempts int NOT NULL DEFAULT 1,
  first_at timestamptz NOT NULL DEFAULT now(), last_at timestamptz NOT NULL DEFAULT now(),
  pos bigint NOT NULL DEFAULT 0, n smallint NOT NULL DEFAULT 0, -- in the log; 0 = it never came there
  at timestamptz NOT NULL DEFAULT now(),
  object_id bigint NOT NULL DEFAULT 0, cluster_id int NOT NULL DEFAULT 0, kind smallint NOT NULL DEFAULT 0, severity smallint NOT NULL DEFAULT 0,
  type text NOT NULL, source text, source_id text, subject text NOT NULL DEFAULT '', data jsonb,
  -- Who sent it and for which clusters they may speak (NULL = all): a later try has no other rights than the first.
  publisher text NOT NULL DEFAULT '', clusters text[]
);
CREATE UNIQUE INDEX dead_letter_once ON dead_letter (consumer, pos, n) WHERE pos > 0;
CREATE INDEX dead_letter_retry ON dead_letter (consumer, id) WHERE state > 0;
CREATE INDEX dead_letter_reason ON dead_letter (consumer, reason, subject);
"""

UNDO = "DROP TABLE dead_letter; DROP TABLE event_consumer;"


class Migration(migrations.Migration):
    dependencies = [("events", "0001_log")]
    operations = [
        migrations.RunSQL(
            SQL,
            UNDO,
            state_operations=[
                migrations.CreateModel(
                    name="DeadLetter",
                    fields=[
                        ("id", models.BigAutoField(primary_key=True, serialize=False)),
                        ("consumer", models.TextField()),
                        ("state", models.SmallIntegerField(default=0)),
                        ("reason", models.TextField()),
                        ("message", models.TextField(default="")),
                        ("attempts", models.IntegerField(default=1)),
                        ("first_at", models.DateTimeField()),
                        ("last_at", models.DateTimeField()),
                        ("cluster_id", models.IntegerField(default=0)),
                        ("kind", models.SmallIntegerField(default=0)),
                        ("severity", models.SmallIntegerField(default=0)),
                        ("type", models.TextField()),
                        ("source", models.TextField(null=True)),
                        ("source_id", models.TextField(null=True)),
                        ("subject", models.TextField(default="")),
                        ("data", models.JSONField(null=True)),
                        ("publisher", models.TextField(default="")),
                    ],
                    options={"db_table": "dead_letter", "managed": False},
                ),
            ],
        )
    ]
