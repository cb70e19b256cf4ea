"""Simulated machines as nodes of a simulated cluster: which kubelets run, and what they report of their boxes.

A kubelet runs while its box is up and its unit is active; on a box that was not given one by Fleet it is part of the image.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import orjson

from simulator.box import bare, default_seed
from simulator.kube.kubelets import Kubelets
from simulator.kube.resources import Json

JOINING: Final[Json] = {"key": "fleet.dev/joining", "effect": "NoSchedule"}
CLOSED_BY: Final = "fleet.dev/closed-by"
_TURN: Final = 100  # nodes brought before others get their turn
# `unit`: '' = there is no kubelet on the box; `given`: Fleet is to put one there. What stands in `node` is how Fleet saw it last.
HOSTS: Final[LiteralString] = """
SELECT m.cluster_id, m.uid::text, coalesce(m.spec ->> 'nodeName', m.name), m.labels::text, coalesce(h.boots, 0), coalesce(h.boot_until > now(), false),
  coalesce(h.host #>> '{units,kubelet.service,active}', ''), coalesce(h.host #>> '{packages,kubelet,declared}', ''), coalesce(h.host ->> 'kernel', ''),
  m.spec -> 'versions' ? 'kubelet' OR c.spec -> 'machineVersions' ? 'kubelet', n.uid, n.unschedulable, n.closed_by, n.taints::text
FROM machine m JOIN clusters_cluster c ON c.id = m.cluster_id LEFT JOIN machines_machineclass k ON k.name = m.spec ->> 'className'
  LEFT JOIN simulated_host h ON h.uid = m.uid LEFT JOIN node n ON n.machine_id = m.id AND n.cluster_id = m.cluster_id
WHERE m.cluster_id = ANY (%s::int[]) AND coalesce(m.spec #>> '{driver,type}', k.spec #>> '{driver,type}', c.spec #>> '{driver,type}') = 'simulated'
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as Fleet saw it last: what a simulation that starts anew takes up again."""

    uid: str
    closed: bool
    closed_by: str
    taints: str


@dataclass(frozen=True, slots=True)
class Host:
    """What a kubelet finds on its box."""

    cluster_id: int
    uid: str
    name: str
    labels: str
    boots: int
    runs: bool
    version: str
    kernel: str

    def info(self) -> Json:
        """Its part of `nodeInfo`."""
        found = {"bootID": str(uuid.uuid5(uuid.UUID(self.uid), f"boot {self.boots}")), "kernelVersion": self.kernel}
        return found | ({"kubeletVersion": f"v{self.version}"} if self.version else {})


def host_of(row: Sequence[Any]) -> tuple[Host, Seen | None]:
    """From a row of `HOSTS`."""
    cluster_id, uid, name, labels, boots, boots_now, unit, version, kernel, given, *node = row
    runs = not boots_now and (unit == "active" or not unit and not given)
    kernel = kernel or bare(uid, default_seed(uid)).kernel
    return Host(cluster_id, uid, name, labels, boots, runs, version, kernel), Seen(*node) if node[
        0
    ] is not None else None


async def bring(kubelets: Kubelets, before: Mapping[str, Host], hosts: Mapping[str, tuple[Host, Seen | None]]) -> None:
    """Let kubelets do what has changed on their boxes since `before`; those of machines that are gone fall silent."""
    for name in before.keys() - hosts.keys():
        if name in kubelets:
            kubelets.fail(name, "Dead")
    moved = [(host, seen) for name, (host, seen) in hosts.items() if before.get(name) != host]
    for number, (host, seen) in enumerate(moved):
        _bring(kubelets, host, seen)
        if number % _TURN == _TURN - 1:
            await asyncio.sleep(0)


def _bring(kubelets: Kubelets, host: Host, seen: Seen | None) -> None:
    known = host.name in kubelets
    if not host.runs:
        if known:
            kubelets.fail(host.name, "Dead")
        return
    if not known:
        kubelets.add(
            [host.name],
            provider=f"fleet://{host.uid}",
            labels=orjson.loads(host.labels),
            shape=lambda made: _shape(made, host, seen),
        )
        return
    if kubelets.mode(host.name) == "Dead":
        kubelets.fail(host.name, "")
    kubelets.report(host.name, host.info())


def _shape(made: Json, host: Host, seen: Seen | None) -> None:
    """A new node registers closed, under a uid of its own; one that Fleet knows already stands as it stood."""
    made["status"]["nodeInfo"] |= host.info()
    if seen is None:
        made["metadata"]["uid"] = str(uuid.uuid4())
        made["spec"]["taints"] = [JOINING]
        return
    made["metadata"]["uid"] = seen.uid
    if seen.closed:
        made["spec"]["unschedulable"] = True
    if seen.closed_by:
        made["metadata"]["annotations"][CLOSED_BY] = seen.closed_by
    if taints := orjson.loads(seen.taints):
        made["spec"]["taints"] = taints
