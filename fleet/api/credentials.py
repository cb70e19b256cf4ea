"""Secrets at rest: sealed to a public key, opened by workers only, compared by keyed digest."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from django.conf import settings
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from fleet.api.errors import unavailable
from fleet.api.kinds import CREDENTIAL_KIND
from fleet.api.models import Credential
from fleet.api.storage import Storage
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json


def fingerprint(value: str) -> str:
    """Equality without the value: HMAC-SHA256 under the installation's key, shortened."""
    return hmac.new(settings.FLEET_HMAC_KEY.encode(), value.encode(), hashlib.sha256).hexdigest()[:16]


def seal(values: Mapping[str, str]) -> bytes:
    """One sealed box per value, so that a single one can be replaced without opening the others."""
    if not settings.FLEET_PUBLIC_KEY:
        raise unavailable("this Fleet has no FLEET_PUBLIC_KEY: credentials cannot be stored", 60)
    box = SealedBox(PublicKey(base64.b64decode(settings.FLEET_PUBLIC_KEY)))
    return orjson.dumps({k: base64.b64encode(box.encrypt(v.encode())).decode() for k, v in values.items()})


class CredentialStorage(Storage):
    """Splits what was written: spec without values in the row, values in sealed boxes beside it."""

    def __init__(self) -> None:
        super().__init__(CREDENTIAL_KIND, Credential)

    def settle(self, new: Json, old: Json) -> Json:
        """A value that equals the stored one (by its keyed digest) is no change; no secret stays in an annotation."""
        from fleet.api.redact import redact

        prints = old.get("status", {}).get("fingerprints", {})
        out = copy.deepcopy(new)
        out["metadata"]["annotations"] = redact(self.kind, new)["metadata"].get("annotations", {})
        kept = dict.fromkeys(old["spec"].get("data", {}), "")
        given = out["spec"].get("data", {})
        out["spec"]["data"] = kept | {k: "" if v and prints.get(k) == fingerprint(v) else v for k, v in given.items()}
        return out

    def columns(self, obj: Json) -> Mapping[str, Any]:
        """New values are sealed; a value left out or empty keeps its box; the spec keeps the keys with empty values."""
        data = obj.get("spec", {}).get("data", {})
        name = obj["metadata"]["name"]
        known = Credential.objects.filter(name=name).first()
        boxes = orjson.loads(bytes(known.sealed)) if known is not None and known.sealed else {}
        prints = dict(known.fingerprints) if known is not None else {}
        fresh = {k: v for k, v in data.items() if v}
        boxes |= orjson.loads(seal(fresh)) if fresh else {}
        prints |= {k: fingerprint(v) for k, v in fresh.items()}
        return {
            "sealed": orjson.dumps(boxes),
            "fingerprints": prints,
            "spec": self._blank(obj, sorted(boxes))["spec"],
            "annotations": self._blank(obj, [])["metadata"].get("annotations", {}),
        }

    def _blank(self, obj: Json, keys: Sequence[str]) -> Json:
        from fleet.api.redact import redact

        out = redact(self.kind, copy.deepcopy(obj))
        if keys:
            out["spec"]["data"] = dict.fromkeys(keys, "")
        return out

    def to_json(self, row: Any) -> Json:
        out = super().to_json(row)
        if row.fingerprints:
            out["status"] = {"fingerprints": row.fingerprints}
        return out


def may_refer(credential: Json, cluster: str) -> bool:
    """Whether machines of that cluster ("" = outside every cluster) may name this credential."""
    clusters = credential["spec"].get("clusters", [])
    return "*" in clusters or (cluster in clusters if cluster else not clusters)


def open_credential(name: str, *, cluster: str, address: str) -> dict[str, str]:
    """The values, in a worker, for one connection. PermanentError with a reason when they may not go there."""
    row = Credential.objects.filter(name=name).first()
    if row is None:
        raise PermanentError("NoCredential", f"there is no Credential {name}")
    check_use(name, row.spec, cluster=cluster, address=address)
    return unseal(name, bytes(row.sealed))


def check_use(name: str, spec: Json, *, cluster: str, address: str) -> None:
    """PermanentError when the credential may not be used for machines of that cluster, or not be sent to that address."""
    if not may_refer({"spec": spec}, cluster):
        where = f"machines of cluster {cluster}" if cluster else "machines outside every cluster"
        raise PermanentError(
            "CredentialRefused", f"Credential {name} is not for {where}; its spec.clusters says for whom it is"
        )
    networks = spec.get("networks", [])
    if networks and not any(ipaddress.ip_address(address) in ipaddress.ip_network(n) for n in networks):
        raise PermanentError(
            "CredentialRefused",
            f"Credential {name} may not be sent to {address}; its spec.networks says where it may go",
        )


def unseal(name: str, sealed: bytes) -> dict[str, str]:
    """The values of a stored credential; only a worker has the key."""
    if not settings.FLEET_PRIVATE_KEY:
        raise PermanentError("NoCredential", "this process has no FLEET_PRIVATE_KEY and cannot open credentials")
    box = SealedBox(PrivateKey(base64.b64decode(settings.FLEET_PRIVATE_KEY)))
    try:
        return {k: box.decrypt(base64.b64decode(v)).decode() for k, v in orjson.loads(sealed).items()}
    except CryptoError:
        raise PermanentError(
            "NoCredential", f"Credential {name} was sealed to another key; write its data again"
        ) from None
