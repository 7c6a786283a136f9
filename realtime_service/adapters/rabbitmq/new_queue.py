"""A shared queue in the making: declared, filled in order while nothing else leads into it, and only then bound.

Law: its events are put in one after the other or, where no refusal is to be expected, FORWARDED_AT_ONCE at a time. A
queue made with the arguments of `contracts.topology` drops its oldest event when it is full and refuses none. One that
exists with other arguments may refuse (`x-overflow: reject-publish`), and so may one that refused before: these get an
event only after the one before it was confirmed.

What remains: a queue that refuses for the first time with events under way (its process crashed) may have taken some
that came after a refused one. They are sent again behind it, but their first copies stay where they are.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import structlog
from aiormq.exceptions import ChannelPreconditionFailed
from pamqp.common import FieldValue

from contracts import topology
from contracts.ids import DiagnosisId, EventId
from contracts.topology import Header
from realtime_service.adapters.rabbitmq.amqp.channel import Channel, Delivery
from realtime_service.adapters.rabbitmq.asking import exists
from realtime_service.adapters.rabbitmq.connecting import translated
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS, BrokerLink
from realtime_service.adapters.rabbitmq.parking import republish
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.reading import origin_of
from realtime_service.domain.errors import BrokerUnavailable, PublishError

log = structlog.get_logger(__name__)

FORWARDED_AT_ONCE: Final = 100
"""Events under way to the broker; their order is the publisher's."""
RETRY_SECONDS: Final = 0.5

Waiting = deque[tuple[Delivery, EventId]]


class NewQueue:
    """The shared queue of one diagnosis."""

    def __init__(
        self,
        link: BrokerLink,
        publisher: ConfirmedPublisher,
        arguments: topology.Arguments,
        diagnosis: DiagnosisId,
    ) -> None:
        self._link = link
        self._publisher = publisher
        self._arguments = arguments
        self._name = topology.shared_queue(diagnosis)
        self._key = topology.routing_key(diagnosis)
        self._at_once = FORWARDED_AT_ONCE

    async def exists(self) -> bool:
        """Whether there is one of that name. Raises BrokerUnavailable."""
        with translated():
            async with self._link.opening:
                return await exists(await self._link.channel(), self._name)

    async def declare(self) -> None:
        """Declare it, durable and unbound. Raises BrokerUnavailable.

        A queue that exists with other arguments is used as it is.
        """
        try:
            with translated():
                async with (
                    self._link.opening
                ):  # thousands may come at once; a call must not wait for all others
                    channel = await self._link.channel()
                    await channel.queue_declare(
                        self._name, durable=True, arguments=dict(self._arguments), timeout=RPC_TIMEOUT_SECONDS
                    )
                    await _close(channel)
        except BrokerUnavailable as error:
            if not isinstance(error.__cause__, ChannelPreconditionFailed):
                raise
            self._at_once = 1
            log.warning("queue_has_other_arguments", queue=self._name)

    async def bind(self) -> None:
        """From here on events come to it by themselves. Raises BrokerUnavailable."""
        with translated():
            async with self._link.opening:
                channel = await self._link.channel()
                await channel.queue_bind(self._name, topology.EVENTS, self._key, timeout=RPC_TIMEOUT_SECONDS)
                await _close(channel)

    async def put(self, waiting: Waiting, settle: Callable[[Delivery], None]) -> int:
        """Put in what waits, in order; each is settled after its confirm. Returns how many it were.

        A refused one is tried again, before all that come after it. Raises BrokerUnavailable.
        """
        count = 0
        while batch := list(islice(waiting, self._at_once)):
            outcomes = await asyncio.gather(
                *(self._put_one(*event) for event in batch), return_exceptions=True
            )
            for (message, _), outcome in zip(batch, outcomes, strict=True):
                if outcome is not None:
                    break
                waiting.popleft()
                settle(message)
                count += 1
            failed = next((outcome for outcome in outcomes if outcome is not None), None)
            if isinstance(failed, PublishError):
                self._at_once = 1
                log.warning("forwarding_failed", error=str(failed))
                await asyncio.sleep(RETRY_SECONDS)
                await self.declare()
            elif failed is not None:
                raise failed
        return count

    async def _put_one(self, message: Delivery, event_id: EventId) -> None:
        added: dict[str, FieldValue] = {Header.ORIGIN_EXCHANGE.value: origin_of(message).exchange}
        await republish(self._publisher, self._name, message, message_id=event_id, added=added)


async def _close(channel: Channel) -> None:
    """After a success: a call that failed, was cancelled or took too long has closed its channel."""
    try:
        with translated():
            await channel.close(timeout=RPC_TIMEOUT_SECONDS)
    except (BrokerUnavailable, TimeoutError):
        pass
