"""One round of a power cycle: what the controller says of the power, and the one request that this round may make of it or of its node."""

from __future__ import annotations

import asyncio
from typing import Final

from clusters.kube import KubeUnreachable
from fleet.control.kinds import Json
from machines import releasing
from machines.bmc import Bmc, BmcError, PowerState
from machines.catalog import Catalog
from machines.controllers import SIMULATED, read_bmc_logins
from machines.drain import Options
from machines.drainer import NO_ANSWER
from machines.evidence import keep_evidence
from machines.gates import NodeRow
from machines.hosts import StepRef, StepResult
from machines.nodes import NO_ACCESS
from machines.operation_moves import Told
from machines.passes import Context, Pass
from machines.plan import POWER_CYCLE
from machines.power import round_of
from machines.rounds import troubled

HEALTH_SECONDS: Final = 8.0
NODE_SECONDS: Final = 8.0  # of a look at the node and its pods


async def cycle(each: Pass, progress: Json, known: Catalog, context: Context) -> Told:
    """Never raises for the controller's sake."""
    if not each.row.spec.get("bmc"):
        return Told("Failed", "NoBmc", "spec.bmc names no controller: the power of this machine is a person's.")
    try:
        bmc = await _bmc(each, known, context)
        power = await bmc.power_state()
        if not progress:
            await _keep_health(each, bmc, context)
        if releasing.is_due(progress) and each.row.node is not None:
            return await _let_go(each, each.row.node, progress, power, context)
        request, told = round_of(progress, power, context.clock(), node=each.row.node is not None)
        if request == "off":
            await bmc.power_off()
        elif request == "on":
            await bmc.power_on()
    except BmcError as error:
        return troubled(progress, error, context.clock())
    return told


async def _let_go(each: Pass, node: NodeRow, progress: Json, power: PowerState, context: Context) -> Told:
    """The power is off, so that nothing runs there: its cluster may let its pods go. Never raises for the API server's sake."""
    operation, now = each.outcome.operation, context.clock()
    kube = await context.clusters.kube(context.conn, each.row.cluster_id)
    if kube is None or operation is None:
        return releasing.unanswered(progress, power, KubeUnreachable(NO_ACCESS[1]), now)
    options, cut = Options.of(operation.spec), bool(operation.spec.get("cancelledBy"))
    try:
        async with asyncio.timeout(NODE_SECONDS):
            return await releasing.let_go(kube, node, operation.name, options, progress, power, now, cut=cut)
    except NO_ANSWER as error:
        return releasing.unanswered(progress, power, error, now)


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
