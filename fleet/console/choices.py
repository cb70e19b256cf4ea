"""What dialogs about clusters offer to choose from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from clusters.models import ClusterPackageVersion
from clusters.preflight import Hop, refusals
from clusters.schema_cluster import BUILT, HOSTED, OPERATED
from clusters.versions import version_key
from fleet.api.approval import usable
from fleet.api.credentials import may_refer
from fleet.api.models import Credential
from fleet.api.rights import Actor
from fleet.console.queries import rows
from fleet.control.kinds import Json

MOST: Final = 300
PROVIDERS: Final = {
    "Hosted": "Hosted: pods of a meta cluster",
    "Local": "Local: processes on Fleet's host",
    "Imported": "Imported: there already, by its kubeconfig",
    "Simulated": "Simulated: an API server for trials",
}
# how the API server of a Hosted cluster is reached; the first by default
EXPOSURES: Final = (
    ("HostPort", "HostPort: on the nodes that carry it"),
    ("NodePort", "NodePort of the meta cluster"),
    ("ClusterIP", "ClusterIP: inside the meta cluster"),
    ("LoadBalancer", "LoadBalancer of the meta cluster"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """An option of a list. `note`: why it would be refused, "" = it would not."""

    value: str
    text: str
    chosen: bool = False
    note: str = ""


def _versions() -> list[tuple[str, str, Json, Json]]:
    """(name, Kubernetes version, spec, status), the newest first."""
    found = ClusterPackageVersion.objects.filter(deleted_at=None).values_list("name", "kubernetes_version", "spec", "status")[:MOST]  # fmt: skip
    return sorted(found, key=lambda v: (version_key(v[1]), v[0]), reverse=True)


def versions(obj: Json, to: str) -> list[tuple[str, list[Choice]]]:
    """Where a cluster may go, grouped; chosen is `to`, else the newest that is not refused, else where it points."""
    status, points = obj.get("status", {}), obj["spec"].get("packageVersion", "")
    found = _versions()
    stands = status.get("packageVersion") or points
    before = next((v for v in found if v[0] == stands), None)
    if before is None:
        return [("", [_choice(v, "", v[0] == (to or points)) for v in found])]
    known = [(v[0], v[1]) for v in found]
    notes = {v[0]: _note(v, before, status.get("emulatedVersion", ""), known) for v in found}
    on = [v for v in found if _is_newer(v, before)]
    back = [v for v in found if v not in on and v[0] != points]
    chosen = to if to in notes else next((v[0] for v in on if not notes[v[0]] and v[0] != points), points)
    now = [v for v in found if v[0] == points and v not in on]
    groups = (("Newer", on), ("Where it points", now), ("Older or the same", back))
    return [(title, [_choice(v, notes[v[0]], v[0] == chosen) for v in group]) for title, group in groups if group]


def _is_newer(version: tuple[str, str, Json, Json], before: tuple[str, str, Json, Json]) -> bool:
    return version_key(version[1]) > version_key(before[1])


def _note(
    version: tuple[str, str, Json, Json], before: tuple[str, str, Json, Json], emulated: str, known: list[tuple[str, str]]
) -> str:  # fmt: skip
    if not usable(version[3]):
        return "waits for approval"
    return "refused" if refusals(Hop(before[2], version[2], emulated, known)) else ""


def _choice(version: tuple[str, str, Json, Json], note: str, chosen: bool) -> Choice:
    name, kubernetes = version[0], version[1]
    text = name if kubernetes in name else f"{name}, Kubernetes {kubernetes}"
    return Choice(name, f"{text} ({note})" if note else text, chosen, note)


_NAMES: Final = f"""
(SELECT 'idc' AS what, name, '' AS value, NULL::timestamptz AS until FROM clusters_idc ORDER BY name LIMIT %(most)s) UNION ALL
(SELECT 'meta', name, '', NULL FROM clusters_cluster WHERE deleted_at IS NULL AND spec ->> 'provider' = ANY (%(hosts)s) ORDER BY name LIMIT %(most)s) UNION ALL
(SELECT 'login', name, coalesce(spec ->> 'clusters', '[]'), NULL FROM {Credential._meta.db_table} WHERE spec ->> 'type' = 'kubeconfig' ORDER BY name LIMIT %(most)s) UNION ALL
(SELECT 'deleted', name, uid::text, purge_at FROM deleted_cluster WHERE purge_at > now() ORDER BY deleted_at DESC LIMIT %(most)s)
"""


def for_new(actor: Actor) -> dict[str, Any]:
    """What a new cluster can be made of, as far as this person may see and use it."""
    found: dict[str, list[Any]] = {"idc": [], "meta": [], "login": [], "deleted": []}
    for row in rows(_NAMES, {"most": MOST, "hosts": list(OPERATED)}):
        if row["what"] == "idc" or _within(row, actor.clusters):
            found[row["what"]].append(row)
    return {
        "providers": [(p, PROVIDERS[p]) for p in PROVIDERS if p in BUILT],
        "versions": [_choice(v, "" if usable(v[3]) else "waits for approval", False) for v in _versions()],
        "hosted": HOSTED in BUILT,
        "exposures": EXPOSURES,
        "metas": found["meta"],
        "credentials": found["login"],
        "deleted": found["deleted"],
        "idcs": found["idc"],
    }


def _within(row: dict[str, Any], clusters: frozenset[str] | None) -> bool:
    """A Credential may be for some clusters only; everything else here is a cluster itself."""
    if clusters is None:
        return True
    if row["what"] == "login":
        return any(may_refer({"spec": {"clusters": orjson.loads(row["value"])}}, name) for name in clusters)
    return row["name"] in clusters
