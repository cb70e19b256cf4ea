"""Kubeconfigs from outside: what is taken, and the sentence for what is not."""

from __future__ import annotations

import base64
import ipaddress
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from clusters import pki
from fleet.api.kubeconfig import KubeconfigError, parse
from fleet.control.addresses import literal_refusal

FILES = pki.ensure(pki.Names("10.0.0.1", "https://10.0.0.1:6443", "10.96.0.0/12"), {}, datetime.now(UTC)).all


def config(
    user: dict[str, Any] | None = None, server: Any = "https://10.0.0.1:6443", cluster: dict[str, Any] | None = None
) -> str:
    whole = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "t"} if user is None else user}],
    }  # fmt: skip
    return yaml.safe_dump(whole)


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_what_fleet_itself_writes_is_read_back() -> None:
    found = parse(pki.kubeconfig("https://10.0.0.1:6443", FILES["ca.crt"], FILES["admin.crt"], FILES["admin.key"]))
    assert (found.server, found.ca, found.certificate, found.key) == (
        "https://10.0.0.1:6443",
        FILES["ca.crt"],
        FILES["admin.crt"],
        FILES["admin.key"],
    )
    assert (found.host, found.token) == ("10.0.0.1", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("{", "is no YAML", id="no yaml"),
        pytest.param("- a", "is no kubeconfig", id="a list"),
        pytest.param("kind: Config", "no current-context", id="no context"),
        pytest.param("kind: Config\ncurrent-context: x", 'no entry "x" among its contexts', id="unknown context"),
        pytest.param("kind: Config\ncurrent-context: x\ncontexts: 7", 'no entry "x" among its contexts', id="contexts of another type"),
        pytest.param(config({"exec": {"command": "aws"}}), "has exec: it runs a program", id="exec plugin"),
        pytest.param(config({"auth-provider": {"name": "gcp"}}), "has auth-provider", id="auth provider"),
        pytest.param(config({"username": "a", "password": "b"}), "uses a password", id="password"),
        pytest.param(config({"tokenFile": "/etc/shadow"}), "points at a file", id="token file"),
        pytest.param(config({"client-certificate": "/x", "client-key": "/y"}), "points at a file", id="certificate file"),
        pytest.param(config({"token": "t", "as": "root"}), "impersonates", id="impersonation"),
        pytest.param(config({}), "names nobody", id="nobody"),
        pytest.param(config({"client-certificate-data": packed("x")}), "only one of", id="certificate without key"),
        pytest.param(config({"client-certificate-data": "%%"}), "no base64", id="no base64"),
        pytest.param(config(cluster={"insecure-skip-tls-verify": True}), "skips the check", id="insecure"),
        pytest.param(config(cluster={"certificate-authority": "/ca"}), "points at a file", id="authority file"),
        pytest.param(config(cluster={"certificate-authority-data": packed("x")}), "no certificate", id="no certificate"),
        pytest.param(config(cluster={"proxy-url": "http://p"}), "goes through a proxy", id="proxy"),
        pytest.param(config(server="http://10.0.0.1"), "must be an https:// address", id="http"),
        pytest.param(config(server="https://a:b@10.0.0.1"), "must be an https:// address", id="user in the address"),
        pytest.param(config(server="https://10.0.0.1:99999"), "must be an https:// address", id="bad port"),
        pytest.param(config(server=7), "must be an https:// address", id="a number"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(KubeconfigError, match=why):
        parse(text)


@pytest.mark.parametrize(
    ("server", "refused"),
    [
        pytest.param("https://127.0.0.1:6443", True, id="loopback"),
        pytest.param("https://169.254.169.254", True, id="metadata"),
        pytest.param("https://[::1]:6443", True, id="loopback v6"),
        pytest.param("https://10.0.0.1:6443", False, id="allowed"),
        pytest.param("https://192.168.0.1:6443", True, id="private and not listed"),
        pytest.param("https://k8s.example.com", False, id="a name"),
    ],
)
def test_addresses_that_fleet_does_not_connect_to_are_refused_at_once(server: str, refused: bool) -> None:
    assert bool(literal_refusal(parse(config(server=server)).host, [ipaddress.ip_network("10.0.0.0/8")])) is refused
