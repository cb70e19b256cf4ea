"""How a machine becomes a node: a short-lived bootstrap token of its own, the files that its kubelet starts from, who may ask. Pure."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fleet.control.endpoint import Endpoint
from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines.hosts import WantedFile

JOIN: Final = "join-node"  # the verb of the step
BOOTSTRAP: Final = "/etc/kubernetes/bootstrap-kubeconfig"
CA: Final = "/etc/kubernetes/pki/ca.crt"
KUBELET_UNIT: Final = "kubelet.service"
# What an earlier join left: with it a kubelet would go on under credentials that the cluster does not know any more.
OLD: Final = ("/var/lib/kubelet/kubeconfig", "/var/lib/kubelet/pki")
TOKEN_SECONDS: Final = 900
WAIT_SECONDS: Final = 300  # until the node is there
GROUP: Final = "system:bootstrappers:fleet"
SECRETS: Final = "/api/v1/namespaces/kube-system/secrets"
BINDING: Final = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/fleet-node-bootstrappers"
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class Token:
    """A bootstrap token. The secret half goes to the cluster and to the host, and is kept nowhere else."""

    id: str
    secret: str
    expires_at: datetime

    @property
    def text(self) -> str:
        """As a client sends it."""
        return f"{self.id}.{self.secret}"


def new_token(now: datetime) -> Token:
    """A fresh one."""
    return Token(_word(6), _word(16), now + timedelta(seconds=TOKEN_SECONDS))


def _word(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def secret_path(token_id: str) -> str:
    """Where the token lies in the cluster."""
    return f"{SECRETS}/bootstrap-token-{token_id}"


def secret_of(token: Token, machine: str) -> Json:
    """The Secret that makes the API server know the token; its token cleaner takes it away at the end."""
    values = {
        "token-id": token.id,
        "token-secret": token.secret,
        "expiration": format_time(token.expires_at),
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": GROUP,
        "description": f"Fleet: lets machine {machine} join once.",
    }
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": f"bootstrap-token-{token.id}", "namespace": "kube-system", "labels": {"fleet.dev/machine-token": "true"}},
        "data": {k: base64.b64encode(v.encode()).decode() for k, v in values.items()},
    }  # fmt: skip


def binding() -> Json:
    """Holders of these tokens may ask for a certificate, and for nothing else; nothing approves it by itself."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "fleet-node-bootstrappers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-bootstrapper"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": GROUP}],
    }  # fmt: skip


def files(server: str, ca: str, token: Token) -> tuple[WantedFile, ...]:
    """What the join step writes."""
    bootstrap = Endpoint(server, ca=ca, token=token.text).kubeconfig("fleet", "bootstrap")
    return tuple(
        WantedFile(path, text, hashlib.sha256(text.encode()).hexdigest(), mode)
        for path, text, mode in ((CA, ca, "0644"), (BOOTSTRAP, bootstrap, "0600"))
    )
