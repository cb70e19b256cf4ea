"""How a machine's controller (BMC) is reached: schema and checks. Pure."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from typing import Final

from fleet.control.kinds import Json, Problem

BMC: Final[Json] = {
    "type": "object",
    "description": "The machine's controller, spoken to by Redfish: its power, and what it says of disks, memory, board and network.",
    "required": ["address"],
    "properties": {
        "address": {"type": "string", "maxLength": 45, "description": "Address of the controller: IPv4 or IPv6, no name."},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535, "description": "443 by default."},
        "credential": {"type": "string", "maxLength": 253, "description": "Name of a Credential of type redfish."},
        "ca": {
            "type": "string",
            "maxLength": 32768,
            "description": "Certificates in PEM that sign the controller's own; left out = those that Fleet's host trusts.",
        },
        "insecure": {
            "type": "boolean",
            "description": "true: the controller's certificate is not looked at, and whoever stands in between gets the credential.",
        },
    },
}  # fmt: skip


def bmc_problems(bmc: Json | None) -> Sequence[Problem]:
    """What is wrong with it as written; which addresses Fleet connects to is asked where it is admitted."""
    if bmc is None:
        return ()
    problems = []
    try:
        ipaddress.ip_address(bmc.get("address", ""))
    except ValueError:
        problems.append(Problem("spec.bmc.address", f'"{bmc.get("address", "")}": must be an IPv4 or IPv6 address'))
    if bmc.get("ca") and bmc.get("insecure"):
        problems.append(Problem("spec.bmc.ca", "counts for nothing with insecure: true; write one of them"))
    elif bmc.get("ca"):
        try:
            ssl.create_default_context(cadata=bmc["ca"])
        except (ssl.SSLError, ValueError):
            problems.append(Problem("spec.bmc.ca", "holds no certificate in PEM"))
    return problems
