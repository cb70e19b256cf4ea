"""Command lines of components: what safety hangs on is Fleet's, whatever a package version says."""

from __future__ import annotations

from pathlib import Path

from clusters import flags
from clusters.planes import APISERVER, COMPONENTS, CONTROLLER_MANAGER, Component, Plane

PLACE = flags.Place(Path("/files"), Path("/data"), "127.0.0.1", 1, 2, 3, 4, 5, {flags.MEMBER: "127.0.0.1"})


def said(component: str, **args: str) -> dict[str, str]:
    made = {n: Component(n, "1.37.2", binary=n, args=args if n == component else {}) for n in COMPONENTS}
    plane = Plane("uid", "web", made, {}, "10.0.0.1", 6443)
    words = (word.removeprefix("--").partition("=") for word in flags.arguments(plane, component, PLACE))
    return {name: value for name, _, value in words}


def test_kubelets_get_certificates_of_a_week_and_nobody_but_fleet_approves_them() -> None:
    found = said(CONTROLLER_MANAGER, **{"cluster-signing-duration": "8760h", "controllers": "*"})
    assert found["cluster-signing-duration"] == "168h0m0s"
    assert "-certificatesigningrequest-approving-controller" in found["controllers"].split(",")


def test_authorization_and_encryption_are_fleets() -> None:
    found = said(APISERVER, **{"authorization-mode": "AlwaysAllow", "anonymous-auth": "false"})
    assert found["authorization-mode"] == "Node,RBAC"
    assert found["enable-admission-plugins"] == "NodeRestriction"
    assert found["encryption-provider-config"] == "/files/encryption.yaml"
    assert found["anonymous-auth"] == "false", "all else may be said"


def test_privileged_pods_are_usual_and_may_be_forbidden() -> None:
    assert said(APISERVER)["allow-privileged"] == "true"
    assert said(APISERVER, **{"allow-privileged": "false"})["allow-privileged"] == "false"


def test_an_api_server_that_ends_sends_its_clients_away_and_does_not_wait_for_those_that_watch() -> None:
    assert said(APISERVER)["shutdown-send-retry-after"] == "true"
    assert "shutdown-delay-duration" not in said(APISERVER), "there is no other one to go to"
