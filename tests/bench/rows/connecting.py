"""Connecting: many clients come back at once, to queues that exist, while others go on receiving."""

import asyncio
import time
from typing import Final

from tests.bench.broker import delete_queues, make_queues, publisher
from tests.bench.crowd import Protocol, crowd
from tests.bench.measuring import Bench, Result, Target, percentile
from tests.bench.peers.nchan import nchan
from tests.bench.peers.scratch import replaced
from tests.bench.peers.this_service import targets, this_service
from tests.bench.processes import Missing, cpu_seconds
from tests.bench.rows.latency import PER_SECOND, steadily

CLIENTS: Final = 5000
OTHERS: Final = 200
RATE: Final = "connects per second"
LONGEST: Final = "longest wait s"
OTHERS_P99: Final = "p99 ms of others' events meanwhile"
REFUSED: Final = "told to come back later (1013)"
TARGETS: Final = (
    Target(RATE, None, 1000),
    Target(REFUSED, None, 0, at_least=False),
    Target(LONGEST, None, 5, at_least=False),
    Target(OTHERS_P99, None, 50, at_least=False),
)


async def connecting(bench: Bench) -> Result:
    """JWT and database are checked by this service, and not by its peers."""
    clients, others = bench.size.crowd(CLIENTS), range(1, OTHERS + 1)
    found = Result("connecting", f"{clients:,} clients at once", targets=TARGETS)
    url, everybody = bench.node.amqp_url, range(1, OTHERS + clients + 1)
    coming = everybody[OTHERS:]
    with this_service(url, len(everybody)) as ours:
        await make_queues(url, everybody)
        async with publisher(url) as upstream, crowd(ours.port, targets(others), "welcome") as there:
            await there.connected()
            await steadily(upstream, others, OTHERS)
            await there.received(OTHERS)
            await there.reset()
            live = asyncio.create_task(steadily(upstream, others, 60 * PER_SECOND))
            try:
                before = [cpu_seconds(pid) for pid in (ours.pid, bench.node.pid)]
                began = time.monotonic()
                async with crowd(ours.port, targets(coming), "welcome", at_once=clients) as them:
                    seen = await them.admitted()
                    seconds = time.monotonic() - began
                    after = [cpu_seconds(pid) for pid in (ours.pid, bench.node.pid)]
                    values = sorted(value / 1000 for value in await there.latencies())
            finally:
                live.cancel()
                await asyncio.gather(live, return_exceptions=True)
    found.figures["this service"] = {
        RATE: seen.ready / seconds,
        REFUSED: float(seen.closed),
        LONGEST: seen.longest_connect_ns / 1e9,
        OTHERS_P99: percentile(values, 0.99) if values else 0.0,
        "CPU ms per connect": (after[0] - before[0]) / clients * 1000,
        "of the broker": (after[1] - before[1]) / clients * 1000,
    }
    await delete_queues(url, everybody)
    protocols: dict[str, Protocol] = {"nchan": "plain", "replaced module": "welcome"}
    for name, peer in (("nchan", nchan), ("replaced module", replaced)):
        try:
            with peer() as server:
                paths = [f"/ws/{number}" for number in coming]
                async with crowd(server.port, paths, protocols[name], at_once=clients) as them:
                    seen = await them.connected()
            seconds = seen.connecting_ns / 1e9
            found.figures[name] = {RATE: clients / seconds, LONGEST: seen.longest_connect_ns / 1e9}
        except Missing as missing:
            found.missing.append(str(missing))
    return found
