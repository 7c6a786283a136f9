"""The private RabbitMQ of a run: queues that exist before they are measured, publishing, MQTT over WebSocket."""

import asyncio
import itertools
import struct
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from urllib.parse import urlsplit

import aio_pika

from contracts import topology
from contracts.events import EventType
from contracts.ids import DiagnosisId
from realtime_service.adapters.rabbitmq.amqp.connection import Connection
from realtime_service.adapters.rabbitmq.amqp.opening import open_connection
from realtime_service.embedded.loopback import free_ports
from realtime_service.embedded.node import PrivateRabbitMQ, start_private_rabbitmq
from tests.bench.processes import pin

EVENT_BYTES: Final = 300
EXCHANGE: Final = topology.EXCHANGES[EventType.RECOMMENDATION]
CHANNELS: Final = 8
"""Queues are made on several channels: 600 a second instead of 260."""
AT_ONCE: Final = 8
_NUMBERS: Final = itertools.count(1)
_ROOMY: Final = "vm_memory_high_watermark.absolute = 8GB\n"
"""An alarm, which blocks publishers, would be measured instead of what 20,000 queues with their consumers cost."""
_WEB_MQTT: Final = """\
[application:set_env(rabbitmq_mqtt, Key, Value, [{{persistent, true}}]) ||
    {{Key, Value}} <- [{{tcp_listeners, []}}, {{allow_anonymous, false}}]],
application:set_env(rabbitmq_web_mqtt, tcp_config, [{{ip, "127.0.0.1"}}, {{port, {port}}}], [{{persistent, true}}]),
rabbit_plugins:ensure("{file}")."""


def event_body(diagnosis: int, size: int = EVENT_BYTES) -> bytes:
    """A recommendation event of `size` bytes, with the time of its making in it."""
    head = (
        f'{{"diagnosis_id":{diagnosis},"old_data":{{}},"reason":"r",'
        f'"new_data":{{"sent_ns":{time.monotonic_ns()},"pad":"'
    )
    return (head + "x" * (size - len(head) - 3) + '"}}').encode()


class Publisher:
    """Publishes as an upstream task does, persistent, on one channel, without waiting for each confirm.

    Bytes are put together by hand, or it would be slower than what is measured: it shares a processor with the broker.
    """

    def __init__(self, connection: Connection, channel: int) -> None:
        self._connection = connection
        self._channel = channel
        self._unsent = 0

    async def event(self, diagnosis: int, exchange: str = EXCHANGE, key: str | None = None) -> None:
        """Publish one event of a diagnosis, through another exchange under another key if given."""
        await self.raw(event_body(diagnosis), exchange, key or f"diagnosis.{diagnosis}")

    async def raw(self, body: bytes, exchange: str, key: str) -> None:
        """Publish bytes. They are sent when the caller waits for anything, and with the next AT_ONCE at the latest."""
        method = struct.pack(">HHH", 60, 40, 0) + _short(exchange) + _short(key) + b"\0"
        properties = _short("application/json") + b"\2" + _short(f"bench-{next(_NUMBERS)}")
        header = struct.pack(">HHQH", 60, 0, len(body), 0b1001_0000_1000_0000) + properties
        frames = ((1, method), (2, header), (3, body))
        self._connection.write(
            b"".join(
                struct.pack(">BHI", kind, self._channel, len(payload)) + payload + b"\xce"
                for kind, payload in frames
            )
        )
        self._unsent += 1
        if self._unsent == AT_ONCE:
            self._unsent = 0
            await asyncio.sleep(0)


def _short(text: str) -> bytes:
    return struct.pack("B", len(text)) + text.encode()


@asynccontextmanager
async def publisher(amqp_url: str) -> AsyncIterator[Publisher]:
    """A publisher with a connection of its own."""
    connection = await open_connection(amqp_url, name="bench publisher")
    try:
        yield Publisher(connection, connection.channel().number)
    finally:
        await connection.close()


async def make_queues(amqp_url: str, diagnoses: Iterable[int], limit: int = topology.BACKLOG_LIMIT) -> None:
    """Make the shared queues of diagnoses, bound as the service binds them."""
    waiting = iter(list(diagnoses))
    connection = await aio_pika.connect(amqp_url)

    async def some() -> None:
        channel = await connection.channel()
        for diagnosis in waiting:
            queue = await channel.declare_queue(
                topology.shared_queue(DiagnosisId(diagnosis)),
                durable=True,
                arguments=topology.backlog_arguments(limit=limit),  # type: ignore[arg-type]
            )
            await queue.bind(topology.EVENTS, topology.routing_key(DiagnosisId(diagnosis)))

    async with connection:
        await asyncio.gather(*(some() for _ in range(CHANNELS)))


async def left_in_queues(amqp_url: str, diagnoses: Iterable[int]) -> int:
    """Events that wait in the shared queues; those that a consumer holds unproven only once it is gone."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        total = 0
        for diagnosis in diagnoses:
            queue = await channel.declare_queue(topology.shared_queue(DiagnosisId(diagnosis)), passive=True)
            total += queue.declaration_result.message_count or 0
        return total


async def delete_queues(amqp_url: str, diagnoses: Iterable[int]) -> None:
    """Delete the shared queues of diagnoses, so that the next row finds a small broker."""
    waiting = iter(list(diagnoses))
    connection = await aio_pika.connect(amqp_url)

    async def some() -> None:
        channel = await connection.channel()
        for diagnosis in waiting:
            await channel.queue_delete(topology.shared_queue(DiagnosisId(diagnosis)))

    async with connection:
        await asyncio.gather(*(some() for _ in range(CHANNELS)))


@contextmanager
def private_broker() -> Iterator[PrivateRabbitMQ]:
    """A node for this run alone."""
    node = start_private_rabbitmq(configuration=_ROOMY)
    try:
        pin(node.pid, first=False)
        yield node
    finally:
        node.stop()


def enable_web_mqtt(node: PrivateRabbitMQ) -> tuple[int, str]:
    """Start the plugin on a running node. Returns its port, and `user:password`."""
    port = free_ports(1)[0]
    plugins = node.directory / "enabled_plugins"
    plugins.write_text("[rabbitmq_web_mqtt].")
    node.ctl("eval", _WEB_MQTT.format(port=port, file=plugins))
    return port, urlsplit(node.amqp_url).netloc.split("@")[0]
