"""Continue tokens: where a list goes on. Signed, never expiring: later pages show the present."""

from __future__ import annotations

import base64
import hashlib
import hmac

import orjson

from fleet.api.errors import bad_request


def _mac(secret: str, body: bytes) -> bytes:
    return hmac.new(secret.encode(), body, hashlib.sha256).digest()[:12]


def encode(secret: str, resource_version: int, last_name: str, filters: str) -> str:
    """`filters` ties the token to the request that it continues."""
    body = orjson.dumps([resource_version, last_name, hashlib.sha256(filters.encode()).hexdigest()[:12]])
    return base64.urlsafe_b64encode(_mac(secret, body) + body).decode().rstrip("=")


def decode(secret: str, token: str, filters: str) -> tuple[int, str]:
    """(resourceVersion of page one, last name). 400 when forged or for another request."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        mac, body = raw[:12], raw[12:]
        if not hmac.compare_digest(mac, _mac(secret, body)):
            raise ValueError
        version, name, digest = orjson.loads(body)
    except (ValueError, TypeError):
        raise bad_request("continue key is not valid: it was not made by this server") from None
    if digest != hashlib.sha256(filters.encode()).hexdigest()[:12]:
        raise bad_request("continue key is not valid: it belongs to a request with other selectors")
    return int(version), str(name)
