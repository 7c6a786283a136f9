"""Measures what one of each costs, as the difference that thousands of them make."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from realtime_service.embedded.node import PrivateRabbitMQ
from tests.bench.broker import delete_queues, make_queues, private_broker, publisher
from tests.bench.capacity.running import (
    files,
    on_disk_kib,
    processes,
    settled_kib,
    system,
)
from tests.bench.capacity.units import Units
from tests.bench.processes import pin

ROUNDS: Final = 2
SMALL_ROOM: Final = 5
"""In a room of up to 32 every client proves every event: what a family or a care team is."""
WAITING: Final = 20
"""Events in each queue."""
IDLE_SECONDS: Final = 10.0
OFTEN: Final = "1"
STARTS: Final = 2


@dataclass(slots=True)
class Found:
    """What was measured until now, by the name it has in `Units`."""

    node: PrivateRabbitMQ
    count: int
    of: dict[str, float] = field(default_factory=dict)

    @property
    def every(self) -> range:
        """All diagnoses."""
        return range(1, self.count + 1)


async def measure(count: int, say: Callable[[str], None]) -> Units:
    """With so many diagnoses. Takes some minutes."""
    with private_broker() as node:
        found = Found(node, count)
        steps: Sequence[Callable[[Found], Awaitable[None]]] = (
            _queues,
            _clients,
            _small_rooms,
            _devices,
            _replicas,
            _silence,
            _waiting,
            _starts,
        )
        for step in steps:
            say(step.__name__.strip("_").replace("_", " "))
            await step(found)
    return Units(**found.of)


async def _queues(found: Found) -> None:
    """Idle queues: memory and processes."""
    node, of = found.node, found.of
    of["node_kib"] = await settled_kib(node)
    before = processes(node)
    async with system(node, 1):  # makes the exchanges
        pass
    await make_queues(node.amqp_url, found.every)
    of["queue_kib"] = (await settled_kib(node) - of["node_kib"]) / found.count
    of["queue_processes"] = (processes(node) - before) / found.count


async def _clients(found: Found) -> None:
    """A client on each diagnosis."""
    of, node = found.of, found.node
    async with system(node, found.count) as ours:
        of["replica_kib"] = ours.kib
        before, running = await settled_kib(node), processes(node)
        spent = await ours.join([(number, "") for number in found.every])
        of["room_kib"] = (ours.kib - of["replica_kib"]) / found.count  # with its client, until that is known
        of["session_kib"] = (await settled_kib(node) - before) / found.count
        of["session_processes"] = (processes(node) - running) / found.count
        of["connect_us"] = spent.replicas / found.count * 1e6
        of["connect_broker_us"] = spent.broker / found.count * 1e6
        spent = await ours.events(found.every, ROUNDS, 1)
        of["event_us"] = spent.replicas / spent.events * 1e6
        of["event_broker_us"] = spent.broker / spent.events * 1e6


async def _small_rooms(found: Found) -> None:
    """Some clients on each of fewer diagnoses."""
    of = found.of
    rooms = range(1, found.count // SMALL_ROOM + 1)
    async with system(found.node, found.count) as ours:
        before = ours.kib
        await ours.join([(number, "") for number in rooms for _ in range(SMALL_ROOM)])
        mixed = (ours.kib - before) / len(rooms)
        alone = of["room_kib"]
        of["client_kib"] = (mixed - alone) / (SMALL_ROOM - 1)
        of["room_kib"] = alone - of["client_kib"]
        spent = await ours.events(rooms, ROUNDS * SMALL_ROOM, SMALL_ROOM)
        of["frame_us"] = (spent.replicas / spent.events * 1e6 - of["event_us"]) / (SMALL_ROOM - 1)


async def _devices(found: Found) -> None:
    """A named client on each diagnosis, that came before: its queue is there."""
    of, node = found.of, found.node
    named = [(number, f"phone-{number}") for number in found.every]
    async with system(node, found.count) as ours:
        await ours.join(named)
    async with system(node, found.count) as ours:
        before = ours.kib
        spent = await ours.join(named)
        of["device_kib"] = (ours.kib - before) / found.count - of["client_kib"] - of["room_kib"]
        of["device_connect_us"] = spent.replicas / found.count * 1e6 - of["connect_us"]
        of["device_connect_broker_us"] = spent.broker / found.count * 1e6 - of["connect_broker_us"]
        spent = await ours.events(found.every, ROUNDS, 1)
        of["device_event_us"] = spent.replicas / spent.events * 1e6 - of["event_us"]
        of["device_event_broker_us"] = spent.broker / spent.events * 1e6 - of["event_broker_us"]


async def _replicas(found: Found) -> None:
    """Two clients of each diagnosis, on a replica each."""
    of = found.of
    async with system(found.node, found.count, replicas=2) as ours:
        await ours.join([(number, "") for number in found.every for _ in range(2)])
        spent = await ours.events(found.every, ROUNDS, 2)
        of["relay_us"] = spent.replicas / spent.events * 1e6 - of["event_us"] - of["frame_us"]
        of["relay_broker_us"] = spent.broker / spent.events * 1e6 - of["event_broker_us"]


async def _silence(found: Found) -> None:
    """What a replica does by itself: PINGs, and looks at who owns what."""
    of, silent = found.of, [(number, "") for number in found.every]
    async with system(found.node, found.count, REALTIME_HEARTBEAT_SECONDS=OFTEN) as ours:
        await ours.join(silent)
        used, pings = await ours.idle(IDLE_SECONDS)
        of["ping_us"] = used / pings * 1e6
    async with system(found.node, found.count, REALTIME_OWNERSHIP_RECHECK_SECONDS=OFTEN) as ours:
        await ours.join(silent)
        used, _ = await ours.idle(IDLE_SECONDS)
        of["look_us"] = used / (IDLE_SECONDS * found.count) * 1e6


async def _waiting(found: Found) -> None:
    """Events that nobody fetches."""
    of, node = found.of, found.node
    url = node.amqp_url
    await delete_queues(url, found.every)
    await make_queues(url, found.every)
    before, disk, names = await settled_kib(node), on_disk_kib(node.directory), files(node.directory)
    async with publisher(url) as upstream:
        for _ in range(WAITING):
            for number in found.every:
                await upstream.event(number)
    of["waiting_kib"] = (await settled_kib(node) - before) / (WAITING * found.count)
    of["waiting_disk_kib"] = (on_disk_kib(node.directory) - disk) / (WAITING * found.count)
    of["queue_files"] = (files(node.directory) - names) / found.count


async def _starts(found: Found) -> None:
    """With those events, and without queues. At the end: a node that has recovered has more memory than it needs."""
    full = min(_start_seconds(found.node) for _ in range(STARTS))
    await delete_queues(found.node.amqp_url, found.every)
    empty = min(_start_seconds(found.node) for _ in range(STARTS))
    found.of["queue_restart_ms"] = (full - empty) / found.count * 1000


def _start_seconds(node: PrivateRabbitMQ) -> float:
    """Until it accepts AMQP again, after a crash."""
    node.flush()
    node.kill()
    began = time.monotonic()
    node.restart()
    seconds = time.monotonic() - began
    pin(node.pid, first=False)
    return seconds
