"""The keys and certificates of a control plane: made where missing, renewed before they end. Pure: files in, files out.

Names are those of `clusters.planes.FILES`, and beside them the keys of the authorities and Fleet's own client (admin.crt, admin.key).
Keys are ECDSA P-256. What each certificate is for follows https://kubernetes.io/docs/setup/best-practices/certificates/.
"""

from __future__ import annotations

import base64
import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS: Final = 3_650
LEAF_DAYS: Final = 90
RENEW_DAYS: Final = 30  # left, when a leaf is renewed
_BEFORE: Final = timedelta(minutes=5)  # clocks differ a little
_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
AUTHORITIES: Final[Mapping[str, str]] = {
    "ca": "kubernetes-ca",
    "etcd-ca": "etcd-ca",
    "front-proxy-ca": "front-proxy-ca",
}


@dataclass(frozen=True, slots=True)
class Names:
    """What the certificates of one control plane speak for. `server`: URL of the API server as its own components reach it."""

    host: str
    server: str
    service_cidr: str
    etcd: Sequence[str] = ("127.0.0.1", "localhost")
    more: Sequence[str] = ()  # further names and addresses of the API server

    def apiserver(self) -> list[str]:
        """Names and addresses in the API server's certificate, its service's first address among them."""
        service = str(ipaddress.ip_network(self.service_cidr)[1])
        inside = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        return [*inside, "localhost", "127.0.0.1", service, self.host, *self.more]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate as it shall be."""

    authority: str
    common_name: str
    organization: str = ""
    names: Sequence[str] = ()
    usages: Sequence[x509.ObjectIdentifier] = (_CLIENT,)


@dataclass(slots=True)
class Files:
    """What there is, and what of it is new. `ends` of all certificates."""

    all: dict[str, str]
    changed: dict[str, str] = field(default_factory=dict)
    ends: dict[str, datetime] = field(default_factory=dict)

    def put(self, name: str, text: str) -> None:
        """A new file."""
        if self.all.get(name) != text:
            self.all[name] = self.changed[name] = text


def leaves(names: Names) -> dict[str, Leaf]:
    """All certificates but the authorities', by file name without ending."""
    return {
        "apiserver": Leaf("ca", "kube-apiserver", names=names.apiserver(), usages=(_SERVER,)),
        "apiserver-kubelet-client": Leaf("ca", "kube-apiserver-kubelet-client", "system:masters"),
        "apiserver-etcd-client": Leaf("etcd-ca", "kube-apiserver-etcd-client"),
        "front-proxy-client": Leaf("front-proxy-ca", "front-proxy-client"),
        "etcd-server": Leaf("etcd-ca", "etcd-server", names=names.etcd, usages=(_SERVER, _CLIENT)),
        "etcd-peer": Leaf("etcd-ca", "etcd-peer", names=names.etcd, usages=(_SERVER, _CLIENT)),
        "controller-manager": Leaf("ca", "system:kube-controller-manager"),
        "scheduler": Leaf("ca", "system:kube-scheduler"),
        "admin": Leaf("ca", "fleet", "system:masters"),
    }


def ensure(names: Names, have: Mapping[str, str], now: datetime) -> Files:
    """Make what is missing, renew what ends within `RENEW_DAYS` or speaks for other names. Running it twice changes nothing."""
    files = Files(dict(have))
    for name, common_name in AUTHORITIES.items():
        if f"{name}.crt" not in files.all or f"{name}.key" not in files.all:
            certificate, key = _authority(common_name, now)
            files.put(f"{name}.crt", certificate)
            files.put(f"{name}.key", key)
    for name, leaf in leaves(names).items():
        if _is_due(files.all, name, leaf, now):
            certificate, key = issue(leaf, files.all[f"{leaf.authority}.crt"], files.all[f"{leaf.authority}.key"], now)
            files.put(f"{name}.crt", certificate)
            files.put(f"{name}.key", key)
    if "sa.key" not in files.all:
        key_pair = ec.generate_private_key(ec.SECP256R1())
        files.put("sa.key", _key_text(key_pair))
        files.put("sa.pub", _public_text(key_pair))
    if "encryption.yaml" not in files.all:
        files.put("encryption.yaml", encryption(secrets.token_bytes(32)))
    files.put("audit-policy.yaml", AUDIT_POLICY)
    for name in ("controller-manager", "scheduler"):
        files.put(
            f"{name}.kubeconfig",
            kubeconfig(names.server, files.all["ca.crt"], files.all[f"{name}.crt"], files.all[f"{name}.key"]),
        )
    for name in [n for n in files.all if n.endswith(".crt")]:
        files.ends[name] = read(files.all[name]).not_valid_after_utc
    return files


