"""One round of an installation: what the provisioner says of it, the one request that this round may make, the keys of the new system."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from fleet.api.errors import ApiError
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from machines.host_keys import enrol_new_keys, keys_of_new_system
from machines.operation_moves import Told
from machines.passes import Context, Pass
from machines.provisioner import Installation, Provisioner, ProvisionerAccess, ProvisionError
from machines.reinstall import patience, round_of
from machines.rounds import troubled

CALL_SECONDS: Final = 10.0  # of one call; a pass waits no longer for anybody


async def install(each: Pass, operation: str, progress: Json, context: Context) -> Told:
    """`operation`: uid of the Operation, under which the installation is asked for. Never raises for the provisioner's sake."""
    missing = no_provisioner(each, context)
    if missing:
        return Told("Failed", "NoProvisioner", missing)
    provisioner = context.provisioners_by_driver[each.driver].provisioner(_access(each))
    try:
        seen = await _look(provisioner, operation)
        asks, told = round_of(progress, seen, context.clock())
        if asks:
            await _ask(provisioner, operation)
    except ProvisionError as error:
        return troubled(progress, error, context.clock(), patience=patience(progress, error))
    return await _with_keys(each, operation, seen, told)


def no_provisioner(each: Pass, context: Context) -> str:
    """Why nobody can install the machine's system, "" = somebody can."""
    if each.driver in context.provisioners_by_driver:
        return ""
    return f"Nothing installs the system of machines with the driver {each.driver}: that is a person's."


async def _look(provisioner: Provisioner, operation: str) -> Installation:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await provisioner.installation(operation)
    except TimeoutError:
        raise ProvisionError("ProvisionerTimeout", "The provisioner did not answer in time.") from None


async def _ask(provisioner: Provisioner, operation: str) -> None:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            await provisioner.install(operation)
    except TimeoutError:
        raise ProvisionError("ProvisionerTimeout", "The provisioner did not answer in time.", sent=True) from None


async def _with_keys(each: Pass, operation: str, seen: Installation, told: Told) -> Told:
    """Where keys are enrolled, those of the new system take their place: nothing else tells Fleet whom it meets at that address."""
    enrolled = each.target.host_keys if each.target is not None else ()
    keys = keys_of_new_system(enrolled, seen.host_keys)
    if seen.state != "Done" or not seen.host_keys or not enrolled or keys == enrolled:
        return told
    try:
        await in_thread(partial(enrol_new_keys, each.row.name, operation, keys))
    except (ApiError, PermanentError) as error:
        text = f"The host keys that the provisioner tells of the new system were not taken: {error}"
        return Told("Failed", "HostKeyRefused", text, told.progress)
    return told


def _access(each: Pass) -> ProvisionerAccess:
    spec = each.row.spec
    return ProvisionerAccess(
        each.row.uid, each.row.name, idc=spec.get("idc", ""), address=spec.get("ip", ""),
        serial_number=spec.get("serialNumber", ""), hardware_model=spec.get("hardwareModel", ""),
    )  # fmt: skip
