"""Connecting: many clients come back at once, to queues that exist, while others go on receiving."""

import asyncio
import time
from typing import Final

from tests.bench.broker import Publisher, delete_queues, make_queues, publisher
from tests.bench.crowd import Crowd, Protocol, crowd
from tests.bench.measuring import Bench, Cost, Result, Target, percentile
from tests.bench.peers.nchan import nchan
from tests.bench.peers.scratch import replaced
from tests.bench.peers.this_service import Service, targets, this_service
from tests.bench.processes import Missing, cpu_seconds
from tests.bench.rows.latency import PER_SECOND, steadily

CLIENTS: Final = 5000
OTHERS: Final = 200
RATE: Final = "connects per second"
LONGEST: Final = "longest wait s"
OTHERS_P99: Final = "p99 ms of others' events meanwhile"
REFUSED: Final = "told to come back later (1013)"
NEW: Final = "a replica that is new"
"""It has to bind its queue for each of their diagnoses; the one they come back to has that done."""
TARGETS: Final = tuple(
    target
    for subject in ("this service", NEW)
    for target in (
        Target(RATE, None, 1000, subject=subject),
        Target(REFUSED, None, 0, at_least=False, subject=subject),
        Target(LONGEST, None, 5, at_least=False, subject=subject),
        Target(OTHERS_P99, None, 50, at_least=False, subject=subject),
    )
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
            first = await _come(bench, upstream, ours, there, coming)
            await Cost(ours.pid, bench.node.pid).until_quiet()
            found.figures["this service"] = await _come(bench, upstream, ours, there, coming)
            found.figures[NEW] = first
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


async def _come(
    bench: Bench, upstream: Publisher, ours: Service, there: Crowd, coming: range
) -> dict[str, float]:
    """All connect at once, and leave; the others, who are there, are sent events meanwhile."""
    pids = ours.pid, bench.node.pid
    await there.reset()
    live = asyncio.create_task(steadily(upstream, range(1, OTHERS + 1), 60 * PER_SECOND))
    try:
        before, began = [cpu_seconds(pid) for pid in pids], time.monotonic()
        async with crowd(ours.port, targets(coming), "welcome", at_once=len(coming)) as them:
            seen = await them.admitted()
            seconds = time.monotonic() - began
            after = [cpu_seconds(pid) for pid in pids]
            values = sorted(value / 1000 for value in await there.latencies())
    finally:
        live.cancel()
        await asyncio.gather(live, return_exceptions=True)
    return {
        RATE: seen.ready / seconds,
        REFUSED: float(seen.closed),
        LONGEST: seen.longest_connect_ns / 1e9,
        OTHERS_P99: percentile(values, 0.99) if values else 0.0,
        "CPU ms per connect": (after[0] - before[0]) / len(coming) * 1000,
        "of the broker": (after[1] - before[1]) / len(coming) * 1000,
    }
