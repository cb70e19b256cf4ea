"""The line that a dialog about a cluster shows does the same by kubectl, word for word."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Callable
from typing import Any

from django.test import Client

from clusters.storage import CONFIRM
from fleet.api.actions import Write, patch_object
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM
from fleet.control.kinds import Json
from tests.console.test_cluster_acts import NEW, change, live, local, told, versions
from tests.servers import Kubectl

__all__ = ["local", "versions"]
Browser = Callable[[str], Client]


def run(kubectl: Kubectl, answer: dict[str, Any]) -> None:
    """Run the line of a dialog."""
    (line,) = re.findall(r"<code>(.*?)</code>", answer["html"])
    for part in html.unescape(line).split(" && "):
        words, _, stdin = part.partition(" <<< ")
        kubectl(*shlex.split(words)[1:], stdin=shlex.split(stdin)[0] if stdin else None)


def test_the_line_of_a_new_cluster_makes_it(versions: None, browser_of: Browser, kubectl: Kubectl) -> None:
    form = NEW | {"spec.network.podCIDR": "10.9.0.0/16", "spec.controlPlane.exposure.port": "6443"}
    run(kubectl, told(browser_of("admin"), "/do/clusters/foresee", **form))
    assert live("fresh")["spec"] == {
        "idc": "iad1", "provider": "Local", "packageVersion": "k8s-1.36.3", "network": {"podCIDR": "10.9.0.0/16"},
        "controlPlane": {"exposure": {"port": 6443}},
    }  # fmt: skip


def test_the_line_of_a_change_makes_it(local: Json, browser_of: Browser, kubectl: Kubectl) -> None:
    run(kubectl, change(browser_of("admin"), "k8s-1.37.2"))
    assert live()["spec"] == local["spec"] | {"packageVersion": "k8s-1.37.2"}


def test_the_line_of_a_deletion_takes_both_steps(local: Json, browser_of: Browser, kubectl: Kubectl) -> None:
    for name in ("a1", "a2"):
        patch_object("machines", name, lambda o: merge_patch(o, {"spec": {"clusterName": "b"}}), write=Write(by=SYSTEM))
    answer = told(browser_of("admin"), "/clusters/a/foresee", verb="delete")
    answer["html"] = answer["html"].replace("kubectl delete cluster a", "kubectl delete cluster a --wait=false")
    run(kubectl, answer)
    meta = live()["metadata"]
    assert meta["annotations"][CONFIRM] == "a"
    assert "deletionTimestamp" in meta
