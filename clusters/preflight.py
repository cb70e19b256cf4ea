"""Whether a cluster may go from one package version to another: the rules of version skew, before anything changes. Pure.

Source: https://kubernetes.io/releases/version-skew-policy/ and etcd's rule that data of a newer minor is not read by an older one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from clusters.versions import minor_of, minor_text, version_key
from fleet.control.kinds import Json

KUBELET_BEHIND: Final = 3  # minors that a kubelet may be behind its API server
CERTIFICATE_DAYS: Final = 1  # an upgrade must not run into the end of a certificate


@dataclass(frozen=True, slots=True)
class Hop:
    """From the spec of one ClusterPackageVersion to another's. `emulated`: minor that is emulated until the soak ends, "" = none.

    `known`: all ClusterPackageVersions as (name, Kubernetes version).
    """

    before: Json
    after: Json
    emulated: str = ""
    known: Sequence[tuple[str, str]] = ()

    @property
    def minors(self) -> int:
        """How many minors it goes up; negative = down."""
        return minor_of(self.after["kubernetesVersion"])[1] - minor_of(self.before["kubernetesVersion"])[1]

    @property
    def down(self) -> bool:
        """Whether it goes back to an older version."""
        return version_key(self.after["kubernetesVersion"]) < version_key(self.before["kubernetesVersion"])


def etcd_version(spec: Json) -> str:
    """etcd's own version in a ClusterPackageVersion."""
    return str(next((c.get("version", "") for c in spec.get("components", []) if c["name"] == "etcd"), ""))


def refusals(hop: Hop) -> list[str]:
    """Sentences, one for each reason that holds whatever state the cluster is in."""
    out = []
    before, after = hop.before["kubernetesVersion"], hop.after["kubernetesVersion"]
    major, minor = minor_of(before)
    if minor_of(after)[0] != major:
        out.append(f"goes from Kubernetes {before} to {after}, another major version")
    elif hop.minors > 1:
        out.append(
            f"goes from Kubernetes {before} to {after}, one minor at a time; {_missing(hop, f'{major}.{minor + 1}')}"
        )
    elif hop.minors < 0:
        back = minor_text(after)
        if hop.emulated != back:
            out.append(
                f"goes back from Kubernetes {before} to {after}; after the soak only a snapshot restored by a person leads back"
            )
    if minor_of(etcd_version(hop.after)) < minor_of(etcd_version(hop.before)):
        out.append(
            f"goes from etcd {etcd_version(hop.before)} to {etcd_version(hop.after)}; an older etcd minor does not read the data"
        )
    return out


def _missing(hop: Hop, minor: str) -> str:
    """What to do instead: the hop that comes first, by the name of its version where there is one."""
    there = sorted((version_key(v), n) for n, v in hop.known if minor_text(v) == minor)
    return f"go to {there[-1][1]} first" if there else f"a ClusterPackageVersion of Kubernetes {minor} is missing"


def kubelets_too_new(target: str, kubelets: Mapping[str, int]) -> list[str]:
    """What a change back has to wait for: a kubelet may not be newer than its API server. `kubelets`: version -> how many."""
    newer = {k: n for k, n in kubelets.items() if _is_newer(k, target)}
    if not newer:
        return []
    return [
        f"waits for machines: {_kubelets(newer)} newer than Kubernetes {target}, up to {max(newer, key=version_key)}"
    ]


def kubelets_too_old(target: str, kubelets: Mapping[str, int]) -> list[str]:
    """What an upgrade would leave behind: a kubelet may be three minors older than its API server, not more."""
    older = {k: n for k, n in kubelets.items() if _is_left_behind(k, target)}
    if not older:
        return []
    text = f"{_kubelets(older)} more than {KUBELET_BEHIND} minors older than Kubernetes {target}, down to {min(older, key=version_key)}"
    return [f"{text}; upgrade them first"]


def kubelet_skew(kubelet: str, server: str, of: str) -> str:
    """Why a kubelet of that version may not meet an API server of that version, "" = it may. `of`: whose, for people."""
    if _is_newer(kubelet, server):
        return f"is newer than {of}, {server}; a kubelet is never newer than its API server"
    if _is_left_behind(kubelet, server):
        return f"is more than {KUBELET_BEHIND} minors older than {of}, {server}"
    return ""


def _is_newer(kubelet: str, server: str) -> bool:
    """By minors: patch releases do not count. What is no version is not known to be newer."""
    return minor_of(kubelet) > minor_of(server) > (0, 0)


def _is_left_behind(kubelet: str, server: str) -> bool:
    major, minor = minor_of(server)
    return (0, 0) < minor_of(kubelet) < (major, minor - KUBELET_BEHIND)


def _kubelets(found: Mapping[str, int]) -> str:
    number = sum(found.values())
    return "1 kubelet is" if number == 1 else f"{number} kubelets are"


def is_short(row: Json) -> bool:
    """Whether a component (`status.components[]`) has fewer pods ready than it shall have."""
    there, _, shall = str(row.get("replicas", "")).partition("/")
    return there != shall


def replicas_missing(rows: Sequence[Json]) -> list[str]:
    """Components (`status.components[]`) that work with fewer pods than they shall have: one at a time is replaced, and one is away already."""
    out = []
    for row in rows:
        if row.get("ready") == "True" and is_short(row):
            why = row.get("message") or f"{row['replicas'].replace('/', ' of ')} pods are ready"
            out.append(f"{row['name']} lacks replicas, and a change takes one more away: {why}")
    return out


def state_refusals(conditions: Sequence[Json], not_after: Sequence[tuple[str, datetime]], now: datetime) -> list[str]:
    """What must be well before a version changes: etcd, the API server, certificates with a day left."""
    out = []
    by_type = {c["type"]: c for c in conditions}
    for type_, what in (
        ("EtcdHealthy", "etcd is not known to be healthy"),
        ("APIServerReachable", "the API server is not reachable"),
    ):
        found = by_type.get(type_, {})
        if found.get("status") != "True":
            out.append(f"{what}: {found.get('message') or 'it was not looked at yet'}")
    soon = now + timedelta(days=CERTIFICATE_DAYS)
    ending = sorted((at, name) for name, at in not_after if at < soon)
    if ending:
        out.append(
            f"the certificate {ending[0][1]} ends at {ending[0][0]:%Y-%m-%d %H:%M} UTC; it has to be renewed first"
        )
    return out
