"""What machines take from the ClusterPackageVersion of their cluster."""

from __future__ import annotations

import pytest

from clusters.following import followed, machine_versions, still_to_come

PACKAGES = {
    "v36": {"kubernetesVersion": "1.36.3", "machineVersions": {"kubelet": "1.36.3", "cni": "1.0"}},
    "v37": {"kubernetesVersion": "1.37.2", "machineVersions": {"kubelet": "1.37.2", "cni": "1.0"}},
    "v37b": {"kubernetesVersion": "1.37.2", "machineVersions": {"kubelet": "1.37.2", "cni": "1.0"}},
}


@pytest.mark.parametrize(
    ("provider", "wanted", "reached", "name", "coming"),
    [
        pytest.param("Local", "v36", "", "v36", "", id="a new cluster: there is no older API server"),
        pytest.param("Local", "v37", "v37", "v37", "", id="at rest"),
        pytest.param("Local", "v37", "v36", "v36", "the machines follow v36 until the control plane has reached v37", id="up: after the control plane"),
        pytest.param("Hosted", "v36", "v37", "v36", "", id="down: before the control plane"),
        pytest.param("Local", "v37b", "v37", "v37", "", id="another one with the same for machines"),
        pytest.param("Local", "gone", "v36", "v36", "", id="one that is not there"),
        pytest.param("Local", "v36", "gone", "v36", "", id="one that is not there any more"),
        pytest.param("Imported", "v37", "v36", "", "", id="an imported cluster has its own versions only"),
        pytest.param("", None, None, "", "", id="plain hosts"),
    ],
)  # fmt: skip
def test_machines_go_up_after_the_control_plane_and_come_down_before_it(
    provider: str, wanted: str | None, reached: str | None, name: str, coming: str
) -> None:
    spec, status = {"provider": provider, "packageVersion": wanted}, {"packageVersion": reached}
    assert followed(spec, status, PACKAGES) == name
    assert still_to_come(spec, status, PACKAGES) == coming
    assert machine_versions(spec, status, PACKAGES) == PACKAGES.get(name, {}).get("machineVersions", {})


def test_the_clusters_own_versions_are_stronger() -> None:
    spec = {"provider": "Local", "packageVersion": "v37", "machineVersions": {"cni": "1.1", "npd": "0.8"}}
    assert machine_versions(spec, {"packageVersion": "v37"}, PACKAGES) == {
        "kubelet": "1.37.2",
        "cni": "1.1",
        "npd": "0.8",
    }
    pinned = {**spec, "machineVersions": {"kubelet": "1.36.3", "cni": "1.1"}}
    assert still_to_come(pinned, {"packageVersion": "v36"}, PACKAGES) == ""
