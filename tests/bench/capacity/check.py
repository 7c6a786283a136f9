"""Holds the arithmetic against a small real system: other numbers than those it was measured with."""

from dataclasses import dataclass
from typing import Final

from tests.bench.broker import make_queues, private_broker
from tests.bench.capacity import model
from tests.bench.capacity.running import settled_kib, system
from tests.bench.capacity.units import Check, Units

ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """A small system."""

    clients: int
    per_diagnosis: int = 1
    named: int = 0
    """Of each diagnosis' clients."""
    replicas: int = 1
    known: float = 2.0

    @property
    def diagnoses(self) -> int:
        """With a client."""
        return max(1, self.clients // self.per_diagnosis)


async def check(shape: Shape, units: Units) -> list[Check]:
    """Run it; what was predicted of it, and what it had."""
    rooms = shape.diagnoses
    places = min(shape.replicas, shape.per_diagnosis)
    here = [
        (number, f"phone-{place}-of-{number}" if place < shape.named else "")
        for number in range(1, rooms + 1)
        for place in range(shape.per_diagnosis)
    ]
    devices = rooms * shape.named
    with private_broker() as node:
        idle = await settled_kib(node)
        async with system(node, rooms, shape.replicas):
            await make_queues(node.amqp_url, range(1, round(rooms * shape.known) + 1))
        queues = round(rooms * shape.known) + devices
        if devices:  # a device's first coming makes its queue
            async with system(node, rooms, shape.replicas) as ours:
                await ours.join(here)
        async with system(node, rooms, shape.replicas) as ours:
            empty = ours.kib
            joined = await ours.join(here)
            replicas_kib, broker_kib = ours.kib - empty, await settled_kib(node) - idle
            spent = await ours.events(range(1, rooms + 1), ROUNDS, shape.per_diagnosis)
    clients = len(here)
    of_replicas = model.memory_of_replica(units, clients, rooms * places, devices) - units.replica_kib
    of_broker = model.memory_of_broker(units, queues, rooms * places + devices) - units.node_kib
    replicas_us, broker_us = model.cost_of_event(units, shape.per_diagnosis, shape.named, places)
    connect_us = units.connect_us + devices / clients * units.device_connect_us
    return [
        Check("clients in memory of the replicas, MiB", of_replicas / model.MIB, replicas_kib / model.MIB),
        Check("queues and sessions in RabbitMQ's, MiB", of_broker / model.MIB, broker_kib / model.MIB),
        Check("µs of the replicas per event", replicas_us, spent.replicas / spent.events * 1e6),
        Check("µs of RabbitMQ per event", broker_us, spent.broker / spent.events * 1e6),
        Check("µs of the replicas per connect", connect_us, joined.replicas / clients * 1e6),
    ]
