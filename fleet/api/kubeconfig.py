"""Kubeconfigs that people give to Fleet: one server and one identity, everything in the text itself. Pure.

What runs a program, reads a file of this host or skips the check of a certificate is refused: a kubeconfig comes from outside.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from fleet.control.endpoint import Endpoint

_FORBIDDEN_USER: Final[Mapping[str, str]] = {
    "exec": "runs a program, which Fleet does not do; use a token or a client certificate",
    "auth-provider": "names an auth provider; use a token or a client certificate",
    "username": "uses a password, which Kubernetes no longer takes; use a token or a client certificate",
    "tokenFile": "points at a file; put the token itself in",
    "client-certificate": "points at a file; put client-certificate-data in",
    "client-key": "points at a file; put client-key-data in",
    "as": "impersonates another user; use that user's own identity",
}
_FORBIDDEN_CLUSTER: Final[Mapping[str, str]] = {
    "certificate-authority": "points at a file; put certificate-authority-data in",
    "insecure-skip-tls-verify": "skips the check of the server's certificate; put certificate-authority-data in",
    "proxy-url": "goes through a proxy, which Fleet does not do",
}


class KubeconfigError(ValueError):
    """Why it is not taken, as a sentence about the kubeconfig."""


def parse(text: str) -> Endpoint:
    """The way of the current context of a kubeconfig. KubeconfigError says what is wrong with it."""
    try:
        whole = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KubeconfigError(f"is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(whole, dict) or whole.get("kind") != "Config":
        raise KubeconfigError("is no kubeconfig: its kind must be Config")
    name = whole.get("current-context")
    if not name:
        raise KubeconfigError("has no current-context")
    context = _named(whole, "contexts", name, "context")
    cluster = _named(whole, "clusters", context.get("cluster"), "cluster")
    user = _named(whole, "users", context.get("user"), "user")
    for part, forbidden in ((user, _FORBIDDEN_USER), (cluster, _FORBIDDEN_CLUSTER)):
        for field, why in forbidden.items():
            if part.get(field):
                raise KubeconfigError(f"has {field}: it {why}")
    found = Endpoint(
        server=str(cluster.get("server") or ""),
        ca=_pem(cluster, "certificate-authority-data"),
        certificate=_pem(user, "client-certificate-data"),
        key=_pem(user, "client-key-data"),
        token=str(user.get("token") or ""),
        server_name=str(cluster.get("tls-server-name") or ""),
    )
    _check(found)
    return found


def _check(found: Endpoint) -> None:
    try:
        parts = urlsplit(found.server)
        valid = (
            parts.scheme == "https"
            and bool(parts.hostname)
            and not parts.username
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        valid = False
    if not valid:
        raise KubeconfigError(f'has the server "{found.server[:200]}": it must be an https:// address without a user')
    if found.ca:
        try:
            ssl.create_default_context(cadata=found.ca)
        except ssl.SSLError as error:
            raise KubeconfigError(
                f"has certificate-authority-data that is no certificate: {error.reason or error}"
            ) from None
    if bool(found.certificate) != bool(found.key):
        raise KubeconfigError("has only one of client-certificate-data and client-key-data")
    if not found.certificate and not found.token:
        raise KubeconfigError("names nobody: it needs a token, or client-certificate-data and client-key-data")


def _named(whole: Mapping[str, Any], plural: str, name: object, field: str) -> Mapping[str, Any]:
    entries = whole.get(plural)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(field), dict):
            found: Mapping[str, Any] = entry[field]
            return found
    raise KubeconfigError(f'has no entry "{name}" among its {plural}')


def _pem(part: Mapping[str, Any], field: str) -> str:
    value = part.get(field)
    if not value:
        return ""
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise KubeconfigError(f"has {field} that is no base64 of a PEM text") from None
