"""Addons as objects: rendered, read, ordered; what is wrong is said with the addon's name."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.manifests import called, differs, in_order, problems, rendered, values_of
from clusters.schema_versions import CLUSTER_PACKAGE_VERSION_KIND
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json

RANGES = {"podCIDR": "10.244.0.0/16", "serviceCIDR": "10.96.0.0/12"}


def values(**variables: Any) -> Json:
    spec = {"variables": variables, "idc": "iad1"}
    return values_of("web", "k8s-1.37.2", spec, {"kubernetesVersion": "1.37.2"}, RANGES, "https://10.0.0.1:6443")


def package(*manifests: str) -> Json:
    return {"addons": [{"name": f"a{i}", "manifest": m} for i, m in enumerate(manifests)]}


def one(manifest: str, **variables: Any) -> list[Json]:
    (addon,) = rendered(package(manifest), values(**variables))
    return list(addon.objects)


MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: kube-system}\ndata:\n  a: "


def test_variables_and_what_the_cluster_declares_are_filled_in() -> None:
    text = (
        MAP
        + "'{{ variables.mtu }} {{ cluster.name }} {{ cluster.podCIDR }} {{ cluster.dnsAddress }} {{ cluster.kubernetesVersion }} {{ cluster.server }}'"
    )
    assert one(text, mtu=1450)[0]["data"] == {"a": "1450 web 10.244.0.0/16 10.96.0.10 1.37.2 https://10.0.0.1:6443"}


def test_several_documents_lists_and_conditions_of_the_template_become_objects() -> None:
    text = (
        "---\n# nothing\n---\n{% if variables.extra %}"
        + MAP
        + "x\n{% endif %}---\nkind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n"
    )
    assert [called(o) for o in one(text, extra=True)] == ["ConfigMap kube-system/m", "Secret s"]
    assert [called(o) for o in one(text, extra=False)] == ["Secret s"]


def test_a_status_is_not_wished_and_what_yaml_takes_for_a_date_stays_text() -> None:
    (obj,) = one(MAP + "2026-01-01\nstatus: {a: b}\n")
    assert obj["data"] == {"a": "2026-01-01"}
    assert "status" not in obj


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join(['*' + m] * 10)}]\n" for m, n in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        pytest.param(MAP + "'{{ variables.nothing }}'", "addon a0.*'dict object' has no attribute 'nothing'", id="a variable that is not set"),
        pytest.param(MAP + "'{{ cluster.__class__ }}'", "addon a0", id="no way out of the sandbox"),
        pytest.param(MAP + "{{ variables.x }}", "addon a0: is no YAML once its variables are filled in", id="no YAML with this value"),
        pytest.param("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ variables.empty }}'}", "addon a0: holds a document without", id="a name that is empty"),
        pytest.param("kind: List\nitems: [1]", "addon a0: holds a document without", id="a list of no objects"),
        pytest.param(BOMB, "more than 100000 values", id="a small text that unfolds"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_names_the_addon_and_the_reason(manifest: str, said: str) -> None:
    with pytest.raises(PermanentError, match=said) as caught:
        one(manifest, x="{a: [", empty="")
    assert problems(package(manifest), values(x="{a: [", empty="")) == [caught.value.message]


@pytest.mark.parametrize(
    ("manifests", "said"),
    [
        pytest.param([MAP + "1", MAP + "2"], "addon a1: ConfigMap kube-system/m is in addon a0 already", id="in two addons"),
        pytest.param([MAP + "1\n---\n" + MAP + "2"], "addon a0: ConfigMap kube-system/m is in addon a0 already", id="twice in one"),
    ],
)  # fmt: skip
def test_an_object_belongs_to_one_addon_once(manifests: list[str], said: str) -> None:
    with pytest.raises(PermanentError, match=said):
        rendered(package(*manifests), values())


def test_the_hash_moves_with_the_content_only() -> None:
    first, same, other = (rendered(package(MAP + v), values())[0].hash for v in ("x", "'x'", "y"))
    assert first == same != other


def obj(kind: str, name: str = "x") -> Json:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


def test_what_others_need_comes_first_across_all_addons() -> None:
    kinds = [
        "ValidatingWebhookConfiguration",
        "Deployment",
        "Widget",
        "ServiceAccount",
        "CustomResourceDefinition",
        "Namespace",
    ]
    groups = [[o["kind"] for o in group] for group in in_order(obj(k) for k in kinds)]
    assert groups == [
        ["Namespace"],
        ["CustomResourceDefinition"],
        ["ServiceAccount"],
        ["Deployment", "Widget"],
        ["ValidatingWebhookConfiguration"],
    ]


def test_an_object_that_only_moved_on_is_not_another_one() -> None:
    before = {**obj("DaemonSet"), "spec": {"a": 1}, "status": {"x": 1}}
    before["metadata"] |= {"resourceVersion": "1", "generation": 1, "managedFields": []}
    after = {**before, "status": {"x": 2}, "metadata": {**before["metadata"], "resourceVersion": "2"}}
    assert not differs(before, after)
    assert differs(before, {**after, "spec": {"a": 2}})


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        pytest.param(MAP + "{{ variables.x }}", [], id="a value"),
        pytest.param("{% if variables.x %}\n" + MAP + "1\n{% endif %}\n", [], id="a condition around a document"),
        pytest.param("kind: List\napiVersion: v1\nitems: []", [], id="a list"),
        pytest.param(MAP + "'{% if %}'", ["is no template: line 5"], id="no template"),
        pytest.param("a: [", ["is no YAML"], id="no YAML"),
        pytest.param("kind: ConfigMap", ["document 1 lacks apiVersion, kind or metadata.name"], id="no object"),
    ],
)  # fmt: skip
def test_a_package_version_with_a_broken_manifest_is_refused(manifest: str, said: list[str]) -> None:
    spec = {**CLUSTER_PACKAGE_VERSION_KIND.example["spec"], **package(manifest)}
    assert CLUSTER_PACKAGE_VERSION_KIND.validate is not None
    found = [p.message for p in CLUSTER_PACKAGE_VERSION_KIND.validate({"spec": spec}, None)]
    assert len(found) == len(said)
    assert all(text in message for text, message in zip(said, found, strict=True))
