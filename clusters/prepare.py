"""What a control plane has to have before any component starts: its place, keys and certificates, made once and renewed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from clusters import keep, pki
from clusters.cases import Case
from clusters.planes import Plane, Provider
from clusters.planning import Ends
from clusters.wanted import host_of, port_of, service_cidr_of
from fleet.control.threads import in_thread


@dataclass(frozen=True, slots=True)
class Prepared:
    """All files by name; the first of `ends` ends first. `renewed`: certificates that were there before."""

    files: Mapping[str, str]
    ends: Ends
    renewed: Sequence[str]


async def prepare(
    case: Case,
    provider: Provider,
    have: Mapping[str, str],
    plane: Callable[[Mapping[str, str]], Plane],
    now: datetime,
    *,
    restoring: bool = False,
) -> Prepared:
    """Make what is missing and keep it. `plane`: the control plane with given files. `restoring`: see `Provider.place`."""
    placed = await provider.place(plane(have), restoring=restoring)
    if placed:
        await in_thread(lambda: keep.store(case.uid, placed, {}))
    have = {**have, **placed}
    host, port = host_of(case), port_of(case)
    names = pki.Names(host, f"https://{host}:{port}", service_cidr_of(case), provider.etcd_names(plane(have)))
    made = pki.ensure(names, have, now)
    if made.changed:
        await in_thread(lambda: keep.store(case.uid, made.changed, made.ends))
    renewed = sorted(n.removesuffix(".crt") for n in made.changed if n.endswith(".crt") and n in have)
    return Prepared(made.all, sorted(made.ends.items(), key=lambda e: (e[1], e[0])), renewed)
