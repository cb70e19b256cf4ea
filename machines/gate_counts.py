"""`status.gates` of clusters: how many machines each gate holds and releases. Counted by set, and only where something was decided since."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any, Final

from django.db import connection

from clusters.status import Part, write_parts
from fleet.api.storage import storage_for
from fleet.control.kinds import Json

REFRESH_SECONDS: Final = 5.0
MOST_GATES: Final = 100  # of one cluster: gates of single machines are no sum
ANEW: Final = 12  # counts after which everything is counted once, whatever moved: machines also go
# The newest decision of each cluster, by the index.
_MOVED: Final = "SELECT c.id::int, (SELECT max(s.updated_at) FROM scheduling s WHERE s.cluster_id = c.id) FROM clusters_cluster c ORDER BY 1"
# A gate holds a machine while it says no, releases it while it says yes; nobody's word is neither.
_COUNTED: Final = """
SELECT s.cluster_id, g ->> 'conditionType', g ->> 'polarity', g ->> 'mode', g ->> 'source', (g -> 'dryRun') IS NOT NULL,
  count(*) FILTER (WHERE g ->> 'status' = 'True'), count(*) FILTER (WHERE g ->> 'status' = 'False'), count(*) FILTER (WHERE g ->> 'status' = 'Unknown')
FROM scheduling s, LATERAL jsonb_array_elements(s.gates) g WHERE s.cluster_id = ANY (%s) AND s.state <> 'NotANode' AND g ->> 'source' <> 'Machine'
GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 5, 2
"""
_STATES: Final = "SELECT cluster_id, state, count(*) FROM scheduling WHERE cluster_id = ANY (%s) GROUP BY 1, 2"
_seen: dict[int, datetime | None] = {}
_since_anew = 0


def count_gates() -> int:
    """Write what moved since the last count of this process; how many clusters changed."""
    global _since_anew
    _since_anew += 1
    if _since_anew >= ANEW:
        _since_anew = 0
        _seen.clear()
    with connection.cursor() as cursor:
        cursor.execute(_MOVED)
        now: dict[int, datetime | None] = dict(cursor.fetchall())
        moved = [cluster for cluster, mark in now.items() if mark is not None and _seen.get(cluster) != mark]
        if not moved:
            return 0
        cursor.execute(_COUNTED, [moved])
        gates: defaultdict[int, list[Json]] = defaultdict(list)
        for cluster, *values in cursor.fetchall():
            gates[int(cluster)].append(_gate(*values))
        cursor.execute(_STATES, [moved])
        states: defaultdict[int, dict[str, int]] = defaultdict(dict)
        for cluster, state, n in cursor.fetchall():
            states[int(cluster)][state] = int(n)
    parts = {c: Part({"gates": gates[c][:MOST_GATES] or None, "scheduling": states[c] or None}) for c in moved}
    changed = write_parts(storage_for("clusters"), parts)
    _seen.clear()
    _seen.update(now)
    return len(changed)


def _gate(
    type_: str, polarity: str, mode: str, source: str, dry_run: bool, released: int, held: int, unknown: int
) -> Json:
    out: dict[str, Any] = {"conditionType": type_, "polarity": polarity, "mode": mode, "source": source}
    return out | {"held": held, "released": released, "unknown": unknown} | ({"dryRun": True} if dry_run else {})
