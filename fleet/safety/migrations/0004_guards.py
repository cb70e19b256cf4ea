"""Windows, one failure domain at a time, rates, reserves, and all guards asked at once."""

from __future__ import annotations

from pathlib import Path

from django.db import migrations

TABLE = r"""
-- One row a disruptive act that was granted, for rates; renewals of the same verb are no new act.
CREATE TABLE verb_start (verb text COLLATE "C" NOT NULL, at timestamptz NOT NULL, machine_id bigint NOT NULL, cluster_id int NOT NULL, idc_id smallint NOT NULL, model_id smallint NOT NULL, rack_id int NOT NULL);
CREATE INDEX verb_start_at ON verb_start (verb, at) INCLUDE (cluster_id, idc_id, model_id, rack_id);
"""
PERMITS = (
    Path(__file__).with_name("permit_batch.sql").read_text().replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
)
GUARDS = Path(__file__).with_name("guards.sql").read_text()
UNDO = """DROP FUNCTION safety_why(bigint, text, boolean, text); DROP FUNCTION IF EXISTS safety_quorum(text); DROP FUNCTION safety_reserves(bigint[]); DROP FUNCTION safety_rates(bigint[], text[], timestamptz); DROP FUNCTION safety_domain_busy(int, text, int);
DROP FUNCTION safety_domains(bigint[]); DROP FUNCTION safety_windows(bigint[], timestamptz); DROP FUNCTION safety_window(jsonb, timestamptz, text); DROP FUNCTION safety_places(bigint[]); DROP FUNCTION safety_place_in(text, text);"""


class Migration(migrations.Migration):
    dependencies = [("safety", "0003_breaker")]

    operations = [
        migrations.RunSQL(TABLE, "DROP TABLE verb_start"),
        migrations.RunSQL(GUARDS, UNDO),
        migrations.RunSQL(PERMITS, migrations.RunSQL.noop),
    ]
