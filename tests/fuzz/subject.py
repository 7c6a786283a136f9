"""The service under fire: a process of its own, two clients of one diagnosis that must not notice, and its log.

Law: after every example a good event still arrives at both clients, the queues are empty, the process lives, and its
log holds neither a traceback nor anything that was sent. An example that breaks this gets a new service behind it, so
that the next one starts as the first did.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings
from websockets.exceptions import ConnectionClosed

from contracts import topology
from contracts.replicas import ALL_REPLICAS
from tests.fuzz.messages import SECRET_TEXT
from tests.fuzz.properties import table, text, write
from tests.fuzz.raw_amqp import RawAmqp, Refused
from tests.service.harness.replica import Replica
from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import World
from tests.web.clients import Client

EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""Examples of each test; 0: as many as an ordinary run has time for."""
TIMEOUT: Final = 240 + EXAMPLES
"""Seconds for a test. A good run takes a tenth of it; each failing example costs a new service."""

OWN_QUEUE: Final = "realtime.node.judge"
"""Where answers come; it looks like a replica's."""
SOON_SECONDS: Final = 15.0

_numbers = count(1)


def examples(ordinary: int) -> settings:
    """How long to look. A failing example is printed with the line that replays it; shrinking it takes minutes."""
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    return settings(
        max_examples=EXAMPLES or ordinary,
        phases=[*phases, Phase.shrink] if EXAMPLES else phases,
        deadline=None,
        print_blob=True,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )


def a_number() -> int:
    """One that nothing else carries."""
    return next(_numbers)


class Subject:
    """A replica with a bystander and a device on `diagnosis`."""

    diagnosis: int
    address: str
    node: str
    """Its node queue."""
    replica: Replica

    def __init__(self, world: World) -> None:
        self.world = world
        self.frames: list[Any] = []
        """What the bystander got."""
        self._device_frames: list[Any] = []
        self._stack = AsyncExitStack()
        self._amqp: RawAmqp | None = None
        self._judge: RawAmqp | None = None
        self._seen = 0

    async def start(self) -> None:
        """A new replica, a new diagnosis, two clients."""
        self.replica = await self.world.start_replica(
            receipt_timeout_seconds=30, broadcast_burst=1_000_000, address_refusals_per_second=100_000
        )
        self.address = self.replica.address
        self.diagnosis = self.world.diagnosis()
        self._seen = 0
        for frames, name in ((self.frames, {}), (self._device_frames, {"client_id": "phone"})):
            client = await Client.open(self.world.url(self.diagnosis, **name))
            self._stack.push_async_callback(client.leave)
            await client.welcome()
            self._stack.callback(asyncio.create_task(_collect(client, frames)).cancel)
        self.node = await self._find_node()

    async def stop(self) -> None:
        """Clients leave. The replica is stopped by its world."""
        await self._stack.aclose()
        for connection in (self._amqp, self._judge):
            if connection is not None:
                await connection.close()

    async def renew(self) -> None:
        """This replica is spoilt: another one, and nothing left in the queues that it read."""
        await self._stack.aclose()
        await self.replica.kill()
        judge = await self.judge()
        for queue in (topology.UNROUTED, topology.PARKED):
            while await judge.get(queue) is not None:
                pass
        self.frames.clear()
        self._device_frames.clear()
        await self.start()

    async def judge(self) -> RawAmqp:
        """A connection that nothing odd is published on, with the queue OWN_QUEUE."""
        if self._judge is None or self._judge.dead:
            self._judge = await RawAmqp.open(self.world.amqp_url)
            await self._judge.own_queue(OWN_QUEUE)
        return self._judge

    async def publish(self, exchange: bytes, key: bytes, properties: bytes, body: bytes) -> bool:
        """Publish bytes. Returns whether the broker took them for AMQP."""
        if self._amqp is None or self._amqp.dead:
            self._amqp = await RawAmqp.open(self.world.amqp_url)
        try:
            await self._amqp.publish(exchange, key, properties, body)
        except Refused:
            return False
        return True

    @asynccontextmanager
    async def unharmed(self) -> AsyncIterator[None]:
        """What happens here harms nobody."""
        try:
            yield
            await self.serves()
            self.keeps_quiet()
        except BaseException:
            await self.renew()
            raise

    async def serves(self) -> None:
        """A good event arrives at both clients, door and node queue answer, and nothing is left behind."""
        number = await self.publish_good_event()
        for frames in (self.frames, self._device_frames):
            await until(partial(_came, frames, number), "a good event arrives", seconds=SOON_SECONDS)
        diagnosis = str(self.diagnosis).encode()
        request = write(type=b"provision", headers=table({b"x-reply-to": text(OWN_QUEUE.encode())}))
        await self._answers(topology.UNROUTED, request, diagnosis, "the first-contact door answers")
        question = json.dumps({"sender": OWN_QUEUE, "ask_id": "who?"}).encode()
        await self._answers(self.node, write(type=b"census_ask"), question, "the node queue is read")
        assert self.replica.code is None, "the process ended"
        phone = self.world.device_queue(self.diagnosis)
        for queue in (topology.UNROUTED, f"diagnosis.{self.diagnosis}", phone, self.node):
            await until_true(partial(self._is_empty, queue), f"{queue} is empty", seconds=SOON_SECONDS)

    async def publish_good_event(self) -> int:
        """Publish an event. Returns its number."""
        number = a_number()
        body = {"diagnosis_id": self.diagnosis, "feedback_id": number, "rating": 5, "effectiveness": 0.5}
        key = f"diagnosis.{self.diagnosis}".encode()
        await (await self.judge()).publish(b"diagnosis.feedback", key, write(), json.dumps(body).encode())
        return number

    def keeps_quiet(self) -> None:
        """The log says nothing of errors in the program, and nothing of what was sent."""
        lines, self._seen = self.replica.logs[self._seen :], len(self.replica.logs)
        bad = [line for line in lines if "raw" in line or "exception" in line]
        bad += [line for line in lines if line.get("level") in ("error", "critical")]
        bad += [line for line in lines if SECRET_TEXT in json.dumps(line)]
        assert not bad, bad

    async def _answers(self, queue: str, properties: bytes, body: bytes, what: str) -> None:
        judge = await self.judge()
        await judge.publish(b"", queue.encode(), properties, body)

        async def answered() -> bool:
            return await judge.get(OWN_QUEUE) is not None

        await until_true(answered, what, seconds=SOON_SECONDS)

    async def _is_empty(self, queue: str) -> bool:
        return await (await self.judge()).depth(queue) == 0

    async def _find_node(self) -> str:
        """The replica's node queue: it says every few seconds that it is there, and who says so."""
        judge = await self.judge()
        await judge.bind(OWN_QUEUE, topology.NODES, ALL_REPLICAS)
        found: list[str] = []

        async def said() -> bool:
            if (message := await judge.get(OWN_QUEUE)) is not None:
                found.append(json.loads(message.body)["sender"])
            return bool(found)

        await until_true(said, "the replica says that it is there")
        await judge.close()
        return found[-1]


def _came(frames: list[Any], number: int) -> bool:
    return any(
        frame.get("type") == "feedback_update" and frame["data"].get("feedback_id") == number
        for frame in frames
        if isinstance(frame, dict)
    )


async def _collect(client: Client, frames: list[Any]) -> None:
    with suppress(ConnectionClosed):
        while True:
            frames.append(json.loads(await client.socket.recv()))
