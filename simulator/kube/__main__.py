"""`python -m simulator.kube`: a simulated API server until it is terminated; its address is the first line of standard output."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys

from simulator.kube.admin import add_nodes, node_names
from simulator.kube.cluster import VERSION, SimulatedCluster
from simulator.kube.faults import script
from simulator.kube.kubelets import Times
from simulator.kube.server import KubeServer
from simulator.kube.store import HISTORY
from simulator.kube.streams import BOOKMARK_SECONDS

_USUAL = Times()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulator.kube", description=__doc__)
    parser.add_argument("--nodes", type=int, default=0, help="nodes with kubelets")
    parser.add_argument("--prefix", default="node-", help="how their names begin")
    parser.add_argument("--first", type=int, default=0, help="the number that their names begin with")
    parser.add_argument("--provider", default="", help="their provider id, with {name} in it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; whoever reaches it may do anything")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--history", type=int, default=HISTORY, help="events kept a resource")
    parser.add_argument("--kubernetes", default=VERSION, help="the version that it claims to be")
    parser.add_argument("--lease-seconds", type=float, default=_USUAL.lease)
    parser.add_argument("--status-seconds", type=float, default=_USUAL.status)
    parser.add_argument("--bookmark-seconds", type=float, default=BOOKMARK_SECONDS)
    parser.add_argument(
        "--weather", type=float, default=0.0, metavar="SECONDS", help="a fault about every so often, for a day"
    )
    return parser.parse_args()


async def main() -> None:
    """Serve."""
    given = _arguments()
    times = Times(lease=given.lease_seconds, status=given.status_seconds)
    cluster = SimulatedCluster(seed=given.seed, times=times, history=given.history, version=given.kubernetes)
    server = KubeServer(cluster, bookmarks=given.bookmark_seconds)
    await add_nodes(server, node_names(given.nodes, given.prefix, given.first), given.provider)
    if given.weather:
        for fault in script(given.seed, 86_400.0, given.weather):
            cluster.order(fault)
    cluster.store.compact()  # as a server that was started later than its cluster
    gc.collect()
    gc.freeze()  # what is there stays: no collection need look at it again
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start(given.host, given.port)
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
