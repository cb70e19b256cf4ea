"""Passes over many clusters side by side, whoever made these."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from clusters.cases import Case, LeaseLost
from fleet.control.work import Claim, Settled, set_back

log = logging.getLogger("fleet.clusters")


class AnyPass(Protocol):
    """One look at one cluster, whoever made it."""

    claim: Claim
    case: Case

    async def run(self) -> Settled:
        """To its end; how the lease ends."""
        ...


async def operate(passes: Sequence[AnyPass], seconds: float) -> list[Settled]:
    """All side by side; what breaks backs off alone, what was lost is left to its new holder."""

    async def one(each: AnyPass) -> Settled | None:
        try:
            async with asyncio.timeout(seconds):
                return await each.run()
        except LeaseLost:
            log.info("cluster %s has another holder by now", each.case.name)
            return None
        except TimeoutError:
            log.warning("the pass over cluster %s was cut off after %.0f s", each.case.name, seconds)
        except Exception:
            log.exception("cluster %s is set aside: its pass ended in a bug", each.case.name)
        return set_back(each.claim, most=60)

    found = await asyncio.gather(*(one(p) for p in passes))
    return [s for s in found if s is not None]
