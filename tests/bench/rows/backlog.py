"""Backlog: one client comes, and collects what waits for it."""

from typing import Final

from contracts.topology import BACKLOG_LIMIT
from tests.bench.broker import delete_queues, make_queues, publisher
from tests.bench.crowd import crowd
from tests.bench.measuring import Bench, Result, Target, percentile
from tests.bench.peers.this_service import targets, this_service

CLIENTS: Final = 20
MEDIAN: Final = "ms from welcome to the last event"


async def backlog(bench: Bench) -> Result:
    """One client after another, each with a full queue."""
    found = Result(
        "backlog", f"{BACKLOG_LIMIT} waiting events", targets=(Target(MEDIAN, None, 20, at_least=False),)
    )
    url, everybody = bench.node.amqp_url, range(1, bench.size.of(CLIENTS, 3) + 1)
    times, whole = [], []
    with this_service(url, len(everybody)) as ours:
        await make_queues(url, everybody)
        async with publisher(url) as upstream:
            for number in everybody:
                for _ in range(BACKLOG_LIMIT):
                    await upstream.event(number)
                async with crowd(ours.port, targets([number]), "welcome") as them:
                    seen = await them.received(BACKLOG_LIMIT)
                    times.append(seen.welcome_to_last_ns / 1e6)
                    whole.append(seen.connect_to_last_ns / 1e6)
    await delete_queues(url, everybody)
    times.sort()
    whole.sort()
    found.figures["this service"] = {
        MEDIAN: percentile(times, 0.5),
        "longest ms": times[-1],
        "ms from the first packet to the last event": percentile(whole, 0.5),
    }
    return found
