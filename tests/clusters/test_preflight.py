"""Whether a cluster may go from one package version to another, and which kubelets an API server may have: the rules of version skew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from clusters.preflight import (
    Hop,
    kubelet_skew,
    kubelets_too_new,
    kubelets_too_old,
    refusals,
    replicas_missing,
    state_refusals,
)
from clusters.schema_versions import CLUSTER_PACKAGE_VERSION_KIND
from fleet.control.kinds import Json

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN = (("v35", "1.35.9"), ("v36", "1.36.3"), ("v36b", "1.36.12"), ("v37", "1.37.2"), ("v38", "1.38.0"))


def package(kubernetes: str, etcd: str = "3.7.3") -> Json:
    return {"kubernetesVersion": kubernetes, "components": [{"name": "etcd", "version": etcd}]}


@pytest.mark.parametrize(
    ("before", "after", "emulated", "said"),
    [
        pytest.param(package("1.36.3"), package("1.37.2"), "", [], id="a minor up"),
        pytest.param(package("1.36.3"), package("1.36.12"), "", [], id="a patch up"),
        pytest.param(package("1.36.12"), package("1.36.3"), "", [], id="a patch back"),
        pytest.param(package("1.35.9"), package("1.37.2"), "", ["one minor at a time; go to v36b first"], id="a minor is skipped, its newest is named"),
        pytest.param(package("1.38.0"), package("1.40.0"), "", ["a ClusterPackageVersion of Kubernetes 1.39 is missing"], id="a minor is skipped that is not there"),
        pytest.param(package("1.37.2"), package("1.36.3"), "1.36", [], id="back while the old minor is emulated"),
        pytest.param(package("1.37.2"), package("1.36.3"), "", ["only a snapshot restored by a person"], id="back after the soak"),
        pytest.param(package("1.38.0"), package("1.36.3"), "1.37", ["only a snapshot restored by a person"], id="back by two minors"),
        pytest.param(package("1.37.2"), package("2.0.0"), "", ["another major version"], id="another major"),
        pytest.param(package("1.36.3", "3.7.3"), package("1.37.2", "3.6.9"), "", ["from etcd 3.7.3 to 3.6.9; an older etcd minor"], id="etcd goes back"),
        pytest.param(package("1.36.3", "3.7.3"), package("1.37.2", "3.7.1"), "", [], id="a patch of etcd goes back"),
        pytest.param(package("1.35.9", "3.7.3"), package("1.37.2", "3.6.9"), "", ["one minor at a time", "an older etcd minor"], id="both are told"),
    ],
)  # fmt: skip
def test_a_hop_is_one_minor_and_never_an_older_etcd(before: Json, after: Json, emulated: str, said: list[str]) -> None:
    found = refusals(Hop(before, after, emulated, KNOWN))
    assert len(found) == len(said)
    assert all(text in whole for text, whole in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("kubelet", "server", "said"),
    [
        pytest.param("1.37.2", "1.37.2", "", id="the same"),
        pytest.param("v1.37.9", "1.37.2", "", id="a newer patch"),
        pytest.param("1.34.0", "1.37.2", "", id="three minors older"),
        pytest.param("1.33.9", "1.37.2", "is more than 3 minors older than its API server, 1.37.2", id="four minors older"),
        pytest.param("1.38.0", "1.37.2", "is newer than its API server, 1.37.2; a kubelet is never newer", id="newer"),
        pytest.param("1.37.2-1.1", "1.36.3", "is newer than its API server, 1.36.3", id="a version of a package"),
        pytest.param("latest", "1.37.2", "", id="no version says nothing"),
        pytest.param("1.37.2", "", "", id="an API server that is not known says nothing"),
    ],
)  # fmt: skip
def test_a_kubelet_is_never_newer_than_its_api_server_and_at_most_three_minors_older(
    kubelet: str, server: str, said: str
) -> None:
    found = kubelet_skew(kubelet, server, "its API server")
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize(
    ("kubelets", "new", "old"),
    [
        pytest.param({}, [], [], id="none"),
        pytest.param({"1.36.3": 9, "1.35.0": 1}, [], [], id="all suit"),
        pytest.param({"1.37.2": 2, "1.38.0": 1, "1.36.3": 7}, ["waits for machines: 3 kubelets are newer than Kubernetes 1.36.3, up to 1.38.0"], [], id="three are newer"),
        pytest.param({"1.37.2": 1}, ["waits for machines: 1 kubelet is newer than Kubernetes 1.36.3, up to 1.37.2"], [], id="one is newer"),
        pytest.param({"1.32.1": 4, "1.31.0": 1}, [], ["5 kubelets are more than 3 minors older than Kubernetes 1.36.3, down to 1.31.0; upgrade them first"], id="some are left behind"),
    ],
)  # fmt: skip
def test_kubelets_that_a_change_has_to_think_of_are_counted(
    kubelets: dict[str, int], new: list[str], old: list[str]
) -> None:
    assert kubelets_too_new("1.36.3", kubelets) == new
    assert kubelets_too_old("1.36.3", kubelets) == old


WELL = [{"type": "EtcdHealthy", "status": "True"}, {"type": "APIServerReachable", "status": "True"}]


@pytest.mark.parametrize(
    ("conditions", "days", "said"),
    [
        pytest.param(WELL, 30.0, [], id="well"),
        pytest.param(WELL, 0.5, ["the certificate apiserver.crt ends at 2026-01-01 12:00 UTC"], id="a certificate ends"),
        pytest.param(WELL[1:], 30.0, ["etcd is not known to be healthy: it was not looked at yet"], id="etcd was not looked at"),
        pytest.param([{"type": "EtcdHealthy", "status": "Unknown", "message": "no answer"}, WELL[1]], 30.0, ["etcd is not known to be healthy: no answer"], id="unknown is not healthy"),
        pytest.param([], 0.5, ["etcd is not known", "the API server is not reachable", "the certificate"], id="all of it"),
    ],
)  # fmt: skip
def test_a_change_begins_in_a_cluster_that_is_well(conditions: list[Json], days: float, said: list[str]) -> None:
    found = state_refusals(conditions, [("apiserver.crt", NOW + timedelta(days=days))], NOW)
    assert len(found) == len(said)
    assert all(text in whole for text, whole in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        pytest.param({"ready": "True", "replicas": "3/3"}, [], id="all of them"),
        pytest.param({"ready": "True", "replicas": "2/3"}, ["kube-apiserver lacks replicas, and a change takes one more away: 2 of 3 pods are ready"], id="one lacks"),
        pytest.param({"ready": "True", "replicas": "2/3", "message": "2 of 3 pods are ready: a1 waits: no node"}, ["kube-apiserver lacks replicas, and a change takes one more away: 2 of 3 pods are ready: a1 waits: no node"], id="and why"),
        pytest.param({"ready": "False", "replicas": "0/1"}, [], id="conditions tell that none is ready"),
    ],
)  # fmt: skip
def test_a_change_takes_no_replica_away_while_another_one_lacks(row: Json, said: list[str]) -> None:
    assert replicas_missing([{"name": "kube-apiserver", **row}]) == said


@pytest.mark.parametrize(("kubelet", "ok"), [("1.37.2", True), ("1.34.0", True), ("1.38.0", False), (1.33, False)])
def test_a_package_version_whose_kubelet_does_not_suit_it_is_refused(kubelet: object, ok: bool) -> None:
    spec = {**CLUSTER_PACKAGE_VERSION_KIND.example["spec"], "machineVersions": {"kubelet": kubelet}}
    assert CLUSTER_PACKAGE_VERSION_KIND.validate is not None
    assert [p.field for p in CLUSTER_PACKAGE_VERSION_KIND.validate({"spec": spec}, None)] == (
        [] if ok else ["spec.machineVersions[kubelet]"]
    )
