"""One round of a power cycle: what the controller says of the power, and the one request that this round may make."""

from __future__ import annotations

from fleet.control.kinds import Json
from machines.bmc import Bmc, BmcError
from machines.catalog import Catalog
from machines.controllers import SIMULATED, read_bmc_logins
from machines.operation_moves import Told
from machines.passes import Context, Pass
from machines.power import round_of, troubled


async def cycle(each: Pass, progress: Json, known: Catalog, context: Context) -> Told:
    """Never raises for the controller's sake."""
    if not each.row.spec.get("bmc"):
        return Told("Failed", "NoBmc", "spec.bmc names no controller: the power of this machine is a person's.")
    try:
        bmc = await _bmc(each, known, context)
        request, told = round_of(progress, await bmc.power_state(), context.clock())
        if request == "off":
            await bmc.power_off()
        elif request == "on":
            await bmc.power_on()
    except BmcError as error:
        return troubled(progress, error, context.clock())
    return told


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
