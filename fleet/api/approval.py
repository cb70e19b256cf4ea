"""Two persons for what has root everywhere or reaches many machines: it counts once another person approved its hash."""

from __future__ import annotations

from typing import Final

from django.conf import settings

from fleet.api import errors
from fleet.api.rights import Actor
from fleet.control.digests import hex64
from fleet.control.kinds import Json, Kind

APPROVE: Final = "fleet.dev/approve"


def hash_of(spec: Json) -> str:
    """What an approver names; a version never changes, so neither does it."""
    return hex64(spec)


def authored(obj: Json, by: Actor) -> Json:
    """Status of a new version: its hash and who wrote it. A word brought along by the author counts for nothing."""
    obj["metadata"].get("annotations", {}).pop(APPROVE, None)
    return {"hash": hash_of(obj["spec"]), "author": by.name}


def approve(kind: Kind, new: Json, old: Json, by: Actor, wanted: str) -> None:
    """Take an approver's word: it must name the hash that is `wanted` and come from somebody else than the author. The word is used up."""
    annotations = new["metadata"].get("annotations", {})
    word = annotations.get(APPROVE)
    if word is None or word == old["metadata"].get("annotations", {}).get(APPROVE):
        return
    name, status = new["metadata"]["name"], old.get("status", {})
    if word != wanted:
        raise errors.conflict(kind, name, f"{APPROVE}={word} does not name its hash, {wanted}")
    if by.name == status.get("author"):
        raise errors.forbidden(by.name, "update", kind, name, "its author cannot approve it; another person must")
    new["metadata"]["annotations"] = {k: v for k, v in annotations.items() if k != APPROVE}
    new["status"] = {**status, "approvedBy": by.name}


def usable(status: Json) -> bool:
    """Whether machines may take the version."""
    return not settings.FLEET_REQUIRE_APPROVAL or bool(status.get("approvedBy"))
