"""What an act on a cluster would do, told before anybody asks for it. The order and the refusals are those of the Cluster-Operator. Reads and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import orjson

from clusters.cases import Case, progress_of
from clusters.exposure import namespace_of
from clusters.lifecycle import ADDONS, Progress, order
from clusters.planning import BACKUP_SECONDS, BACKUPS, Around, emulating, hop_of, refused
from clusters.preflight import kubelets_too_new
from clusters.schema_cluster import HOSTED, IMPORTED, LOCAL, MADE, POD_CIDR, SERVICE_CIDR, SIMULATED, provider_of
from fleet.console.words import count
from fleet.control.kinds import Json

_MACHINES: Final = "Machines"
_MANUAL: Final = "they wait for a person, for its rollout is Manual"
_AUTOMATIC: Final = "one first, then within the budget"


@dataclass(frozen=True, slots=True)
class Leg:
    """One step of a change: from which version to which, or what else there is to say of it."""

    name: str
    before: str = ""
    after: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """A change of the package version. `waits`: why it would be accepted and not begin yet; empty = it begins at once."""

    name: str
    target: str
    down: bool
    waits: Sequence[str]
    legs: Sequence[Leg]
    soak: str = ""

    @property
    def command(self) -> str:
        """The line that does the same."""
        patch = orjson.dumps({"spec": {"packageVersion": self.target}}).decode()
        return f"kubectl patch cluster {self.name} --type merge -p '{patch}'"

    @property
    def verb(self) -> str:
        """What the button says."""
        return f"Go back to {self.target}" if self.down else f"Upgrade to {self.target}"


def change(
    case: Case, target: str, version: Json, machines: int, now: datetime, kubelets: Mapping[str, int] | None = None, lacking: Sequence[str] = ()
) -> Outlook:  # fmt: skip
    """What pointing the cluster at `target` would do; `version`: the spec of that ClusterPackageVersion; `kubelets`: how many at which version;
    `lacking`: what the provider cannot run of it."""
    wished = replace(
        case, spec={**case.spec, "packageVersion": target}, versions={**case.versions, target: version}
    )  # fmt: skip
    progress = progress_of(case.status)
    hop = hop_of(wished, progress)
    down = bool(hop and hop.down)
    around = Around(_ends(case.status), kubelets=kubelets or {}, lacking=lacking)
    waits = refused(wished, progress, around, now)
    legs = _legs(wished, progress, down, machines)
    if (
        hop and hop.down and not any(leg.name == _MACHINES for leg in legs)
    ):  # else they come down first, and nobody has to do it
        waits += kubelets_too_new(hop.after["kubernetesVersion"], around.kubelets)
    if case.held:
        waits.append(f"nothing new starts: {case.held}")
    soak = ""
    speaks = emulating(wished, progress).emulated
    if hop and hop.minors > 0 and speaks:
        soak = f"Until its soak ends the API server speaks as {speaks}, and pointing back is allowed; after it only a snapshot leads back."
    return Outlook(case.name, target, down, waits, legs, soak)


def _ends(status: Json) -> list[tuple[str, datetime]]:
    return [(c["name"], datetime.fromisoformat(c["notAfter"]).astimezone(UTC)) for c in status.get("certificates", [])]


def _legs(case: Case, progress: Progress, down: bool, machines: int) -> list[Leg]:
    """Etcd is saved first whichever way it goes; everything after it turns round when it goes back."""
    target = str(case.spec["packageVersion"])
    now = progress.reached or next(iter(progress.versions.values()), "")
    before, after = case.versions.get(now, {}), case.versions[target]
    steps = [
        _addons(before, after)
        if name == ADDONS
        else Leg(name, _version(case.versions.get(progress.versions.get(name, now), {}), name), _version(after, name))
        for name in order(down)
    ]
    follow = _machines(case.spec, before, after, machines, down)
    around = [follow, *steps] if down else [*steps, follow]
    saved = Leg("Snapshot of etcd", note="kept, and the way back when all else fails")
    first = [saved] if progress.reached and progress.reached != target else []
    return first + [leg for leg in around if leg]


def _version(spec: Json, name: str) -> str:
    found: Json = next((c for c in spec.get("components", []) if c["name"] == name), {})
    return str(found.get("version") or spec.get("kubernetesVersion", ""))


def _addons(before: Json, after: Json) -> Leg | None:
    names = [a["name"] for spec in (after, before) for a in spec.get("addons", [])]
    return Leg("Addons", note=", ".join(dict.fromkeys(names))) if names else None


def _machines(spec: Json, before: Json, after: Json, machines: int, down: bool) -> Leg | None:
    """Packages that the machines take from the version, where the cluster itself says nothing stronger."""
    own = spec.get("machineVersions", {})
    was, becomes = before.get("machineVersions", {}), after.get("machineVersions", {})
    moved = [
        f"{name} {was.get(name, 'none')} → {version}"
        for name, version in sorted(becomes.items())
        if name not in own and str(was.get(name)) != str(version)
    ]
    if not moved:
        return None
    how = _MANUAL if spec.get("rollout", {}).get("mode") == "Manual" else _AUTOMATIC
    how += "; the control plane waits for their kubelets" if down else ""
    what = f"{', '.join(moved)} on {count(machines, 'machine')}"
    return Leg(_MACHINES, note=f"{what}: {how}" if machines else what)


def making(obj: Json, version: Json) -> list[str]:
    """What there would be once this new Cluster is made, one sentence each."""
    spec, name = obj["spec"], obj["metadata"]["name"]
    provider = provider_of(spec)
    if provider == IMPORTED:
        return [
            f"Nothing is made: Fleet reads the nodes of the cluster behind Credential {spec['kubeconfigCredential']}.",
            "Gates only count, until spec.enforceGates says true; the control plane is never touched.",
        ]
    if provider == SIMULATED:
        return ["A simulated API server whose nodes are the simulated machines that name it; no real host is touched."]
    if provider not in MADE:
        return ["A group of plain hosts: nothing is made, and machines that name it take its defaults."]
    return [_control_plane(spec, name, version), *_network(spec), *_extras(spec, version)]


def _control_plane(spec: Json, name: str, version: Json) -> str:
    shape = spec.get("controlPlane", {})
    what = f"Kubernetes {version['kubernetesVersion']} with etcd {_version(version, 'etcd')}"
    if provider_of(spec) == HOSTED:
        where = f"namespace {namespace_of(name, spec)} of {shape.get('metaCluster')}"
        return f"{what} as pods in {where}, {count(shape.get('etcdReplicas', 1), 'member')} of etcd."
    return f"{what} as four processes on Fleet's own host." if provider_of(spec) == LOCAL else f"{what}."


def _network(spec: Json) -> list[str]:
    exposure, network = spec.get("controlPlane", {}).get("exposure", {}), spec.get("network", {})
    port = exposure.get("port", "a port of its own")
    return [
        f"Its API server answers at {exposure.get('host', '127.0.0.1')}, {f'port {port}' if exposure.get('port') else port}.",
        f"Pods from {network.get('podCIDR', POD_CIDR)}, services from {network.get('serviceCIDR', SERVICE_CIDR)}.",
        "Keys and certificates of its own, sealed, renewed before they end.",
    ]


def _extras(spec: Json, version: Json) -> list[str]:
    backups: Mapping[str, int] = spec.get("backups", {})
    hours = backups.get("intervalSeconds", BACKUP_SECONDS) / 3600
    out = [f"Etcd is saved every {hours:g} h; {backups.get('keep', BACKUPS)} snapshots are kept."]
    addons = [a["name"] for a in version.get("addons", [])]
    if addons:
        out.append(f"Addons: {', '.join(addons)}.")
    taken = {**version.get("machineVersions", {}), **spec.get("machineVersions", {})}
    if taken:
        out.append(f"Machines that name it take {', '.join(f'{k} {v}' for k, v in sorted(taken.items()))}.")
    return [*out, "Provider, address and network ranges never change afterwards."]
