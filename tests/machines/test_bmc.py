"""`spec.bmc` as people write it: what is admitted, and which credential may go where."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.api.actions import Write, create_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.control.kinds import API_VERSION, Json


def make(plural: str, kind: str, name: str, spec: Json) -> None:
    obj = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    create_object(plural, obj, write=Write(by=SYSTEM))


def credential(name: str = "bmc", type_: str = "redfish", **more: Any) -> None:
    data = {"username": "admin", "password": "x"}
    make("credentials", "Credential", name, {"type": type_, "data": data, "clusters": ["*"], **more})


def machine(name: str = "m1", ip: str = "10.1.0.1", **bmc: Any) -> None:
    make("machines", "Machine", name, {"idc": "a", "ip": ip, "bmc": {"address": "10.2.0.1", "credential": "bmc", **bmc}})  # fmt: skip


@pytest.mark.usefixtures("fleet_db")
def test_a_controller_with_a_credential_is_admitted() -> None:
    credential()
    machine()


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize(
    ("bmc", "words"),
    [
        ({"address": "bmc.example.com"}, "must be an IPv4 or IPv6 address"),
        ({"address": "169.254.169.254"}, "metadata"),
        ({"address": "192.168.3.4"}, "FLEET_ALLOWED_NETWORKS"),
        ({"ca": "no certificate"}, "holds no certificate"),
        ({"ca": "x", "insecure": True}, "counts for nothing"),
        ({"port": 0}, "port"),
    ],
)
def test_what_leads_nowhere_or_where_it_must_not_is_refused(bmc: Json, words: str) -> None:
    credential()
    with pytest.raises(ApiError, match=words):
        machine(**bmc)


@pytest.mark.usefixtures("fleet_db")
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type_": "ssh"}, "takes one of type redfish"),
        ({"clusters": ["other"]}, "is not for machines outside every cluster"),
        ({"networks": ["10.9.0.0/16"]}, "may not be sent to 10.2.0.1"),
    ],
)
def test_a_credential_goes_to_its_own_controllers_only(spec: Json, words: str) -> None:
    credential(**spec)
    with pytest.raises(ApiError, match=words):
        machine()


@pytest.mark.usefixtures("fleet_db")
def test_two_machines_have_not_one_controller() -> None:
    credential()
    machine()
    with pytest.raises(ApiError, match="is the controller of machine m1"):
        machine("m2", "10.1.0.2")
    machine("m3", "10.1.0.3", port=8443)  # a box that speaks for several at ports of their own


@pytest.mark.usefixtures("fleet_db")
def test_a_credential_for_controllers_names_who_enters() -> None:
    with pytest.raises(ApiError, match="who enters the controllers is required"):
        make("credentials", "Credential", "half", {"type": "redfish", "data": {"password": "x"}})
