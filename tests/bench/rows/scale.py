"""Scale: what an event costs when there are more replicas, or more diagnoses."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from tests.bench.broker import delete_queues, make_queues, publisher
from tests.bench.crowd import Crowd, crowd
from tests.bench.measuring import Bench, Cost, Result, Target
from tests.bench.peers.this_service import targets, this_service
from tests.bench.processes import cpu_seconds, most_files
from tests.bench.rows.latency import steadily

DIAGNOSES: Final = (1000, 10_000, 20_000)
OTHER_FILES: Final = 500
"""Of a process, beside its clients' sockets."""
WARM_EVENTS: Final = 2
"""Each diagnosis has had some events: for its first a replica makes sure of its turn, and RabbitMQ makes files."""
ROOM_CLIENTS: Final = 1000
EVENTS: Final = 8000
"""Of the unicast, at every size, and at the same pace: at a higher one events are cheaper."""
PER_SECOND: Final = 800
ROOM_EVENTS: Final = 100
ROOM_PER_SECOND: Final = 50
IDLE_SECONDS: Final = 5.0
"""What clients cost that get nothing (heartbeats) is measured first, and not counted."""
COST: Final = "µs of the replicas per event and client"
ROOM: Final = "a room, 1 replica"
TWO_ROOMS: Final = "a room, 2 replicas"
TWICE: Final = ", each with as much to do as one"
"""Twice as many clients, and of many diagnoses twice as many events."""
FLAT: Final = 1.15


async def scale(bench: Bench) -> Result:
    """All sizes; clients are spread evenly over the replicas."""
    found = Result("scale", "cost against size")
    most = most_files() - OTHER_FILES
    sizes = sorted({min(bench.size.of(full, 10), most) for full in DIAGNOSES})
    apart = [f"{size:,} diagnoses, 1 replica" for size in sizes]
    for name, size in zip(apart, sizes, strict=True):
        found.figures[name] = await _cost(bench, range(1, size + 1), bench.size.of(EVENTS, 20), 1)
    found.series = {
        "diagnoses": [float(size) for size in sizes],
        COST: [found.figures[name][COST] for name in apart],
    }
    few, two = range(1, sizes[0] + 1), f"{sizes[0]:,} diagnoses, 2 replicas"
    found.figures[two] = await _cost(bench, few, bench.size.of(EVENTS, 20), 2)
    found.figures[two + TWICE] = await _cost(
        bench, range(1, 2 * sizes[0] + 1), 2 * bench.size.of(EVENTS, 20), 2, pace=2
    )
    room, events = [1] * bench.size.of(ROOM_CLIENTS, 10), bench.size.of(ROOM_EVENTS, 10)
    found.figures[ROOM] = await _cost(bench, room, events, 1)
    found.figures[TWO_ROOMS] = await _cost(bench, room, events, 2)
    found.figures[TWO_ROOMS + TWICE] = await _cost(bench, room * 2, events, 2)
    found.targets = (
        *(
            Target(COST, apart[0], FLAT, at_least=False, subject=name)
            for name in (*apart[1:], two, two + TWICE)
        ),
        *(Target(COST, ROOM, FLAT, at_least=False, subject=name) for name in (TWO_ROOMS, TWO_ROOMS + TWICE)),
    )
    return found


async def _cost(
    bench: Bench, clients: Sequence[int], events: int, replicas: int, pace: int = 1
) -> dict[str, float]:
    """Publish `events` events to the clients' diagnoses in turn; to many, `pace` times PER_SECOND."""
    url, every = bench.node.amqp_url, sorted(set(clients))
    async with AsyncExitStack() as stack:
        services = [stack.enter_context(this_service(url, max(every), number=n)) for n in range(replicas)]
        await make_queues(url, every)
        upstream = await stack.enter_async_context(publisher(url))
        crowds: list[Crowd] = []
        for number, service in enumerate(services):
            part = clients[number::replicas]
            crowds.append(await stack.enter_async_context(crowd(service.port, targets(part), "welcome")))
        for them in crowds:
            await them.connected()
        for _ in range(WARM_EVENTS):
            for diagnosis in every:
                await upstream.event(diagnosis)
        await _received(crowds, WARM_EVENTS * len(every), every)
        for them in crowds:
            await them.reset()
        pids, broker = [service.pid for service in services], bench.node.pid
        await Cost(*pids, broker).until_quiet()
        before, began = cpu_seconds(*pids), time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(*pids) - before) / (time.monotonic() - began)
        cost, brokers, began = Cost(*pids), Cost(broker), time.monotonic()
        await steadily(upstream, every, events, ROOM_PER_SECOND if len(every) == 1 else PER_SECOND * pace)
        frames = await _received(crowds, events, every)
        took = time.monotonic() - began
        used = await cost.until_quiet() - idle * took
        behind = await brokers.until_quiet()
    await delete_queues(url, every)
    return {
        COST: used / frames * 1e6,
        "µs of the broker": behind / frames * 1e6,
        "idle % of a processor": idle * 100,
    }


async def _received(crowds: Sequence[Crowd], events: int, every: Sequence[int]) -> int:
    """Wait for all of them; returns how many events arrived. Diagnoses are spread evenly over the crowds."""
    shares = [events * them.size if len(every) == 1 else events // len(crowds) for them in crowds]
    return sum([(await them.received(share)).frames for them, share in zip(crowds, shares, strict=True)])
