"""Which events came in already: by source and id, whatever order and however often they come."""

from django.db import migrations

SQL = """
-- `key`: 16 bytes of a digest over source and id. Written in the statement that stores the event; kept as long as an event may be late.
CREATE TABLE event_seen (key uuid PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE INDEX event_seen_age ON event_seen (at);
"""


class Migration(migrations.Migration):
    dependencies = [("events", "0002_consumers")]
    operations = [migrations.RunSQL(SQL, "DROP TABLE event_seen")]
