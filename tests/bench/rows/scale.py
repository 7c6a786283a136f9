"""Scale: what an event costs when there are more replicas, or more diagnoses."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from tests.bench.broker import delete_queues, make_queues, publisher
from tests.bench.crowd import PATIENCE_SECONDS, Crowd, crowd
from tests.bench.measuring import Bench, Cost, Result, Target
from tests.bench.peers.this_service import targets, this_service
from tests.bench.processes import cpu_seconds, most_files
from tests.bench.rows.latency import steadily

DIAGNOSES: Final = (1000, 10_000, 20_000)
OTHER_FILES: Final = 500
"""Of a process, beside its clients' sockets."""
WARM_EVENTS: Final = 2
"""Each diagnosis has had some events: for its first a replica makes sure of its turn, and RabbitMQ makes files."""
WARM_SECONDS: Final = 240.0
"""RabbitMQ may take a minute for the first events of 20,000 queues."""
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
    """All sizes; clients are spread evenly over the replicas.

    What everything is compared with is measured before each, and once more: the machine is not the same for minutes.
    """
    found = Result("scale", "cost against size")
    most = most_files() - OTHER_FILES
    sizes = sorted({min(bench.size.of(full, 10), most) for full in DIAGNOSES})
    apart = [f"{size:,} diagnoses, 1 replica" for size in sizes]
    two = f"{sizes[0]:,} diagnoses, 2 replicas"
    few, events = range(1, sizes[0] + 1), bench.size.of(EVENTS, 20)
    found.figures = await _compared(
        bench,
        apart[0],
        Load(few, events),
        {
            **{
                name: Load(range(1, size + 1), events)
                for name, size in zip(apart[1:], sizes[1:], strict=True)
            },
            two: Load(few, events, replicas=2),
            two + TWICE: Load(range(1, 2 * sizes[0] + 1), 2 * events, replicas=2, pace=2),
        },
    )
    room, events = [1] * bench.size.of(ROOM_CLIENTS, 10), bench.size.of(ROOM_EVENTS, 10)
    found.figures |= await _compared(
        bench,
        ROOM,
        Load(room, events),
        {TWO_ROOMS: Load(room, events, replicas=2), TWO_ROOMS + TWICE: Load(room * 2, events, replicas=2)},
    )
    found.series = {
        "diagnoses": [float(size) for size in sizes],
        COST: [found.figures[name][COST] for name in apart],
    }
    found.targets = [
        Target(COST, base, FLAT, at_least=False, subject=name)
        for base, names in (
            (apart[0], (*apart[1:], two, two + TWICE)),
            (ROOM, (TWO_ROOMS, TWO_ROOMS + TWICE)),
        )
        for name in names
    ]
    return found


@dataclass(frozen=True, slots=True)
class Load:
    """Clients, by their diagnoses, and events that are published to those in turn."""

    clients: Sequence[int]
    events: int
    replicas: int = 1
    pace: int = 1
    """Times PER_SECOND, where there are many diagnoses."""


async def _compared(
    bench: Bench, name: str, base: Load, others: Mapping[str, Load]
) -> dict[str, dict[str, float]]:
    """What an event costs under each of these; of the first, which they are compared with, the mean of several."""
    bases, figures = list[dict[str, float]](), dict[str, dict[str, float]]()
    for other, load in others.items():
        bases.append(await _cost(bench, base))
        figures[other] = await _cost(bench, load)
    bases.append(await _cost(bench, base))
    return {name: {key: fmean(each[key] for each in bases) for key in bases[0]}, **figures}


async def _cost(bench: Bench, load: Load) -> dict[str, float]:
    url, every = bench.node.amqp_url, sorted(set(load.clients))
    async with AsyncExitStack() as stack:
        services = [
            stack.enter_context(this_service(url, max(every), number=n)) for n in range(load.replicas)
        ]
        await make_queues(url, every)
        upstream = await stack.enter_async_context(publisher(url))
        crowds: list[Crowd] = []
        for number, service in enumerate(services):
            part = load.clients[number :: load.replicas]
            crowds.append(await stack.enter_async_context(crowd(service.port, targets(part), "welcome")))
        for them in crowds:
            await them.connected()
        for _ in range(WARM_EVENTS):
            for diagnosis in every:
                await upstream.event(diagnosis)
        await _received(crowds, WARM_EVENTS * len(every), every, WARM_SECONDS)
        for them in crowds:
            await them.reset()
        pids, broker = [service.pid for service in services], bench.node.pid
        await Cost(*pids, broker).until_quiet()
        before, began = cpu_seconds(*pids), time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(*pids) - before) / (time.monotonic() - began)
        cost, brokers, began = Cost(*pids), Cost(broker), time.monotonic()
        per_second = ROOM_PER_SECOND if len(every) == 1 else PER_SECOND * load.pace
        await steadily(upstream, every, load.events, per_second)
        frames = await _received(crowds, load.events, every)
        took = time.monotonic() - began
        used = await cost.until_quiet() - idle * took
        behind = await brokers.until_quiet()
    await delete_queues(url, every)
    return {
        COST: used / frames * 1e6,
        "µs of the broker": behind / frames * 1e6,
        "idle % of a processor": idle * 100,
    }


async def _received(
    crowds: Sequence[Crowd], events: int, every: Sequence[int], seconds: float = PATIENCE_SECONDS
) -> int:
    """Wait for all of them; returns how many events arrived. Diagnoses are spread evenly over the crowds."""
    shares = [events * them.size if len(every) == 1 else events // len(crowds) for them in crowds]
    return sum(
        [(await them.received(share, seconds)).frames for them, share in zip(crowds, shares, strict=True)]
    )
