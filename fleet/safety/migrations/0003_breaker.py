"""Breakers: what they count, how they stand, and what they let through."""

from __future__ import annotations

from pathlib import Path

from django.db import migrations

TABLES = r"""
-- One row a machine and start of a fault-driven act, or a failed change; the window of every breaker is read from here.
CREATE TABLE breaker_strike (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, machine_id bigint NOT NULL, cluster_id int NOT NULL, idc_id smallint NOT NULL, rack_id int NOT NULL,
  at timestamptz NOT NULL, failed boolean NOT NULL, why text NOT NULL DEFAULT '');
CREATE INDEX strike_at ON breaker_strike (at);
CREATE INDEX strike_machine ON breaker_strike (machine_id, at);
CREATE INDEX strike_cluster ON breaker_strike (cluster_id, at) INCLUDE (machine_id);
CREATE INDEX strike_idc ON breaker_strike (idc_id, at) INCLUDE (machine_id);
CREATE INDEX strike_rack ON breaker_strike (rack_id, at) INCLUDE (machine_id);
-- What a half-open breaker let through in its present round.
CREATE TABLE breaker_trial (dim text COLLATE "C" NOT NULL, key int NOT NULL, permit_id bigint NOT NULL, PRIMARY KEY (dim, key, permit_id));
-- last_at: the last strike, from which it cools down. counted_from: older strikes count no more. asked_by: who asked for a reset that a second person must confirm.
ALTER TABLE breaker DROP COLUMN percent, ADD COLUMN last_at timestamptz NOT NULL DEFAULT now(), ADD COLUMN counted_from timestamptz NOT NULL DEFAULT '-infinity', ADD COLUMN why text NOT NULL DEFAULT '',
  ADD COLUMN asked_by text NOT NULL DEFAULT '', ADD COLUMN asked_at timestamptz;
ALTER TABLE breaker ADD CONSTRAINT breaker_state CHECK (state IN ('closed', 'open', 'half-open'));
CREATE INDEX capacity_rack ON capacity (rack_id) WHERE in_service AND rack_id <> 0;
CREATE INDEX capacity_idc ON capacity (idc_id) WHERE in_service AND idc_id <> 0;
"""
UNDO_TABLES = """DROP INDEX capacity_idc; DROP INDEX capacity_rack; ALTER TABLE breaker DROP CONSTRAINT breaker_state, DROP COLUMN last_at, DROP COLUMN counted_from, DROP COLUMN why, DROP COLUMN asked_by, DROP COLUMN asked_at,
  ADD COLUMN percent numeric(5,2); DROP TABLE breaker_trial; DROP TABLE breaker_strike;"""
PERMITS = (
    Path(__file__).with_name("permit_batch.sql").read_text().replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
)
BREAKER = Path(__file__).with_name("breaker.sql").read_text()
UNDO_BREAKER = """DROP FUNCTION breaker_reset(text, int, text, boolean); DROP FUNCTION breaker_trip(text, int, text); DROP FUNCTION breaker_failed(bigint[], text[]); DROP FUNCTION breaker_tick();
DROP FUNCTION breaker_turn(timestamptz); DROP FUNCTION breaker_close(text, int, timestamptz, text); DROP FUNCTION breaker_half(text, int, timestamptz, text); DROP FUNCTION breaker_open(text, int, text, timestamptz);
DROP FUNCTION breaker_tell(text, int, text, int, text); DROP FUNCTION breaker_sentence(text, text, text, timestamptz, timestamptz, int, text, int); DROP FUNCTION breaker_limit(int, numeric, int, int);
DROP FUNCTION breaker_place(text, text); DROP FUNCTION breaker_code(text, int); DROP FUNCTION breakers_of(bigint[], timestamptz, boolean, int); DROP FUNCTION breaker_read(text[], int[], timestamptz, boolean, int);
DROP FUNCTION IF EXISTS breaker_pods(int); DROP FUNCTION breaker_rules();"""


class Migration(migrations.Migration):
    dependencies = [("safety", "0002_ledger_by_keys")]

    operations = [
        migrations.RunSQL(TABLES, UNDO_TABLES),
        migrations.RunSQL(BREAKER, UNDO_BREAKER),
        migrations.RunSQL(PERMITS, migrations.RunSQL.noop),
    ]
