"""What a person saw of a cluster when an act on it was told, frozen by a hash: another cluster than that one is not changed."""

from __future__ import annotations

from django.http import QueryDict

from fleet.api import errors
from fleet.api.storage import storage_for
from fleet.control.digests import hex64
from fleet.control.kinds import Json


def seen_of(obj: Json) -> str:
    """Another hash is another cluster, wish or progress."""
    status = obj.get("status", {})
    progress = [status.get(k) for k in ("packageVersion", "componentVersions", "stopped", "emulatedVersion")]
    meta = obj["metadata"]
    return hex64([meta["uid"], meta["generation"], "deletionTimestamp" in meta, *progress])


def check_seen(live: Json, form: QueryDict) -> None:
    """409 with what it asks for now, when the form was made for what it was before."""
    if form.get("seen", "") == seen_of(live):
        return
    kind, name = storage_for("clusters").kind, live["metadata"]["name"]
    asks, stands = live["spec"].get("packageVersion"), live.get("status", {}).get("packageVersion")
    now = f"; now it asks for {asks}" + (f" and stands at {stands}" if stands else "") if asks else ""
    raise errors.conflict(kind, name, f"it has changed since you looked{now}. Look at it and ask again")
