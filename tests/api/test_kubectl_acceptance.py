"""What every kubectl at hand must be able to do, part by part; each starts with a cold cache and goes on with a warm one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.dev.certificates import write_kubeconfig
from tests.servers import Kubectl, People, Server, kubectl_binaries

CLASS = "apiVersion: fleet.dev/v1\nkind: MachineClass\nmetadata: {name: gpu, labels: {pool: gpu}}\nspec: {versions: {pouch: '1.0'}}\n"
MACHINE = """apiVersion: fleet.dev/v1
kind: Machine
metadata: {name: m1}
spec: {idc: xxx, ip: 10.10.10.1, versions: {pouch: 1.0, kubelet: 1.1}}
"""
PACKAGE = """apiVersion: fleet.dev/v1
kind: MachinePackageVersion
metadata: {name: pouch-1.0}
spec: {packageName: pouch, config: {rpm: "http://pouch-1.0.rpm"}, configMaps: [{name: pouch-config, value: v1}]}
"""


@pytest.fixture(params=kubectl_binaries(), ids=lambda path: "machine's own" if path.startswith("/usr") else "1.37")
def kubectl(request: pytest.FixtureRequest, server: Server, people: People, tmp_path: Path) -> Kubectl:
    """Each kubectl, as admin."""
    config = tmp_path / "kubeconfig"
    write_kubeconfig(config, server=server.https, ca=server.ca, token=people.tokens["admin"])
    return Kubectl(request.param, config, tmp_path / "cache")


def start(kubectl: Kubectl, *arguments: str) -> subprocess.Popen[str]:
    """kubectl in the background."""
    command = [kubectl.binary, "--kubeconfig", str(kubectl.kubeconfig), "--cache-dir", str(kubectl.cache), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def started(kubectl: Kubectl, *arguments: str) -> tuple[subprocess.Popen[str], Iterator[str]]:
    """A watch in the background whose first line has come: from now on it misses nothing."""
    process = start(kubectl, *arguments)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    next(lines)
    return process, lines


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=20)


def get(kubectl: Kubectl, *what: str) -> Any:
    return json.loads(kubectl("get", *what, "-o", "json", "--show-managed-fields").stdout)


def test_both_manifests_of_the_beginning_apply_as_they_are(kubectl: Kubectl) -> None:
    first = kubectl("apply", "-f", "-", stdin=f"{MACHINE}---\n{PACKAGE}")
    assert first.stdout.count("created") == 2
    assert "quote" in first.stderr  # 1.0 came as a number
    again = kubectl("apply", "-f", "-", stdin=f"{MACHINE}---\n{PACKAGE}").stdout
    assert again.count("unchanged") == 2
    assert kubectl("diff", "-f", "-", stdin=MACHINE).stdout == ""
    assert get(kubectl, "machine", "m1")["spec"]["versions"] == {"pouch": 1, "kubelet": 1.1}
    assert "m1" in kubectl("get", "fleet").stdout
    assert "pouch-1.0" in kubectl("get", "mpv,fm", "--show-kind").stdout


def test_a_dry_run_tells_the_plan_of_a_changed_machine_and_changes_nothing(kubectl: Kubectl) -> None:
    packages = "---\n".join(
        f"""apiVersion: fleet.dev/v1
kind: MachinePackageVersion
metadata: {{name: pouch-{version}}}
spec:
  packageName: pouch
  version: "{version}"
  config: {{deb: "simulated:pouch-{version}.deb", sha256: {"ab" * 32}}}
  units: [{{name: pouch.service, enabled: true, started: true}}]
"""
        for version in ("1.0", "1.1")
    )
    machine = """apiVersion: fleet.dev/v1
