"""The queue this replica is spoken to through: eviction notices, and answers from the first-contact door.

One name for the process' life. The queue outlives a lost broker connection, so nothing said meanwhile is lost and no
room has to bind again; it expires after 60 s without a consumer.

A message with an `x-death` header is an eviction notice and nothing else: it is the dropped event itself and carries
whatever `type` its publisher chose.
"""

import asyncio
import uuid
from collections.abc import Callable
from typing import Final

import structlog
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity

from contracts import topology
from contracts.ids import DiagnosisId, EventId
from contracts.topology import Header
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, translated
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS, BrokerLink, new_channel
from realtime_service.adapters.rabbitmq.reading import content_key, declared_id, headers_of, origin_of
from realtime_service.domain.errors import BrokerUnavailable, EventInvalid

log = structlog.get_logger(__name__)

PROVISIONED: Final = "provisioned"
"""`type` of the door's answer; its body is the diagnosis id."""
PREFETCH: Final = 1000
LEAVE_SECONDS: Final = 2.0

OnEvicted = Callable[[str, EventId], None]
"""Told the queue's name and the dropped event's id."""


class NodeQueue:
    """Consumes `realtime.node.<uuid>` and binds it for the diagnoses this replica watches."""

    def __init__(self, link: BrokerLink, on_evicted: OnEvicted) -> None:
        self.name = topology.node_queue(str(uuid.uuid4()))
        self._link = link
        self._on_evicted = on_evicted
        self._watched: set[DiagnosisId] = set()
        self._channel: AbstractChannel | None = None
        self._consumer = ""
        self._expected: dict[DiagnosisId, list[asyncio.Future[None]]] = {}

    async def prepare(self, connection: BrokerConnection) -> None:
        """Declare, bind what is watched if the queue is new, and consume. Part of every (re)connect."""
        try:
            probe = await new_channel(connection)
            await probe.queue_declare(self.name, passive=True, timeout=RPC_TIMEOUT_SECONDS)
            await probe.close()
            exists = True
        except ChannelNotFoundEntity:
            exists = False
        channel = await new_channel(connection)
        if not exists:
            await channel.queue_declare(
                self.name, durable=True, arguments=dict(topology.NODE_ARGUMENTS), timeout=RPC_TIMEOUT_SECONDS
            )
            for diagnosis in list(self._watched):
                await self._bind(channel, diagnosis)
        await channel.basic_qos(prefetch_count=PREFETCH, timeout=RPC_TIMEOUT_SECONDS)
        consumed = await channel.basic_consume(self.name, self._on_message, timeout=RPC_TIMEOUT_SECONDS)
        self._consumer = consumed.consumer_tag or ""
        self._link.depend_on(channel, connection)
        self._channel = channel

    async def watch(self, diagnosis: DiagnosisId) -> None:
        """Hear of evictions from this diagnosis' queues. Raises when the broker is away; then `prepare` binds."""
        self._watched.add(diagnosis)
        if self._channel is not None and not self._channel.is_closed:
            with translated():
                await self._bind(self._channel, diagnosis)

    async def unwatch(self, diagnosis: DiagnosisId) -> None:
        """Hear no more of it."""
        self._watched.discard(diagnosis)
        if self._channel is None or self._channel.is_closed:
            return
        try:
            with translated():
                await self._channel.queue_unbind(
                    self.name, topology.NODES, topology.routing_key(diagnosis), timeout=RPC_TIMEOUT_SECONDS
                )
        except BrokerUnavailable as error:
            log.warning("node_unbind_failed", reason=str(error))

    def expect(self, diagnosis: DiagnosisId) -> "asyncio.Future[None]":
        """A future for the door's next answer about a diagnosis."""
        future = asyncio.get_running_loop().create_future()
        waiting = [other for other in self._expected.get(diagnosis, []) if not other.done()]
        self._expected[diagnosis] = [*waiting, future]
        return future

    async def delete(self) -> None:
        """Remove the queue: this replica leaves for good."""
        channel, self._channel = self._channel, None
        if channel is None or channel.is_closed:
            return
        try:
            with translated():
                await channel.basic_cancel(self._consumer, timeout=LEAVE_SECONDS)
                await channel.queue_delete(self.name, timeout=LEAVE_SECONDS)
        except (BrokerUnavailable, TimeoutError):
            pass  # it expires

    async def _bind(self, channel: AbstractChannel, diagnosis: DiagnosisId) -> None:
        await channel.queue_bind(
            self.name, topology.NODES, topology.routing_key(diagnosis), timeout=RPC_TIMEOUT_SECONDS
        )

    async def _on_message(self, message: DeliveredMessage) -> None:
        try:
            if Header.DEATH in headers_of(message):
                self._evicted(message)
            elif message.header.properties.message_type == PROVISIONED and not message.exchange:
                self._provisioned(message.body)
        except Exception as error:
            log.error("node_message_unusable", exc_info=error)
        await message.channel.basic_ack(message.delivery_tag or 0, wait=False)

    def _evicted(self, message: DeliveredMessage) -> None:
        deaths = headers_of(message)[Header.DEATH]
        death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
        queue, exchange = death.get("queue"), death.get("exchange")
        if not isinstance(queue, str) or not isinstance(exchange, str):
            return
        try:
            origin = origin_of(message, published_to=exchange)
            event = declared_id(message) or EventId(content_key(message, origin))
        except EventInvalid:
            return  # what no client could ever have received is no gap
        self._on_evicted(queue, event)

    def _provisioned(self, body: bytes) -> None:
        diagnosis = DiagnosisId(int(body))
        for future in self._expected.pop(diagnosis, []):
            if not future.done():
                future.set_result(None)
