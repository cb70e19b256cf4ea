"""Machines at admission: Fleet's finalizer, and credentials that the machine may refer to."""

from __future__ import annotations

from collections.abc import Sequence

from clusters.kubelets import problems_of_machine
from fleet.api.credentials import may_refer
from fleet.api.models import Credential
from fleet.api.rights import Actor
from fleet.api.structure import same
from fleet.control.kinds import Json, Problem
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
        name = spec.get("driver", {}).get("credential", "")
        known = Credential.objects.filter(name=name).first() if name else None
        if known is not None and known.spec.get("type") != "ssh":
            text = f'"{name}" is of type {known.spec.get("type")}, a machine takes one of type ssh'
            return [*found, Problem("spec.driver.credential", text)]
        if known is not None and not may_refer({"spec": known.spec}, spec.get("clusterName", "")):
            where = (
                f"machines of cluster {spec['clusterName']}"
                if spec.get("clusterName")
                else "machines outside every cluster"
            )
            found.append(Problem("spec.driver.credential", f'"{name}" is not for {where}', "FieldValueForbidden"))
        return found


def _kubelet_problems(spec: Json, before: Json) -> Sequence[Problem]:
    """A kubelet that it pins, or takes from its class, must suit the API server of its cluster."""
    if all(spec.get(f) == before.get(f) for f in ("clusterName", "className", "versions")):
        return ()
    name = spec.get("className")
    known = MachineClass.objects.filter(name=name).first() if name else None
    return problems_of_machine(spec, known.spec.get("versions", {}) if known else {})
