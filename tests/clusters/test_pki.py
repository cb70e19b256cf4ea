"""Certificates of control planes: made once, renewed in time, good for what they are for."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clusters import pki
from clusters.pki import Names
from clusters.planes import FILES

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = Names("api.example", "https://127.0.0.1:6443", "10.96.0.0/12")


def made() -> dict[str, str]:
    return pki.ensure(NAMES, {}, NOW).all


def test_a_new_plane_gets_every_file_that_its_components_read() -> None:
    assert {name for names in FILES.values() for name in names} <= made().keys()
    assert {"admin.crt", "admin.key", "ca.key"} <= made().keys()


def test_running_again_changes_nothing() -> None:
    files = made()
    again = pki.ensure(NAMES, files, NOW + timedelta(days=1))
    assert again.changed == {}
    assert again.all == files


def test_leaves_are_signed_by_their_authority_and_named_as_kubernetes_reads_them() -> None:
    files = made()
    for name, leaf in pki.leaves(NAMES).items():
        certificate, authority = pki.read(files[f"{name}.crt"]), pki.read(files[f"{leaf.authority}.crt"])
        certificate.verify_directly_issued_by(authority)
        assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == leaf.common_name
    server = pki.read(files["apiserver.crt"])
    assert {"api.example", "10.96.0.1", "127.0.0.1", "kubernetes.default.svc"} <= set(pki.names_of(server))
    usages = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_leaves_are_renewed_before_they_end_and_authorities_stay() -> None:
    files = made()
    early = pki.ensure(NAMES, files, NOW + timedelta(days=pki.LEAF_DAYS - pki.RENEW_DAYS - 1))
    assert early.changed == {}
    due = pki.ensure(NAMES, files, NOW + timedelta(days=pki.LEAF_DAYS - pki.RENEW_DAYS + 1))
    assert {f"{name}.crt" for name in pki.leaves(NAMES)} <= due.changed.keys()
    assert not {"ca.crt", "ca.key", "etcd-ca.crt", "sa.key", "encryption.yaml"} & due.changed.keys()
    assert due.ends["apiserver.crt"] > NOW + timedelta(days=pki.LEAF_DAYS)


def test_another_name_renews_the_certificates_that_speak_for_it_only() -> None:
    files = made()
    moved = pki.ensure(replace(NAMES, more=("10.0.0.7",)), files, NOW)
    assert moved.changed.keys() == {"apiserver.crt", "apiserver.key"}


def test_kubeconfigs_follow_their_certificates() -> None:
    files = made()
    user = yaml.safe_load(files["scheduler.kubeconfig"])["users"][0]["user"]
    assert base64.b64decode(user["client-certificate-data"]).decode() == files["scheduler.crt"]
    del files["scheduler.crt"]
    again = pki.ensure(NAMES, files, NOW)
    assert again.changed.keys() == {"scheduler.crt", "scheduler.key", "scheduler.kubeconfig"}


def test_nothing_outlives_its_authority() -> None:
    late = NOW + timedelta(days=pki.AUTHORITY_DAYS - 10)
    files = pki.ensure(NAMES, made(), late)
    assert files.ends["apiserver.crt"] == files.ends["ca.crt"]
