"""Machines at admission: Fleet's finalizer, and credentials that the machine may refer to."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from clusters.kubelets import problems_of_machine
from fleet.api.credentials import may_refer
from fleet.api.models import Credential
from fleet.api.rights import Actor
from fleet.api.structure import same
from fleet.control.addresses import refusal
from fleet.control.kinds import Json, Problem
from fleet.control.networks import allowed_networks
from machines.batches.alone import check_deletes
from machines.decommission import FINALIZER
from machines.models import MachineClass
from machines.proposed import foresee
from machines.schema import MACHINE_KIND
from machines.storage import MachineStorage


class AdmittedMachines(MachineStorage):
    """Machines as people write them."""

    def __init__(self) -> None:
        super().__init__(MACHINE_KIND)

    def default(self, obj: Json, by: Actor) -> None:
        """Deletion waits until what Fleet installed is gone."""
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if FINALIZER not in finalizers:
            finalizers.append(FINALIZER)

    def admit_delete(self, obj: Json, by: Actor) -> None:
        """As many as one person may delete alone."""
        if "deletionTimestamp" not in obj["metadata"]:
            check_deletes(self.kind, obj["metadata"]["name"], 1, by)

    def admit_deletes(self, count: int, by: Actor) -> None:
        """A collection is refused as a whole, before the first one goes."""
        check_deletes(self.kind, "", count, by)

    def foresee(self, new: Json, old: Json | None) -> Sequence[str]:
        """The plan of the proposed spec."""
        if (
            old is not None
            and same(old["spec"], new["spec"])
            and same(old["metadata"].get("labels"), new["metadata"].get("labels"))
        ):
            return ()
        return foresee(new).sentences()

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        """A credential that exists must be for the machine's cluster; one that does not exist yet shows as a condition."""
        spec = new.get("spec", {})
        found = [*super().problems(new, old), *_kubelet_problems(spec, (old or {}).get("spec", {}))]
        found += _credential_problems(spec, "driver", "ssh")
        bmc = spec.get("bmc", {})
        if not bmc or bmc == (old or {}).get("spec", {}).get("bmc"):
            return found
        why = None if spec.get("driver", {}).get("type") == "simulated" else refusal(bmc["address"], allowed_networks())
        if why:
            found.append(Problem("spec.bmc.address", why, "FieldValueForbidden"))
        return [*found, *_credential_problems(spec, "bmc", "redfish", bmc["address"])]


def _credential_problems(spec: Json, part: str, type_: str, address: str = "") -> Sequence[Problem]:
    """The credential that a part of the spec names: its type, for whose machines it is, and whether it may go to that address."""
    name, field = spec.get(part, {}).get("credential", ""), f"spec.{part}.credential"
    known = Credential.objects.filter(name=name).first() if name else None
    if known is None:
        return ()
    if known.spec.get("type") != type_:
        what = "a machine" if part == "driver" else "a controller"
        return [Problem(field, f'"{name}" is of type {known.spec.get("type")}, {what} takes one of type {type_}')]
    if not may_refer({"spec": known.spec}, spec.get("clusterName", "")):
        cluster = spec.get("clusterName")
        where = f"machines of cluster {cluster}" if cluster else "machines outside every cluster"
        return [Problem(field, f'"{name}" is not for {where}', "FieldValueForbidden")]
    networks = [ipaddress.ip_network(n) for n in known.spec.get("networks", [])]
    if address and networks and not any(ipaddress.ip_address(address) in n for n in networks):
        text = f'"{name}" may not be sent to {address}; its spec.networks says where it may go'
        return [Problem(field, text, "FieldValueForbidden")]
    return ()


def _kubelet_problems(spec: Json, before: Json) -> Sequence[Problem]:
    """A kubelet that it pins, or takes from its class, must suit the API server of its cluster."""
    if all(spec.get(f) == before.get(f) for f in ("clusterName", "className", "versions")):
        return ()
    name = spec.get("className")
    known = MachineClass.objects.filter(name=name).first() if name else None
    return problems_of_machine(spec, known.spec.get("versions", {}) if known else {})