def _is_due(files: Mapping[str, str], name: str, leaf: Leaf, now: datetime) -> bool:
    text = files.get(f"{name}.crt")
    if text is None or f"{name}.key" not in files:
        return True
    found = read(text)
    if found.not_valid_after_utc - now < timedelta(days=RENEW_DAYS):
        return True
    if found.issuer != read(files[f"{leaf.authority}.crt"]).subject:
        return True
    return set(names_of(found)) != set(leaf.names)


def read(text: str) -> x509.Certificate:
    """A certificate from PEM."""
    return x509.load_pem_x509_certificate(text.encode())


def names_of(certificate: x509.Certificate) -> list[str]:
    """Names and addresses that a certificate speaks for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*found.get_values_for_type(x509.DNSName), *(str(a) for a in found.get_values_for_type(x509.IPAddress))]


def _authority(common_name: str, now: datetime) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now - _BEFORE, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    return _text(built), _key_text(key)


def issue(leaf: Leaf, authority: str, authority_key: str, now: datetime, *, days: int = LEAF_DAYS) -> tuple[str, str]:
    """A fresh key and its certificate, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return sign(leaf, key.public_key(), authority, authority_key, now, days=days), _key_text(key)


def sign(
    leaf: Leaf, public_key: ec.EllipticCurvePublicKey, authority: str, authority_key: str, now: datetime, *, days: int = LEAF_DAYS
) -> str:  # fmt: skip
    """A certificate for a key, in PEM; it does not outlive its authority."""
    issuer = read(authority)
    signer = serialization.load_pem_private_key(authority_key.encode(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.organization)] if leaf.organization else []
    end = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder(
            issuer.subject, x509.Name([*subject, x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]), public_key,
            x509.random_serial_number(), now - _BEFORE, end,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(leaf.usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )  # fmt: skip
    if leaf.names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in leaf.names]), critical=False)
    return _text(builder.sign(signer, hashes.SHA256()))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=sign, crl_sign=sign, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()


def _public_text(key: ec.EllipticCurvePrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def kubeconfig(server: str, authority: str, certificate: str, key: str) -> str:
    """A kubeconfig with everything in it."""

    def packed(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": packed(authority)}}],
            "users": [{"name": "u", "user": {"client-certificate-data": packed(certificate), "client-key-data": packed(key)}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        },
        sort_keys=False,
    )  # fmt: skip


def encryption(key: bytes) -> str:
    """Secrets are encrypted at rest under this key; what was written before stays readable."""
    return yaml.safe_dump(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {
                    "resources": ["secrets"],
                    "providers": [{"secretbox": {"keys": [{"name": "key1", "secret": base64.b64encode(key).decode()}]}}, {"identity": {}}],
                }
            ],
        },
        sort_keys=False,
    )  # fmt: skip


AUDIT_POLICY: Final = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch]
- level: None
  resources: [{group: coordination.k8s.io, resources: [leases]}, {group: "", resources: [events]}, {group: events.k8s.io, resources: [events]}]
- level: None
  users: [system:apiserver, system:kube-scheduler, system:kube-controller-manager]
- level: Metadata
"""
