"""A CA of this checkout's own and the server certificate of its API: kubectl sends no credentials without TLS."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.dev.state import write_private

_DAY = datetime.timedelta(days=1)
NAMES = ("localhost", "fleet.localhost")
ADDRESSES = ("127.0.0.1", "::1")


def ensure_certificates(home: Path) -> tuple[Path, Path, Path]:
    """Paths of (CA certificate, server certificate, server key); made when missing, the server's renewed a month before its end."""
    ca_crt, ca_key, crt, key = home / "ca.crt", home / "ca.key", home / "tls.crt", home / "tls.key"
    if not (ca_crt.exists() and ca_key.exists()):
        _make_ca(ca_crt, ca_key)
        crt.unlink(missing_ok=True)
    if not (crt.exists() and key.exists()) or _ends_soon(crt):
        _make_server(ca_crt, ca_key, crt, key)
    return ca_crt, crt, key


def _ends_soon(path: Path) -> bool:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC) < 30 * _DAY


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + days * _DAY)
    )


def _make_ca(crt: Path, key_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fleet evaluation CA")])
    certificate = (
        _builder(name, name, key.public_key(), 3650)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(key_path, _pem(key))
    crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _make_server(ca_crt: Path, ca_key: Path, crt: Path, key_path: Path) -> None:
    authority = x509.load_pem_x509_certificate(ca_crt.read_bytes())
    signer = serialization.load_pem_private_key(ca_key.read_bytes(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{ca_key} holds no EC key; delete {ca_key} and {ca_crt} and start again")
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(n) for n in NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(a)) for a in ADDRESSES]
    certificate = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fleet")]), authority.subject, key.public_key(), 365
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    write_private(key_path, _pem(key))
    crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def write_kubeconfig(path: Path, *, server: str, ca: Path, token: str, user: str = "admin") -> None:
    """A kubeconfig with everything inside, so that it works from any folder."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "fleet",
                "cluster": {"server": server, "certificate-authority-data": base64.b64encode(ca.read_bytes()).decode()},
            }
        ],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "fleet", "context": {"cluster": "fleet", "user": user}}],
        "current-context": "fleet",
    }
    write_private(path, yaml.safe_dump(document, sort_keys=False))
