"""Notices to people; and the ledger's functions as they are now."""

from __future__ import annotations

from pathlib import Path

from django.db import migrations

TABLES = r"""
CREATE TABLE notice (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, said text COLLATE "C" NOT NULL UNIQUE, reason text NOT NULL, severity smallint NOT NULL, subject text NOT NULL, message text NOT NULL, cluster text NOT NULL DEFAULT '',
  since timestamptz NOT NULL DEFAULT now(), cleared_at timestamptz, acked_by text NOT NULL DEFAULT '', acked_at timestamptz);
-- What a channel was told of it last.
CREATE TABLE notice_told (notice_id bigint NOT NULL REFERENCES notice ON DELETE CASCADE, channel text NOT NULL, at timestamptz NOT NULL, message text NOT NULL, over boolean NOT NULL, PRIMARY KEY (notice_id, channel));
"""
HERE = Path(__file__).parent
NOTICES = (HERE / "notices.sql").read_text()
NEWEST = "".join((HERE / name).read_text() for name in ("breaker.sql", "guards.sql", "permit_batch.sql"))


class Migration(migrations.Migration):
    dependencies = [("safety", "0005_permitrequest")]

    operations = [
        migrations.RunSQL(TABLES, "DROP TABLE notice_told; DROP TABLE notice"),
        migrations.RunSQL(NOTICES, "DROP FUNCTION notice_turn(); DROP FUNCTION notice_now()"),
        migrations.RunSQL(NEWEST.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"), migrations.RunSQL.noop),
    ]
