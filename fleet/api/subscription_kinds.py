"""Storage of Subscription, whose secret is sealed, and its operator: the deliverer of `fleet.events` with the worker's keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from fleet.api.credentials import fingerprint, seal, unseal
from fleet.api.redact import redact
from fleet.api.storage import Storage, Stored, register_storage
from fleet.control import clock, work
from fleet.control.errors import PermanentError
from fleet.control.kinds import SUBSCRIPTION, Json, register
from fleet.control.networks import allowed_networks
from fleet.control.operators import Operator, Seat, register_operator
from fleet.control.threads import in_thread
from fleet.control.work import Claim
from fleet.events import subscriptions
from fleet.events.models import Subscription
from fleet.events.publish import Cursor
from fleet.events.schema import SUBSCRIPTION_KIND, secret_bytes
from fleet.events.subscriptions import Subscriber, consumer_of
from fleet.events.webhooks import Poster

_SECRET: Final = "secret"
_BATCH: Final = 50
# It begins with what happens after it was made; the horizon lies below this very transaction.
_BEGIN: Final = "INSERT INTO event_consumer (name, pos) SELECT %s, fleet_horizon() - 1 ON CONFLICT (name) DO NOTHING"


class SubscriptionStorage(Storage):
    """The secret lies in a sealed box beside the spec, which holds the empty text in its place."""

    def __init__(self) -> None:
        super().__init__(SUBSCRIPTION_KIND, Subscription)

    def settle(self, new: Json, old: Json) -> Json:
        """A secret that is left out stays, one that equals the stored one is no change; none stays in an annotation."""
        out = copy.deepcopy(new)
        out["metadata"]["annotations"] = redact(self.kind, new)["metadata"].get("annotations", {})
        given = out["spec"].get(_SECRET, "")
        if not given or fingerprint(given) == old.get("status", {}).get("secretFingerprint"):
            out["spec"][_SECRET] = ""
        return out

    def columns(self, obj: Json) -> Mapping[str, Any]:
        """A new secret is sealed; without one the box stays."""
        given = obj.get("spec", {}).get(_SECRET, "")
        blank = redact(self.kind, obj)
        status = {k: v for k, v in obj.get("status", {}).items() if k != "secretFingerprint"}
        out = {
            "spec": {**blank["spec"], _SECRET: ""}, "status": status, "annotations": blank["metadata"].get("annotations", {}),
        }  # fmt: skip
        return out | {"sealed": seal({_SECRET: given}), "fingerprint": fingerprint(given)} if given else out

    def to_json(self, row: Any) -> Json:
        """With the digest of the secret."""
        out = super().to_json(row)
        if row.fingerprint:
            out["status"] = {"secretFingerprint": row.fingerprint, **row.status}
        return out

    def after_write(self, cursor: Cursor, stored: Stored, old: Stored | None) -> None:
        """A new one gets its cursor and its work item."""
        if old is None:
            cursor.execute(_BEGIN, [consumer_of(stored.obj["metadata"]["name"])])
            work.ensure(cursor, SUBSCRIPTION, stored.id, cluster_id=stored.cluster_id, shard=stored.id % work.SHARDS)

    def after_remove(self, cursor: Cursor, stored: Stored) -> None:
        """Its cursor and what was set aside for it go along."""
        name = consumer_of(stored.obj["metadata"]["name"])
        cursor.execute("DELETE FROM event_consumer WHERE name = %s", [name])
        cursor.execute("DELETE FROM dead_letter WHERE consumer = %s", [name])
        work.forget(cursor, SUBSCRIPTION, stored.id)

    def after_commit(self, stored: Stored) -> None:
        """An edit is taken up at once."""
        work.wake(SUBSCRIPTION, [stored.id])


_storage = SubscriptionStorage()


def _key_of(subscriber: Subscriber) -> bytes:
    """The key of the signatures; a worker has what opens it."""
    key = secret_bytes(unseal(subscriber.name, subscriber.sealed).get(_SECRET, "")) if subscriber.sealed else None
    if key is None:
        raise PermanentError("NoSecret", f"Subscription {subscriber.name} has no secret; write its spec.secret again")
    return key


async def reconcile_subscriptions(seat: Seat, claims: list[Claim]) -> None:
    """One pass: tell, write down, and say when each comes again."""
    poster = seat.kept.get("webhooks")
    if poster is None:
        poster = seat.kept["webhooks"] = Poster(allowed_networks(), clock.unix)
    statuses, ends = await subscriptions.reconcile(seat.conn, claims, poster, _key_of, seat.stopping)
    if statuses:
        await in_thread(lambda: _storage.write_status(statuses))
    await work.settle(seat.conn, SUBSCRIPTION, seat.me, ends)


def register_subscriptions() -> None:
    """Called when the models are loaded."""
    register(SUBSCRIPTION_KIND)
    register_storage(_storage)
    register_operator(Operator(SUBSCRIPTION, reconcile_subscriptions, sweep=subscriptions.sweep, batch=_BATCH))
