"""A small real system to measure: a node, replicas, clients spread over them, events at a steady rate."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realtime_service.embedded.node import PrivateRabbitMQ
from tests.bench.broker import publisher
from tests.bench.crowd import Crowd, crowd
from tests.bench.measuring import Cost
from tests.bench.peers.this_service import Service, targets, this_service
from tests.bench.processes import cpu_seconds, resident_bytes

SILENT: Final = {
    "REALTIME_HEARTBEAT_SECONDS": "600",
    "REALTIME_OWNERSHIP_RECHECK_SECONDS": "55",
    "REALTIME_NEW_DEVICES_PER_DAY": "10000",
    "REALTIME_JOIN_TIMEOUT_SECONDS": "60",
    "REALTIME_RECEIPT_TIMEOUT_SECONDS": "60",  # nobody is given up because this machine is busy
}
"""What a replica does by itself, as seldom as can be."""
EVENTS_PER_SECOND: Final = 300
AT_ONCE: Final = 8
"""Clients that are being welcomed: what comes all at once is no steady cost."""
STEADY_SECONDS: Final = 0.5
STEADY: Final = 0.003


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU-seconds of replicas and broker, and how many events arrived."""

    replicas: float
    broker: float
    events: int


class System:
    """Replicas, and their clients when they have joined."""

    def __init__(self, node: PrivateRabbitMQ, services: Sequence[Service], stack: AsyncExitStack) -> None:
        self._node = node
        self._services = services
        self._stack = stack
        self._pids = [service.pid for service in services]
        self.crowds: list[Crowd] = []

    @property
    def kib(self) -> float:
        """Resident memory of all replicas."""
        return sum(resident_bytes(pid) for pid in self._pids) / 1024

    async def join(self, clients: Sequence[tuple[int, str]]) -> Spent:
        """Clients (diagnosis, and a name or nothing) come, the first to the first replica, and so on in turn."""
        before = self._used()
        for number, service in enumerate(self._services):
            part = clients[number :: len(self._services)]
            paths = targets(diagnosis for diagnosis, _ in part)
            named = [
                f"{path}&client_id={name}" if name else path
                for path, (_, name) in zip(paths, part, strict=True)
            ]
            them = await self._stack.enter_async_context(
                crowd(service.port, named, "welcome", at_once=AT_ONCE)
            )
            await them.connected()
            self.crowds.append(them)
        await self.quiet()
        return self._since(before, 0)

    async def events(self, diagnoses: Sequence[int], rounds: int, clients_each: int) -> Spent:
        """So many events of each diagnosis, at a steady rate; over when all have arrived and are settled."""
        for them in self.crowds:
            await them.reset()
        before = self._used()
        async with publisher(self._node.amqp_url) as upstream:
            began = time.monotonic()
            for number in range(rounds * len(diagnoses)):
                if number % 10 == 0:
                    await asyncio.sleep(max(0.0, began + number / EVENTS_PER_SECOND - time.monotonic()))
                await upstream.event(diagnoses[number % len(diagnoses)])
        wanted = rounds * len(diagnoses) * clients_each
        for them in self.crowds:
            await them.received(wanted // len(self.crowds))
        await self.quiet()
        return self._since(before, rounds * len(diagnoses))

    async def idle(self, seconds: float) -> tuple[float, int]:
        """CPU-seconds of the replicas meanwhile, and PINGs that their clients got."""
        for them in self.crowds:
            await them.reset()
        before = cpu_seconds(*self._pids)
        await asyncio.sleep(seconds)
        used = cpu_seconds(*self._pids) - before
        return used, sum([(await them.report()).pings for them in self.crowds])

    async def quiet(self) -> None:
        """Wait until replicas and broker have no more to do."""
        await Cost(*self._pids).until_quiet()
        await Cost(self._node.pid).until_quiet()

    def _used(self) -> tuple[float, float]:
        return cpu_seconds(*self._pids), cpu_seconds(self._node.pid)

    def _since(self, before: tuple[float, float], events: int) -> Spent:
        replicas, broker = self._used()
        return Spent(replicas - before[0], broker - before[1], events)


@asynccontextmanager
async def system(
    node: PrivateRabbitMQ, diagnoses: int, replicas: int = 1, **more: str
) -> AsyncIterator[System]:
    """Replicas without clients."""
    async with AsyncExitStack() as stack:
        services = [
            stack.enter_context(this_service(node.amqp_url, diagnoses, number=number, more=SILENT | more))
            for number in range(replicas)
        ]
        found = System(node, services, stack)
        await found.quiet()
        yield found


async def settled_kib(node: PrivateRabbitMQ) -> float:
    """Resident memory of the node, once it has collected its garbage and grows or shrinks no more."""
    await Cost(node.pid).until_quiet()
    node.ctl("force_gc")
    last = resident_bytes(node.pid)
    while True:
        await asyncio.sleep(STEADY_SECONDS)
        now = resident_bytes(node.pid)
        if abs(now - last) <= STEADY * last:
            return now / 1024
        last = now


def processes(node: PrivateRabbitMQ) -> int:
    """Erlang processes that run."""
    return int(node.ctl("eval", "erlang:system_info(process_count)."))


def files(directory: Path) -> int:
    """Files and folders below."""
    return sum(1 for _ in directory.rglob("*"))


def on_disk_kib(directory: Path) -> float:
    """What files below take."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1024
