"""Makes sessions: which queue, and how it comes to be where it does not exist. `domain.sessions.Sessions`."""

import asyncio
import uuid
from typing import Final

import structlog
from aiormq.exceptions import ChannelPreconditionFailed

from contracts import topology
from contracts.ids import DiagnosisId
from contracts.topology import Header
from realtime_service.adapters.rabbitmq.connecting import translated
from realtime_service.adapters.rabbitmq.first_contact import PROVISION, PROVISION_SECONDS
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS, BrokerLink
from realtime_service.adapters.rabbitmq.node import NodeQueue
from realtime_service.adapters.rabbitmq.parking import Parking
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.reading import Occurrences
from realtime_service.adapters.rabbitmq.session import QueueSession, Source
from realtime_service.domain.errors import BrokerUnavailable
from realtime_service.domain.sessions import SessionListener

log = structlog.get_logger(__name__)

ASK_AGAIN_SECONDS: Final = 2.0
"""The door drops a request for a diagnosis that its database does not know: it may only be late."""
REMEMBERED_QUEUES: Final = 10_000
"""Queues whose counts of equal contents are kept while nobody consumes them; an empty one costs some 500 bytes."""


class RabbitSessions:
    """Sessions on RabbitMQ."""

    def __init__(
        self,
        link: BrokerLink,
        node: NodeQueue,
        publisher: ConfirmedPublisher,
        parking: Parking,
        *,
        backlog_limit: int,
        queue_type: topology.QueueType,
    ) -> None:
        self._link = link
        self._node = node
        self._publisher = publisher
        self._parking = parking
        self._limit = backlog_limit
        # One of each for all sessions: there are many.
        self._shared_is_made = self._ask_for_queue, self._is_bound, self._bound
        self._device_is_made = self._make_device_queue, _always, _at_once
        self._occurrences: dict[str, Occurrences] = {}  # by queue, least recently opened first
        self._device_arguments = topology.device_arguments(limit=backlog_limit, queue_type=queue_type)

    def shared(self, diagnosis: DiagnosisId, listener: SessionListener) -> QueueSession:
        """The session on a diagnosis' shared queue."""
        queue = topology.shared_queue(diagnosis)
        return self._session(Source(queue, diagnosis, self._limit, *self._shared_is_made), listener)

    def device(self, diagnosis: DiagnosisId, key: str, listener: SessionListener) -> QueueSession:
        """The session on a device's queue."""
        queue = topology.device_queue(diagnosis, key)
        return self._session(Source(queue, diagnosis, self._limit, *self._device_is_made), listener)

    def watch(self, diagnosis: DiagnosisId) -> None:
        """Hear of evictions from the diagnosis' queues."""
        self._node.watch(diagnosis)

    def unwatch(self, diagnosis: DiagnosisId) -> None:
        """Hear no more of them."""
        self._node.unwatch(diagnosis)

    def _session(self, source: Source, listener: SessionListener) -> QueueSession:
        """A session that goes on counting where the last one on this queue ended."""
        occurrences = self._occurrences.pop(source.queue, None) or Occurrences()
        self._occurrences[source.queue] = occurrences
        if len(self._occurrences) > REMEMBERED_QUEUES:
            del self._occurrences[next(iter(self._occurrences))]
        return QueueSession(self._link, source, listener, self._parking, occurrences)

    def _is_bound(self, source: Source) -> bool:
        return self._node.is_bound(source.diagnosis)

    async def _bound(self, source: Source) -> None:
        await self._node.bound(source.diagnosis)

    async def _ask_for_queue(self, source: Source) -> None:
        """Ask at the first-contact door, again and again, and wait for an answer. Raises PublishError or TimeoutError.

        The queue may be there before: it does not hold yet what is on its way into it.
        """
        answer = self._node.expect(source.diagnosis)
        try:
            async with asyncio.timeout(PROVISION_SECONDS):
                while not answer.done():
                    await self._ask(source.diagnosis)
                    await asyncio.wait([answer], timeout=ASK_AGAIN_SECONDS)
        finally:
            answer.cancel()

    async def _ask(self, diagnosis: DiagnosisId) -> None:
        await self._publisher.publish(
            "",
            topology.UNROUTED,
            str(diagnosis).encode(),
            message_id=uuid.uuid4().hex,
            timeout_seconds=PROVISION_SECONDS,
            message_type=PROVISION,
            headers={Header.REPLY_TO.value: self._node.name},
        )

    async def _make_device_queue(self, source: Source) -> None:
        """Declare and bind. Raises BrokerUnavailable."""
        channel = await self._link.channel()
        try:
            with translated():
                await channel.queue_declare(
                    source.queue,
                    durable=True,
                    arguments=dict(self._device_arguments),
                    timeout=RPC_TIMEOUT_SECONDS,
                )
                key = topology.routing_key(source.diagnosis)
                await channel.queue_bind(source.queue, topology.DEVICES, key, timeout=RPC_TIMEOUT_SECONDS)
                await channel.close(timeout=RPC_TIMEOUT_SECONDS)
        except BrokerUnavailable as error:
            if not isinstance(error.__cause__, ChannelPreconditionFailed):
                raise
            log.warning("queue_has_other_arguments", queue=source.queue)


def _always(_: Source) -> bool:
    return True


async def _at_once(_: Source) -> None:
    """Nothing is needed before."""
