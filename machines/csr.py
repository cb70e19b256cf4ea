"""Which certificate requests of kubelets are signed: those of the machine that asks, for its own name, and nothing more. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

CLIENT: Final = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING: Final = "kubernetes.io/kubelet-serving"
SIGNERS: Final = (CLIENT, SERVING)
NODE_USER: Final = "system:node:"
TOKEN_USER: Final = "system:bootstrap:"
NODES: Final = "system:nodes"
_USAGES: Final = {CLIENT: "client auth", SERVING: "server auth"}
_HARMLESS: Final = frozenset({"digital signature", "key encipherment"})


@dataclass(frozen=True, slots=True)
class Request:
    """A CertificateSigningRequest that nobody has answered. `request`: PEM in base64, as the object holds it."""

    name: str
    user: str
    signer: str
    usages: Sequence[str]
    request: str


@dataclass(frozen=True, slots=True)
class Token:
    """Whose a bootstrap token is."""

    node: str
    expires_at: datetime
    used: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What Fleet knows of the name that is asked for. `ip` of the machine, "" = no machine of this cluster has that name.

    `live`: a node of that name is there; `joining`: an Operation that joins the machine is open.
    """

    token: Token | None = None
    ip: str = ""
    machine: bool = False
    live: bool = False
    joining: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request is for, read from its own bytes."""

    common_name: str
    organizations: tuple[str, ...]
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    others: bool = False  # names of other kinds


def read(request: Request) -> Asked | None:
    """The bytes of the request; None when they cannot be read or its signature does not hold."""
    try:
        found = x509.load_pem_x509_csr(base64.b64decode(request.request, validate=True))
        if not found.is_signature_valid:
            return None
        names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        organizations = tuple(str(a.value) for a in found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    except (ValueError, binascii.Error, InvalidSignature, UnsupportedAlgorithm):
        return None
    try:
        names_of = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Asked(str(names[0].value) if len(names) == 1 else "", organizations)
    except (ValueError, x509.DuplicateExtension):
        return None
    dns = tuple(names_of.get_values_for_type(x509.DNSName))
    addresses = tuple(str(a) for a in names_of.get_values_for_type(x509.IPAddress))
    others = len(list(names_of)) != len(dns) + len(addresses)
    return Asked(str(names[0].value) if len(names) == 1 else "", organizations, dns, addresses, others)


def node_of(request: Request, asked: Asked) -> str:
    """The node that a request speaks for, "" when it speaks for none."""
    return asked.common_name.removeprefix(NODE_USER) if asked.common_name.startswith(NODE_USER) else ""


def refusal(request: Request, asked: Asked, known: Known, now: datetime) -> str:
    """Why the request is not approved; "" = it is."""
    node = node_of(request, asked)
    if not node or asked.organizations != (NODES,):
        return f"its subject is not a node's ({asked.common_name or 'no name'}, {', '.join(asked.organizations) or 'no group'})"
    wanted = _USAGES[request.signer]
    if wanted not in request.usages or not set(request.usages) <= _HARMLESS | {wanted}:
        return f"its key usages are not a kubelet's: {', '.join(request.usages)}"
    if not known.machine:
        return f"no machine of this cluster is called {node}"
    return (
        _serving(request, asked, known, node)
        if request.signer == SERVING
        else _client(request, asked, known, node, now)
    )


def _serving(request: Request, asked: Asked, known: Known, node: str) -> str:
    if request.user != NODE_USER + node:
        return f"{request.user} asks for the serving certificate of {node}"
    if asked.others or not (asked.dns or asked.addresses):
        return "it names neither the node nor its address, or other things too"
    foreign = [n for n in asked.dns if n != node] + [a for a in asked.addresses if a != known.ip]
    return f"it names {', '.join(foreign[:5])}, which are not this machine's" if foreign else ""


def _client(request: Request, asked: Asked, known: Known, node: str, now: datetime) -> str:
    if asked.dns or asked.addresses or asked.others:
        return "a client certificate names no addresses"
    if request.user == NODE_USER + node:
        return "" if known.live else f"there is no node {node} whose certificate could be renewed"
    if not request.user.startswith(TOKEN_USER):
        return f"{request.user} is neither the node itself nor a machine's token"
    token = known.token
    if token is None:
        return f"the token {request.user.removeprefix(TOKEN_USER)} is not one of Fleet's"
    if token.node != node:
        return f"the token belongs to {token.node}, and asks for {node}"
    if token.used:
        return "the token was used before"
    if token.expires_at <= now:
        return "the token has expired"
    if known.live and not known.joining:
        return f"a node {node} is there, and no Operation joins it"
    return ""