kind: Machine
metadata: {name: m1}
spec: {idc: xxx, ip: 10.10.10.1, driver: {type: simulated}, versions: {pouch: "1.0"}}
"""
    kubectl("apply", "-f", "-", stdin=packages)
    made = kubectl("apply", "-f", "-", stdin=machine)
    assert "plan:" not in made.stderr
    before = get(kubectl, "machine", "m1")
    newer = machine.replace("1.0", "1.1")
    for way in (("apply",), ("apply", "--server-side", "--force-conflicts")):
        done = kubectl(*way, "--dry-run=server", "-f", "-", stdin=newer)
        assert "(server dry run)" in done.stdout
        warnings = [line.removeprefix("Warning: ") for line in done.stderr.splitlines() if line.startswith("Warning:")]
        assert warnings[0].startswith("plan: disruption ")
        assert "install-package pouch, set-units pouch" in warnings[0]
        assert "plan: package pouch: wanted 1.1, seen none" in warnings
    assert "plan: package pouch: wanted 1.1, seen none" in kubectl("diff", "-f", "-", stdin=newer, ok=False).stderr
    same = kubectl("apply", "--dry-run=server", "-f", "-", stdin=machine)
    assert ("unchanged (server dry run)" in same.stdout, same.stderr) == (True, "")
    assert get(kubectl, "machine", "m1") == before


def test_reading(kubectl: Kubectl) -> None:
    assert "doesn't have a resource type" in kubectl("get", "nothing", ok=False).stderr
    assert "NotFound" in kubectl("get", "mcl", "x", ok=False).stderr
    assert kubectl("get", "mcl", "x", "--ignore-not-found").stdout == ""
    assert "No resources found" in kubectl("get", "mcl").stderr
    kubectl("apply", "-f", "-", stdin=CLASS)
    for what in (
        ("mcl",),
        ("machineclass",),
        ("machineclasses",),
        ("machineclasses.fleet.dev",),
        ("machineclasses.v1.fleet.dev",),
    ):
        assert "gpu" in kubectl("get", *what).stdout
    assert "gpu" in kubectl("get", "mcl,idc", "-o", "name").stdout
    assert "gpu" in kubectl("get", "mcl", "--field-selector=metadata.name=gpu", "--no-headers").stdout
    assert kubectl("get", "mcl", "--field-selector=metadata.name!=gpu", "-o", "name").stdout == ""
    assert "gpu" in kubectl("get", "mcl", "-n", "anything", "-A").stdout
    assert "gpu" in kubectl("get", "mcl", "-o", "go-template={{range .items}}{{.metadata.name}}{{end}}").stdout
    assert (
        json.loads(kubectl("get", "--raw", "/apis/fleet.dev/v1/machineclasses?limit=1").stdout)["kind"]
        == "MachineClassList"
    )
    assert kubectl("get", "--raw", "/readyz").stdout == "ok"


def test_server_side_apply(kubectl: Kubectl) -> None:
    ssa = ("apply", "--server-side", "-f", "-")
    assert "serverside-applied" in kubectl(*ssa, stdin=CLASS).stdout
    before = get(kubectl, "mcl", "gpu")
    kubectl(*ssa, stdin=CLASS)
    assert get(kubectl, "mcl", "gpu") == before
    shared = CLASS.replace("labels: {pool: gpu}", "labels: {pool: gpu, more: b}")
    kubectl(*ssa, "--field-manager=b", stdin=shared)  # an equal value is shared, not contested
    kubectl(*ssa, stdin=CLASS.replace(", labels: {pool: gpu}", ""))
    assert get(kubectl, "mcl", "gpu")["metadata"]["labels"] == {"pool": "gpu", "more": "b"}
    kubectl(*ssa, "--field-manager=b", stdin=CLASS.replace(", labels: {pool: gpu}", ""))
    assert "labels" not in get(kubectl, "mcl", "gpu")["metadata"]
    other = "apiVersion: fleet.dev/v1\nkind: MachineClass\nmetadata: {name: gpu}\nspec: {versions: {pouch: '2.0'}}\n"
    done = kubectl(*ssa, "--field-manager=c", stdin=other, ok=False)
    assert (
        'Apply failed with 2 conflicts: conflicts with "b":\n- .spec.versions.pouch\nconflicts with "kubectl":\n- .spec.versions.pouch'
        in done.stderr
    )
    done = kubectl("diff", "--server-side", "-f", "-", stdin=CLASS, ok=False)
    assert (done.returncode, "+  labels:" in done.stdout, "+  resourceVersion" in done.stdout) == (1, True, False)
    kubectl(*ssa, stdin=CLASS)
    assert kubectl("diff", "--server-side", "-f", "-", stdin=CLASS).stdout == ""


def test_moving_from_client_side_to_server_side_apply(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    kubectl("apply", "--server-side", "-f", "-", stdin=CLASS)
    managers = {(m["manager"], m["operation"]) for m in get(kubectl, "mcl", "gpu")["metadata"]["managedFields"]}
    assert ("kubectl", "Apply") in managers
    assert ("kubectl-client-side-apply", "Update") not in managers
    kubectl("apply", "--server-side", "-f", "-", stdin=CLASS.replace("labels: {pool: gpu}", "labels: {}"))
    assert "labels" not in get(kubectl, "mcl", "gpu")["metadata"]


def test_last_applied(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=CLASS)
    assert (
        "missing the kubectl.kubernetes.io/last-applied-configuration"
        in kubectl("apply", "-f", "-", stdin=CLASS).stderr
    )
    assert "pouch" in kubectl("apply", "view-last-applied", "mcl", "gpu").stdout
    kubectl("apply", "-f", "-", stdin=CLASS.replace("spec: {versions: {pouch: '1.0'}}", "spec: {}"))
    assert get(kubectl, "mcl", "gpu")["spec"] == {}


def test_patches_and_locks(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    assert (
        "no change"
        in kubectl("patch", "mcl", "gpu", "--type=merge", "-p", '{"metadata":{"labels":{"pool":"gpu"}}}').stdout
    )
    assert "already has a value" in kubectl("label", "mcl", "gpu", "pool=cpu", ok=False).stderr
    assert (
        "the object has been modified" in kubectl("label", "mcl", "gpu", "x=y", "--resource-version=1", ok=False).stderr
    )
    assert (
        "is not equal to tested value"
        in kubectl(
            "patch", "mcl", "gpu", "--type=json", "-p", '[{"op":"test","path":"/spec","value":1}]', ok=False
        ).stderr
    )
    before = get(kubectl, "mcl", "gpu")
    kubectl("patch", "mcl", "gpu", "--subresource=status", "--type=merge", "-p", '{"status":{"machines":3}}')
    after = get(kubectl, "mcl", "gpu")
    assert after["status"] == {"machines": 3}
    assert (after["metadata"]["generation"], after["spec"]) == (before["metadata"]["generation"], before["spec"])
    kubectl("patch", "mcl", "gpu", "--type=merge", "-p", '{"status":{"machines":9}}')
    assert get(kubectl, "mcl", "gpu")["status"] == {"machines": 3}
    kubectl("label", "mcl", "--all", "all=yes")
    assert get(kubectl, "mcl", "gpu")["metadata"]["labels"]["all"] == "yes"


def test_deleting(kubectl: Kubectl) -> None:
    ways = (
        ("gpu", "--cascade=background"),
        ("gpu", "--cascade=foreground"),
        ("gpu", "--cascade=orphan"),
        ("gpu", "--now"),
        ("gpu", "--force"),
        ("-l", "pool=gpu"),
        ("--all",),
    )
    for way in ways:
        kubectl("apply", "-f", "-", stdin=CLASS)
        assert "deleted" in kubectl("delete", "mcl", *way, "--timeout=20s").stdout
        assert kubectl("get", "mcl", "-o", "name").stdout == ""
    kubectl("apply", "-f", "-", stdin=CLASS)
    kubectl("delete", "-f", "-", "--dry-run=server", stdin=CLASS)
    assert "gpu" in kubectl("get", "mcl").stdout
    kubectl("delete", "--raw", "/apis/fleet.dev/v1/machineclasses/gpu")
    assert "NotFound" in kubectl("delete", "mcl", "gpu", ok=False).stderr


def test_deleting_what_has_a_finalizer(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS.replace("labels:", "finalizers: [example.com/x], labels:"))
    assert "timed out" in kubectl("delete", "mcl", "gpu", "--timeout=2s", ok=False).stderr
    obj = get(kubectl, "mcl", "gpu")
    assert (obj["metadata"]["deletionGracePeriodSeconds"], obj["metadata"]["generation"]) == (0, 2)
    more = '{"metadata":{"finalizers":["example.com/x","example.com/y"]}}'
    assert (
        "no new finalizers can be added" in kubectl("patch", "mcl", "gpu", "--type=merge", "-p", more, ok=False).stderr
    )
    waiting = start(kubectl, "wait", "--for=delete", "mcl/gpu", "--timeout=30s")
    kubectl("patch", "mcl", "gpu", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    assert "condition met" in waiting.communicate(timeout=40)[0] or waiting.returncode == 0
    assert kubectl("get", "mcl", "-o", "name").stdout == ""


def test_waiting(kubectl: Kubectl) -> None:
    creating = start(kubectl, "wait", "--for=create", "mcl/gpu", "--timeout=30s")
    kubectl("apply", "-f", "-", stdin=CLASS)
    assert "condition met" in creating.communicate(timeout=40)[0]
    assert "timed out" in kubectl("wait", "--for=condition=Ready", "mcl/gpu", "--timeout=1s", ok=False).stderr
    waiting = start(kubectl, "wait", "--for=jsonpath={.metadata.labels.go}=yes", "mcl/gpu", "--timeout=30s")
    kubectl("label", "mcl", "gpu", "go=yes")
    assert "condition met" in waiting.communicate(timeout=40)[0]


def test_watching(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    process, lines = started(kubectl, "get", "mcl", "gpu", "-w", "-o", "name")
    kubectl("label", "mcl", "gpu", "a=b")
    assert next(lines).strip() == "machineclass.fleet.dev/gpu"
    end(process)
    process, lines = started(kubectl, "get", "mcl", "-w", "--output-watch-events", "-l", "pool=gpu")
    assert next(lines).split()[:2] == ["ADDED", "gpu"]
    for change, type_ in (("pool=cpu", "DELETED"), ("pool=gpu", "ADDED"), ("x=y", "MODIFIED")):
        kubectl("label", "--overwrite", "mcl", "gpu", change)
        assert next(lines).split()[:2] == [type_, "gpu"]
    kubectl("delete", "mcl", "gpu", "--wait=false")
    assert next(lines).split()[:2] == ["DELETED", "gpu"]
    end(process)


def test_replacing(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    uid = get(kubectl, "mcl", "gpu")["metadata"]["uid"]
    kubectl("replace", "-f", "-", stdin=CLASS.replace("'1.0'", "'2.0'"))
    assert get(kubectl, "mcl", "gpu")["metadata"]["uid"] == uid
    kubectl("replace", "--force", "-f", "-", stdin=CLASS)
    assert get(kubectl, "mcl", "gpu")["metadata"]["uid"] != uid


def test_explaining_and_asking_what_one_may(kubectl: Kubectl, people: People) -> None:
    assert "FIELDS" in kubectl("explain", "machine.spec").stdout
    assert "versions" in kubectl("explain", "machine.spec", "--recursive").stdout
    assert "resourceVersion" in kubectl("explain", "machine.metadata").stdout
    assert "does not exist" in kubectl("explain", "machine.spec.nothing", ok=False).stderr
    viewer = ("--token", people.tokens["viewer"])
    assert "viewer" in kubectl("auth", "whoami", *viewer).stdout
    assert kubectl("auth", "can-i", "list", "machines", *viewer).stdout.strip() == "yes"
    assert kubectl("auth", "can-i", "delete", "machines", *viewer, ok=False).stdout.startswith("no")
    assert "machines.fleet.dev" in kubectl("auth", "can-i", "--list", *viewer).stdout
    operator = ("--token", people.tokens["oper-a"])
    assert kubectl("auth", "can-i", "create", "machines", *operator).stdout.strip() == "yes"
    assert kubectl("auth", "can-i", "create", "machineclasses", *operator, ok=False).stdout.startswith("no")


def test_events(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    kubectl("label", "mcl", "gpu", "a=b")
    described = kubectl("describe", "mcl", "gpu").stdout
    assert "MachineClass was created by admin." in described
    assert "Changed" in kubectl("events", "--for", "machineclass/gpu").stdout
    assert "machineclass/gpu" in kubectl("get", "events").stdout
    assert "Changed" in kubectl("get", "ev", "-A", "--field-selector", "reason=Changed").stdout
    process, lines = started(kubectl, "get", "events", "-w", "-o", 'jsonpath={.reason} {.involvedObject.name}{"\\n"}')
    next(lines)
    kubectl("label", "mcl", "gpu", "a=c", "--overwrite")
    assert next(lines).split() == ["Changed", "gpu"]
    end(process)


def test_scale_is_said_not_to_be_there(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    assert "NotFound" in kubectl("scale", "mcl", "gpu", "--replicas=2", ok=False).stderr
