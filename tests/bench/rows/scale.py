"""Scale: what an event costs when there are more replicas, or more diagnoses."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from tests.bench.broker import delete_queues, make_queues, publisher
from tests.bench.crowd import Crowd, crowd
from tests.bench.measuring import Bench, Cost, Result, Target
from tests.bench.peers.this_service import targets, this_service

DIAGNOSES: Final = (1000, 10_000, 20_000)
ROOM_CLIENTS: Final = 1000
EVENTS: Final = 20_000
"""Of the unicast, at every size."""
ROOM_EVENTS: Final = 100
COST: Final = "µs of the replicas per event and client"
ROOM: Final = "a room, 1 replica"
FLAT: Final = 1.15


async def scale(bench: Bench) -> Result:
    """All sizes; clients are spread evenly over the replicas."""
    found = Result("scale", "cost against size")
    sizes = [bench.size.of(full, 10) for full in DIAGNOSES]
    apart = [f"{size:,} diagnoses, 1 replica" for size in sizes]
    for name, size in zip(apart, sizes, strict=True):
        found.figures[name] = await _cost(bench, range(1, size + 1), max(size, bench.size.of(EVENTS, 20)), 1)
    found.series = {
        "diagnoses": [float(size) for size in sizes],
        COST: [found.figures[name][COST] for name in apart],
    }
    two = f"{sizes[0]:,} diagnoses, 2 replicas"
    found.figures[two] = await _cost(
        bench, range(1, sizes[0] + 1), max(sizes[0], bench.size.of(EVENTS, 20)), 2
    )
    room = [1] * bench.size.of(ROOM_CLIENTS, 10)
    events = bench.size.of(ROOM_EVENTS, 10)
    found.figures[ROOM] = await _cost(bench, room, events, 1)
    found.figures["a room, 2 replicas"] = await _cost(bench, room, events, 2)
    found.targets = (
        *(Target(COST, apart[0], FLAT, at_least=False, subject=name) for name in (*apart[1:], two)),
        Target(COST, ROOM, FLAT, at_least=False, subject="a room, 2 replicas"),
    )
    return found


async def _cost(bench: Bench, clients: Sequence[int], events: int, replicas: int) -> dict[str, float]:
    """Publish `events` events to the clients' diagnoses in turn."""
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
        pids = [service.pid for service in services]
        await Cost(*pids).until_quiet()
        cost, broker = Cost(*pids), Cost(bench.node.pid)
        for number in range(events):
            await upstream.event(every[number % len(every)])
            if len(every) == 1 and number % 10 == 9:  # a queue holds 100
                await _received(crowds, number + 1, every)
        frames = await _received(crowds, events, every)
        used = await cost.until_quiet()
        brokers = await broker.until_quiet()
    await delete_queues(url, every)
    return {COST: used / frames * 1e6, "µs of the broker": brokers / frames * 1e6}


async def _received(crowds: Sequence[Crowd], events: int, every: Sequence[int]) -> int:
    """Wait for all of them; returns how many events arrived."""
    if len(every) == 1:
        return sum([(await them.received(events * them.size)).frames for them in crowds])
    rest = [events // len(every) * them.size for them in crowds]
    return sum([(await them.received(wanted)).frames for them, wanted in zip(crowds, rest, strict=True)])
