"""Which certificate requests of kubelets are approved."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from machines import csr
from machines.csr import CLIENT, SERVING, Known, Request, Token

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
FRESH = Token("m1", NOW + timedelta(minutes=5), used=False)


def pem(
    name: str = "system:node:m1", groups: Sequence[str] = ("system:nodes",), names: Sequence[x509.GeneralName] = ()
) -> str:
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
    subject += [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    builder = x509.CertificateSigningRequestBuilder(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    text = builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return base64.b64encode(text).decode()


def client(
    user: str = "system:bootstrap:abcdef", usages: Sequence[str] = ("digital signature", "client auth"), **more: object
) -> Request:
    return Request("csr-1", user, CLIENT, usages, pem(**more))  # type: ignore[arg-type]


def serving(
    *names: x509.GeneralName, user: str = "system:node:m1", usages: Sequence[str] = ("digital signature", "server auth")
) -> Request:
    return Request("csr-1", user, SERVING, usages, pem(names=names))


def why(request: Request, known: Known) -> str:
    asked = csr.read(request)
    assert asked is not None
    return csr.refusal(request, asked, known, NOW)


JOINING = Known(FRESH, "10.0.0.1", machine=True, joining=True)
NODE = Known(None, "10.0.0.1", machine=True, live=True)
DNS, IP = x509.DNSName("m1"), x509.IPAddress(ipaddress.ip_address("10.0.0.1"))


def test_a_machine_gets_its_first_certificate_by_its_own_token() -> None:
    assert why(client(), JOINING) == ""
    assert why(client(usages=("key encipherment", "digital signature", "client auth")), JOINING) == ""


@pytest.mark.parametrize(
    ("request_", "known", "word"),
    [
        (client(name="system:node:m2"), JOINING, "asks for m2"),
        (client(name="admin"), JOINING, "not a node's"),
        (client(name=""), JOINING, "not a node's"),
        (client(groups=("system:masters",)), JOINING, "not a node's"),
        (client(groups=("system:nodes", "system:masters")), JOINING, "not a node's"),
        (client(usages=("server auth", "digital signature")), JOINING, "key usages"),
        (client(usages=("client auth", "cert sign")), JOINING, "key usages"),
        (client(names=(DNS,)), JOINING, "names no addresses"),
        (client(user="mallory"), JOINING, "neither the node itself"),
        (client(user="system:node:m2"), JOINING, "neither the node itself"),
        (client(), Known(None, "10.0.0.1", machine=True, joining=True), "not one of Fleet's"),
        (client(), Known(Token("m2", FRESH.expires_at, used=False), "10.0.0.1", machine=True), "belongs to m2"),
        (client(), Known(Token("m1", FRESH.expires_at, used=True), "10.0.0.1", machine=True), "used before"),
        (client(), Known(Token("m1", NOW, used=False), "10.0.0.1", machine=True), "expired"),
        (client(), Known(FRESH, "10.0.0.1", machine=True, live=True), "no Operation joins it"),
        (client(), Known(FRESH), "no machine of this cluster"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)  # fmt: skip
def test_whatever_does_not_match_is_left_with_its_reason(request_: Request, known: Known, word: str) -> None:
    assert word in why(request_, known)


def test_a_live_node_renews_its_own_certificate() -> None:
    assert why(client(user="system:node:m1"), NODE) == ""
    assert "no node m1" in why(client(user="system:node:m1"), Known(None, "10.0.0.1", machine=True))


def test_serving_certificates_name_the_node_and_the_machines_address_only() -> None:
    assert why(serving(DNS, IP), NODE) == ""
    assert why(serving(IP), NODE) == ""
    assert "127.0.0.1" in why(serving(DNS, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))), NODE)
    assert "evil" in why(serving(x509.DNSName("evil"), IP), NODE)
    assert "neither the node nor its address" in why(serving(), NODE)
    assert "other things" in why(serving(DNS, x509.UniformResourceIdentifier("https://x")), NODE)
    assert "asks for the serving certificate" in why(serving(DNS, user="system:node:m2"), NODE)
    assert "key usages" in why(serving(DNS, usages=("client auth",)), NODE)


def test_bytes_that_are_no_request_are_not_read() -> None:
    for text in (
        "",
        "!!!",
        base64.b64encode(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n").decode(),
    ):
        assert csr.read(Request("x", "u", CLIENT, (), text)) is None


def test_a_request_signed_by_another_key_is_not_read() -> None:
    text = base64.b64decode(pem())
    der = x509.load_pem_x509_csr(text).public_bytes(serialization.Encoding.DER)
    forged = bytearray(der)
    forged[-3] ^= 0xFF
    body = base64.encodebytes(bytes(forged)).decode()
    made = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    assert csr.read(Request("x", "u", CLIENT, (), base64.b64encode(made.encode()).decode())) is None
