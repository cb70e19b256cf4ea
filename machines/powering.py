"""One round of a power cycle: what the controller says of the power, and the one request that this round may make."""

from __future__ import annotations

import asyncio
from typing import Final

from fleet.control.kinds import Json
from machines.bmc import Bmc, BmcError
from machines.catalog import Catalog
from machines.controllers import SIMULATED, read_bmc_logins
from machines.evidence import keep_evidence
from machines.hosts import StepRef, StepResult
from machines.operation_moves import Told
from machines.passes import Context, Pass
from machines.plan import POWER_CYCLE
from machines.power import round_of
from machines.rounds import troubled

HEALTH_SECONDS: Final = 8.0


async def cycle(each: Pass, progress: Json, known: Catalog, context: Context) -> Told:
    """Never raises for the controller's sake."""
    if not each.row.spec.get("bmc"):
        return Told("Failed", "NoBmc", "spec.bmc names no controller: the power of this machine is a person's.")
    try:
        bmc = await _bmc(each, known, context)
        power = await bmc.power_state()
        if not progress:
            await _keep_health(each, bmc, context)
        request, told = round_of(progress, power, context.clock())
        if request == "off":
            await bmc.power_off()
        elif request == "on":
            await bmc.power_on()
    except BmcError as error:
        return troubled(progress, error, context.clock())
    return told


async def _keep_health(each: Pass, bmc: Bmc, context: Context) -> None:
    """What the controller says of the parts, as evidence, before the power is touched. Nothing waits for it for long."""
    operation = each.outcome.operation
    if operation is None:
        return
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            health = await bmc.health()
    except (BmcError, TimeoutError) as error:
        text = f"The controller does not tell: {error}"
    else:
        parts = (f"{n}: {'unknown' if p.well is None else 'well' if p.well else 'not well'} {p.message}".strip() for n, p in health.parts.items())  # fmt: skip
        text = "\n".join([f"Power: {health.power}", *parts])
    await keep_evidence(context.conn, [(each.row.id, StepResult(StepRef(operation.uid, POWER_CYCLE), "Succeeded", output=text))])  # fmt: skip


async def _bmc(each: Pass, known: Catalog, context: Context) -> Bmc:
    row = each.row
    spec = row.spec["bmc"]
    cluster = known.clusters.get(row.cluster_id)
    logins = await read_bmc_logins(context.conn, [spec.get("credential", "")])
    access = logins.access(
        uid=row.uid, name=row.name, cluster=cluster.name if cluster else "", bmc=spec, serial=row.spec.get("serialNumber", ""),
        simulated=each.driver == SIMULATED,
    )  # fmt: skip
    return context.bmcs_by_driver[each.driver].bmc(access)
