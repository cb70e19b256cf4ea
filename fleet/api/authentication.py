"""Bearer tokens (only their digest is kept; they expire and can be revoked) and sessions, turned into an Actor."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user, get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db import InterfaceError, OperationalError, close_old_connections
from django.http import HttpRequest
from django.middleware.csrf import CsrfViewMiddleware
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from fleet.api import full
from fleet.api.errors import ApiError, unauthorized
from fleet.api.models import RoleBinding, Token
from fleet.api.rights import Actor
from fleet.api.throttle import Throttle

log = logging.getLogger("fleet.api")
PREFIX = "fleet_"
REMEMBER_SECONDS = 5.0  # a revoked token or role is dead after at most this long
_remembered: dict[str, tuple[float, Actor]] = {}
_lock = threading.Lock()
requests = Throttle(settings.FLEET_REQUESTS_PER_SECOND)  # by user: bearer tokens are what programs come with
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def _digest(token: str) -> str:
    return hashlib.sha512(token.encode()).hexdigest()


def create_token(user: AbstractBaseUser, name: str, *, days: float = 30) -> str:
    """A new token of that user; the text is shown this once and never again."""
    text = PREFIX + secrets.token_urlsafe(32)
    expires = timezone.now() + timedelta(days=days)
    Token.objects.create(user_id=user.pk, name=name[:100], digest=_digest(text), prefix=text[:12], expires_at=expires)
    return text


def token_is_good(text: str) -> bool:
    """Whether the token opens anything now."""
    return _token_actor(text, "") is not None


def _token_actor(text: str, address: str) -> Actor | None:
    token = (
        Token.objects.select_related("user")
        .filter(digest=_digest(text), revoked_at=None, expires_at__gt=timezone.now(), user__is_active=True)
        .first()
    )
    if token is None:
        return None
    try:
        Token.objects.filter(pk=token.pk).update(last_used_at=timezone.now())
    except OperationalError as error:
        if not full.is_full(error):
            raise
        log.warning("the use of a token is not noted: the database has no room")  # reading goes on
    return actor_of(token.user, address)


def actor_of(user: Any, address: str) -> Actor:
    """The Actor of a user as the database knows it now."""
    bindings = tuple(
        RoleBinding.objects.filter(user_id=user.pk).order_by("role", "cluster").values_list("role", "cluster")
    )
    return Actor(user.get_username(), user.pk, bindings, address)


def forget(user_id: int | None = None) -> None:
    """Drop remembered actors (of one user): after a change of roles in this process."""
    with _lock:
        for key in [k for k, (_, a) in _remembered.items() if user_id is None or a.user_id == user_id]:
            del _remembered[key]


def bearer_actor(header: str, address: str) -> Actor:
    """The actor of an Authorization header; 401 for anything that is no good token."""
    scheme, _, text = header.partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text.startswith(PREFIX) or len(text) > 200:
        raise unauthorized()
    key = f"{_digest(text)}|{address}"
    with _lock:
        known = _remembered.get(key)
    if known is not None and time.monotonic() - known[0] < REMEMBER_SECONDS:
        return known[1]
    actor = _token_actor(text, address)
    if actor is None:
        raise unauthorized()
    with _lock:
        if len(_remembered) > 10_000:
            _remembered.clear()
        _remembered[key] = (time.monotonic(), actor)
    return actor


def request_actor(request: HttpRequest) -> Actor:
    """Who is asking: a bearer token, else the browser's session (with CSRF token on unsafe methods). 401 for nobody."""
    refuse_impersonation(request)
    address = request.META.get("REMOTE_ADDR") or ""
    header = request.headers.get("Authorization", "")
    if header:
        actor = bearer_actor(header, address)
        requests.take(actor.name)
        return actor
    user = request.user
    if not user.is_authenticated or not user.is_active:
        raise unauthorized()
    if request.method not in SAFE_METHODS:
        _check_csrf(request)
    return actor_of(user, address)


def session_actor(session_key: str | None, address: str) -> Actor | None:
    """The actor of a browser's session as the database has it now; None when it was ended, expired or its user disabled."""
    if not session_key:
        return None
    asking = HttpRequest()
    asking.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = get_user(asking)
    return actor_of(user, address) if user.is_authenticated and user.is_active else None


def still_the_same(request: HttpRequest, before: Actor) -> bool:
    """Whether an open stream's token or session still holds, with the same rights. A database that is away took none."""
    close_old_connections()
    header = request.headers.get("Authorization", "")
    try:
        now = (
            bearer_actor(header, before.address)
            if header
            else session_actor(request.session.session_key, before.address)
        )
    except ApiError:
        return False
    except (OperationalError, InterfaceError):
        return True
    return now is not None and now.bindings == before.bindings


def refuse_impersonation(request: HttpRequest) -> None:
    """`--as` must be honoured or refused, never ignored."""
    if any(name.lower().startswith("impersonate-") for name in request.headers):
        raise ApiError(
            403, "Forbidden", "impersonation (--as, --as-group, --as-uid) is not supported; use a token of that user"
        )


class _Csrf(CsrfViewMiddleware):
    def _reject(
        self, request: HttpRequest, reason: str
    ) -> Any:  # the middleware's hook: returns what process_view returns
        return reason


def _check_csrf(request: HttpRequest) -> None:
    check = _Csrf(lambda r: None)  # type: ignore[arg-type]
    check.process_request(request)
    reason = check.process_view(request, lambda r: None, (), {})  # type: ignore[arg-type, return-value]
    if reason:
        raise ApiError(
            403, "Forbidden", f"the request comes from a browser session without a valid CSRF token: {reason}"
        )


class BearerAuthentication(BaseAuthentication):
    """The same rules for Django REST framework's views."""

    def authenticate(self, request: Request) -> tuple[Any, Actor] | None:
        try:
            actor = request_actor(request._request)
        except ApiError as error:
            from rest_framework.exceptions import AuthenticationFailed

            raise AuthenticationFailed(error.message) from None
        return get_user_model().objects.get(pk=actor.user_id or 0), actor

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="fleet"'
