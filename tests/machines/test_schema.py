"""What manifests may say."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.schema_cluster import CLUSTER_KIND
from fleet.api.schema import prune, validate
from fleet.control.kinds import API_VERSION, Json, Kind
from machines.schema import (
    CONFIG_VERSION_KIND,
    KINDS,
    MACHINE_KIND,
    OPERATION_KIND,
    PACKAGE_VERSION_KIND,
    package_version,
)


def obj(kind: Kind, **spec: Any) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": {"name": "x"}, "spec": spec}


def fields(kind: Kind, **spec: Any) -> list[str]:
    return [p.field for p in validate(kind, obj(kind, **spec))]


def test_the_manifests_of_the_first_page_apply_as_they_are() -> None:
    machine = {"idc": "xxx", "ip": "10.10.10.1", "versions": {"pouch": 1.0, "kubelet": 1.1}}
    package = {
        "packageName": "pouch",
        "config": {"rpm": "http://pouch-1.0.rpm"},
        "configMaps": [{"name": "pouch-config", "value": "v1"}],
    }
    assert fields(MACHINE_KIND, **machine) == []
    assert fields(PACKAGE_VERSION_KIND, **package) == []
    assert prune(MACHINE_KIND, obj(MACHINE_KIND, **machine))[1] == []
    assert prune(PACKAGE_VERSION_KIND, obj(PACKAGE_VERSION_KIND, **package))[1] == []
    assert package_version({"metadata": {"name": "pouch-1.0"}, "spec": package}) == "1.0"


@pytest.mark.parametrize("kind", [*KINDS, CLUSTER_KIND], ids=lambda k: k.kind)
def test_the_example_of_each_kind_is_valid(kind: Kind) -> None:
    example = {**kind.example, "metadata": {"name": "x"}}
    assert validate(kind, example) == []
    assert prune(kind, example)[1] == []


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        pytest.param(MACHINE_KIND, {}, "spec.ip", id="no address"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.256"}, "spec.ip", id="no address at all"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.1; reboot"}, "spec.ip", id="a shell in the address"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.1", "versions": {"a'b": "1"}}, "spec.versions[a'b]", id="a quote in a package name"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.1", "versions": {"a\nb": "1"}}, "spec.versions[a\nb]", id="a newline in a package name"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.1", "versions": {"a": "1 0"}}, "spec.versions[a]", id="a space in a version"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.1", "versions": {"a": "$(id)"}}, "spec.versions[a]", id="a shell in a version"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.1", "versions": {"a": True}}, "spec.versions[a]", id="a version that is no version"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.1", "driftPolicy": "Ignore"}, "spec.driftPolicy", id="an unknown policy"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.1", "driver": {"type": "telnet"}}, "spec.driver.type", id="an unknown driver"),
        pytest.param(MACHINE_KIND, {"ip": "10.0.0.1", "driver": {"hostKeys": ["key\nssh-rsa AAAA"]}}, "spec.driver.hostKeys[0]", id="two lines in a host key"),
        pytest.param(PACKAGE_VERSION_KIND, {}, "spec.packageName", id="no package name"),
        pytest.param(PACKAGE_VERSION_KIND, {"packageName": 'a"b'}, "spec.packageName", id="a quote in the package name"),
        pytest.param(PACKAGE_VERSION_KIND, {"packageName": "../a"}, "spec.packageName", id="a way up in the package name"),
        pytest.param(PACKAGE_VERSION_KIND, {"packageName": "a", "config": {"deb": "ftp://x/y.deb"}}, "spec.config.deb", id="an unknown way to fetch"),
        pytest.param(PACKAGE_VERSION_KIND, {"packageName": "a", "config": {"deb": "http://x/$(id).deb"}}, "spec.config.deb", id="a shell in a URL"),
        pytest.param(PACKAGE_VERSION_KIND, {"packageName": "a", "config": {"sha256": "ABC"}}, "spec.config.sha256", id="no checksum"),
        pytest.param(PACKAGE_VERSION_KIND, {"packageName": "a", "units": [{"name": "a.service; id"}]}, "spec.units[0].name", id="a shell in a unit"),
        pytest.param(PACKAGE_VERSION_KIND, {"packageName": "a", "requires": ["a"]}, "spec.requires", id="it requires itself"),
        pytest.param(PACKAGE_VERSION_KIND, {"packageName": "a", "healthCheck": {"command": []}}, "spec.healthCheck.command", id="an empty command"),
        pytest.param(
            PACKAGE_VERSION_KIND,
            {"packageName": "a", "config": {"artifacts": [{"format": "tarball", "url": "http://x/y", "destination": "/opt/../etc"}]}},
            "spec.config.artifacts[0].destination",
            id="a way up in a destination",
        ),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "files": [{"path": "etc/a"}]}, "spec.files[0].path", id="a relative path"),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "files": [{"path": "/etc/../root/a"}]}, "spec.files[0].path", id="a way up in a path"),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "files": [{"path": "/etc/a\nb"}]}, "spec.files[0].path", id="a newline in a path"),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "files": [{"path": "/var/lib/fleet/op/a"}]}, "spec.files[0].path", id="Fleet's own place"),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "files": [{"path": "/a"}, {"path": "/a"}]}, "spec.files[1].path", id="one path twice"),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "files": [{"path": "/a", "owner": "root;id"}]}, "spec.files[0].owner", id="a shell in an owner"),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "files": [{"path": "/a", "mode": "rwx"}]}, "spec.files[0].mode", id="a mode in letters"),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "files": [{"path": "/a", "onChange": ["run:id"]}]}, "spec.files[0].onChange[0]", id="an unknown reaction"),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "sysctls": {"../x": 1}}, "spec.sysctls[../x]", id="a way up in a sysctl"),
        pytest.param(CONFIG_VERSION_KIND, {"configName": "a", "modules": ["a b"]}, "spec.modules[0]", id="a space in a module"),
        pytest.param(OPERATION_KIND, {"machine": "m", "verb": "Explode"}, "spec.verb", id="an unknown verb"),
        pytest.param(OPERATION_KIND, {"machine": "m", "verb": "Restart"}, "spec.units", id="a restart of nothing"),
        pytest.param(OPERATION_KIND, {"machine": "m", "verb": "RunAgain"}, "spec.operation", id="again, but what"),
        pytest.param(CLUSTER_KIND, {"provider": "Bare"}, "spec.provider", id="a provider that nobody knows"),
    ],
)  # fmt: skip
def test_what_must_not_reach_a_host_is_refused_by_its_field(kind: Kind, spec: Json, field: str) -> None:
    assert field in fields(kind, **spec)


def test_versions_that_came_as_numbers_are_warned_of() -> None:
    (said,) = MACHINE_KIND.warn(obj(MACHINE_KIND, ip="10.0.0.1", versions={"a": 1.1, "b": "1.1"}))
    assert "spec.versions[a]" in said
    assert "quote versions" in said


def test_an_artifact_without_checksum_is_warned_of() -> None:
    (said,) = PACKAGE_VERSION_KIND.warn(obj(PACKAGE_VERSION_KIND, packageName="a", config={"rpm": "http://x/a.rpm"}))
    assert "never be installed" in said
