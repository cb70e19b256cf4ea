"""The real kubectl against the real server: what people do all day."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.servers import Kubectl, People, Server, kubectl_binaries

CLASS = "apiVersion: fleet.dev/v1\nkind: MachineClass\nmetadata: {name: gpu, labels: {pool: gpu}}\nspec: {versions: {pouch: '1.0'}}\n"


def test_discovery_lists_every_kind_with_its_short_names(kubectl: Kubectl) -> None:
    out = kubectl("api-resources", "-o", "wide").stdout
    for kind in ("Cluster", "MachineClass", "MachinePackageVersion", "Credential", "Event", "SelfSubjectReview"):
        assert kind in out
    assert "fleet.dev/v1" in kubectl("api-versions").stdout
    assert "v1.37.0+fleet" in kubectl("version").stdout


def test_apply_twice_is_unchanged_and_get_prints_the_table(kubectl: Kubectl) -> None:
    assert "created" in kubectl("apply", "-f", "-", stdin=CLASS).stdout
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=CLASS).stdout
    lines = kubectl("get", "mcl").stdout.splitlines()
    assert lines[0].split() == ["NAME", "MACHINES", "UP-TO-DATE", "AGE"]
    assert lines[1].startswith("gpu")
    assert "gpu" in kubectl("get", "machineclass.fleet.dev/gpu", "-o", "name").stdout
    assert json.loads(kubectl("get", "mcl", "gpu", "-o", "json").stdout)["spec"] == {"versions": {"pouch": "1.0"}}


def test_every_category_and_output_form_works(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    for form in (
        "yaml",
        "json",
        "name",
        "wide",
        "jsonpath={.items[*].metadata.name}",
        "custom-columns=N:.metadata.name",
    ):
        assert "gpu" in kubectl("get", "machineclasses", "-o", form).stdout
    assert "machineclass.fleet.dev/gpu" in kubectl("get", "fleet").stdout
    assert "pool=gpu" in kubectl("get", "mcl", "--show-labels").stdout
    assert "gpu" in kubectl("get", "mcl", "-L", "pool", "--sort-by=.metadata.name").stdout


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("pool=gpu", "a"),
        ("pool!=gpu", "b c"),
        ("pool in (gpu,cpu)", "a b"),
        ("pool notin (gpu)", "b c"),
        ("pool", "a b"),
        ("!pool", "c"),
        ("size>3", "a"),
        ("size<3", "b"),
    ],
)
def test_label_selectors_choose_as_kubernetes_does(kubectl: Kubectl, selector: str, names: str) -> None:
    manifest = "\n---\n".join(
        f"apiVersion: fleet.dev/v1\nkind: MachineClass\nmetadata: {{name: {n}, labels: {labels}}}\nspec: {{}}"
        for n, labels in (("a", "{pool: gpu, size: '5'}"), ("b", "{pool: cpu, size: '1'}"), ("c", "{}"))
    )
    kubectl("apply", "-f", "-", stdin=manifest)
    assert kubectl("get", "mcl", "-l", selector, "-o", "jsonpath={.items[*].metadata.name}").stdout == names


def test_bad_selectors_are_refused_with_a_sentence(kubectl: Kubectl) -> None:
    assert "field label not supported" in kubectl("get", "mcl", "--field-selector=spec.nothing=1", ok=False).stderr
    assert (
        "unable to parse requirement"
        in kubectl("get", "--raw", "/apis/fleet.dev/v1/machineclasses?labelSelector=a(b", ok=False).stderr
    )


def test_lists_go_on_in_chunks(kubectl: Kubectl) -> None:
    manifest = "\n---\n".join(
        f"apiVersion: fleet.dev/v1\nkind: MachineClass\nmetadata: {{name: c{n}}}\nspec: {{}}" for n in range(7)
    )
    kubectl("apply", "-f", "-", stdin=manifest)
    assert len(kubectl("get", "mcl", "--chunk-size=2", "-o", "name").stdout.split()) == 7


def test_unknown_fields_are_refused_warned_of_or_pruned(kubectl: Kubectl) -> None:
    bad = CLASS.replace("spec: {", "spec: {bogus: 1, ")
    assert 'unknown field "spec.bogus"' in kubectl("create", "-f", "-", stdin=bad, ok=False).stderr
    assert "Warning: unknown field" in kubectl("create", "--validate=warn", "-f", "-", stdin=bad).stderr
    assert "bogus" not in kubectl("get", "mcl", "gpu", "-o", "json").stdout


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("name: gpu", "name: Gpu_"), "a lowercase RFC 1123 subdomain"),
        (("pool: gpu", "pool: 'a b'"), "a valid label must be"),
        (("versions: {pouch: '1.0'}", "versions: 7"), "must be of type object"),
        (("pouch: '1.0'", "\"pouch; reboot\": '1.0'"), "the key must match"),
        (("pouch: '1.0'", "pouch: '1.0; reboot'"), "should match"),
    ],
)
def test_bad_values_name_their_field(kubectl: Kubectl, change: tuple[str, str], sentence: str) -> None:
    done = kubectl("apply", "-f", "-", stdin=CLASS.replace(*change), ok=False)
    assert done.returncode == 1
    assert sentence in done.stderr


def test_create_twice_generate_name_and_dry_run(kubectl: Kubectl) -> None:
    kubectl("create", "--dry-run=server", "-f", "-", stdin=CLASS)
    assert "NotFound" in kubectl("get", "mcl", "gpu", ok=False).stderr
    kubectl("create", "-f", "-", stdin=CLASS)
    assert "AlreadyExists" in kubectl("create", "-f", "-", stdin=CLASS, ok=False).stderr
    made = kubectl("create", "-f", "-", "-o", "name", stdin=CLASS.replace("name: gpu", "generateName: gpu-")).stdout
    assert made.startswith("machineclass.fleet.dev/gpu-")


def test_label_annotate_patch_and_edit(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    kubectl("label", "mcl", "gpu", "site=iad")
    kubectl("annotate", "mcl", "gpu", "note=hello")
    kubectl("patch", "mcl", "gpu", "--type=merge", "-p", '{"spec":{"versions":{"kubelet":"1.1"}}}')
    kubectl("patch", "mcl", "gpu", "--type=json", "-p", '[{"op":"remove","path":"/spec/versions/pouch"}]')
    obj = json.loads(kubectl("get", "mcl", "gpu", "-o", "json").stdout)
    assert obj["spec"]["versions"] == {"kubelet": "1.1"}
    assert obj["metadata"]["labels"] == {"pool": "gpu", "site": "iad"}
    assert obj["metadata"]["generation"] == 3
    assert "application/merge-patch+json" in kubectl("patch", "mcl", "gpu", "-p", "{}", ok=False).stderr
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/site: iad/site: fra/' \"$1\"\n")
    editor.chmod(0o755)
    os.environ["KUBE_EDITOR"] = str(editor)
    try:
        assert "edited" in kubectl("edit", "mcl", "gpu").stdout
    finally:
        del os.environ["KUBE_EDITOR"]
    assert "fra" in kubectl("get", "mcl", "gpu", "-L", "site").stdout


def test_stale_replace_is_a_conflict(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    old = kubectl("get", "mcl", "gpu", "-o", "json").stdout
    kubectl("label", "mcl", "gpu", "x=y")
    done = kubectl("replace", "-f", "-", stdin=old, ok=False)
    assert "the object has been modified" in done.stderr
    assert "replaced" in kubectl("replace", "--force", "-f", "-", stdin=old).stdout


def test_server_side_apply_names_the_owner_of_a_contested_field(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "--field-manager=a", "-f", "-", stdin=CLASS)
    other = CLASS.replace("'1.0'", "'2.0'")
    done = kubectl("apply", "--server-side", "--field-manager=b", "-f", "-", stdin=other, ok=False)
    assert 'conflict with "a": .spec.versions.pouch' in done.stderr
    kubectl("apply", "--server-side", "--field-manager=b", "--force-conflicts", "-f", "-", stdin=other)
    owners = json.loads(kubectl("get", "mcl", "gpu", "-o", "json", "--show-managed-fields").stdout)["metadata"][
        "managedFields"
    ]
    assert {o["manager"]: "f:spec" in o["fieldsV1"] for o in owners} == {"a": False, "b": True}


def test_diff_shows_what_apply_would_do(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    assert kubectl("diff", "-f", "-", stdin=CLASS, ok=False).returncode == 0
    done = kubectl("diff", "-f", "-", stdin=CLASS.replace("'1.0'", "'2.0'"), ok=False)
    assert done.returncode == 1
    assert '+    pouch: "2.0"' in done.stdout


def test_delete_waits_for_finalizers_and_wait_sees_it(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS.replace("labels:", "finalizers: [example.com/x], labels:"))
    kubectl("delete", "mcl", "gpu", "--wait=false")
    assert "deletionTimestamp" in kubectl("get", "mcl", "gpu", "-o", "yaml").stdout
    kubectl("patch", "mcl", "gpu", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    kubectl("wait", "--for=delete", "mcl/gpu", "--timeout=20s")
    assert kubectl("get", "mcl", "gpu", "--ignore-not-found").stdout == ""


def test_delete_by_name_selector_and_all(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    assert "deleted" in kubectl("delete", "mcl", "gpu", "--timeout=20s").stdout
    kubectl("apply", "-f", "-", stdin=CLASS)
    assert "deleted" in kubectl("delete", "mcl", "-l", "pool=gpu", "--timeout=20s").stdout
    kubectl("apply", "-f", "-", stdin=CLASS)
    assert "deleted" in kubectl("delete", "mcl", "--all", "--timeout=20s").stdout


def test_wait_for_a_label_that_comes_later(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    waiting = subprocess.Popen(
        [kubectl.binary, "--kubeconfig", str(kubectl.kubeconfig), "wait", "mcl/gpu", "--for=jsonpath={.metadata.labels.go}=yes", "--timeout=30s"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    kubectl("label", "mcl", "gpu", "go=yes")
    out, _ = waiting.communicate(timeout=40)
    assert "condition met" in out


def test_watch_tells_of_a_label_that_enters_and_leaves_the_selection(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    selected = ("get", "mcl", "-l", "go=yes", "--watch", "--output-watch-events", "--no-headers")
    command = [kubectl.binary, "--kubeconfig", str(kubectl.kubeconfig), *selected, "--request-timeout=60s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        for label, told in (("go=yes", "ADDED"), ("go=no", "DELETED"), ("go=yes", "ADDED")):
            kubectl("label", "--overwrite", "mcl", "gpu", label)
            assert watching.stdout.readline().split()[0] == told
        watching.terminate()


def test_explain_whoami_and_can_i(kubectl: Kubectl) -> None:
    assert "Package name to version" in kubectl("explain", "machineclass.spec.versions").stdout
    assert "labels" in kubectl("explain", "machineclass", "--recursive").stdout
    assert "admin" in kubectl("auth", "whoami").stdout
    assert kubectl("auth", "can-i", "create", "machineclasses").stdout.strip() == "yes"
    assert "machineclasses.fleet.dev" in kubectl("auth", "can-i", "--list").stdout


def test_a_viewer_reads_and_is_told_why_it_may_not_write(kubectl: Kubectl, people: People) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    as_viewer = ("--token", people.tokens["viewer"])
    assert "gpu" in kubectl("get", "mcl", *as_viewer).stdout
    done = kubectl("delete", "mcl", "gpu", *as_viewer, ok=False)
    assert 'User "viewer" cannot delete resource "machineclasses"' in done.stderr
    assert kubectl("auth", "can-i", "delete", "mcl", *as_viewer, ok=False).stdout.startswith("no")
    assert "Unauthorized" in kubectl("get", "mcl", "--token", "fleet_wrong", ok=False).stderr
    assert "impersonation" in kubectl("get", "mcl", "--as", "bob", ok=False).stderr


def test_describe_shows_what_happened(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    kubectl("label", "mcl", "gpu", "a=b")
    out = kubectl("describe", "mcl", "gpu").stdout
    assert "MachineClass was created by admin." in out
    assert "created by admin" in kubectl("events", "--for", "machineclass/gpu").stdout


def test_too_old_positions_get_410(kubectl: Kubectl, server: Server) -> None:
    kubectl("apply", "-f", "-", stdin=CLASS)
    out = kubectl("get", "--raw", "/apis/fleet.dev/v1/machineclasses?watch=1&resourceVersion=1&timeoutSeconds=2").stdout
    assert json.loads(out)["object"]["code"] in (410,)


@pytest.mark.parametrize("binary", kubectl_binaries())
def test_every_kubectl_at_hand_applies_gets_and_deletes(kubectl: Kubectl, binary: str, tmp_path: Path) -> None:
    mine = Kubectl(binary, kubectl.kubeconfig, tmp_path / "cold")
    assert "created" in mine("apply", "-f", "-", stdin=CLASS).stdout
    assert "unchanged" in mine("apply", "-f", "-", stdin=CLASS).stdout
    assert "gpu" in mine("get", "mcl").stdout
    assert "deleted" in mine("delete", "mcl", "gpu", "--timeout=20s").stdout
