"""A session: one durable queue, consumed on a channel of its own, re-opened for as long as it is wanted.

Law: a session is released by closing its channel, never by `basic.cancel` while deliveries are unacknowledged: cancel
activates the next single active consumer at once and the returned events arrive behind newer ones; closing the channel
returns them to their old places in one step (RabbitMQ 3.10, classic and quorum queues).

A task runs only while a session changes its state; one that is open or closed costs none.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from aiormq.exceptions import ChannelNotFoundEntity

from contracts.ids import DiagnosisId
from realtime_service.adapters.rabbitmq.amqp.channel import Channel, Delivery
from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.adapters.rabbitmq.connecting import translated
from realtime_service.adapters.rabbitmq.flag import Flag
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS, BrokerLink
from realtime_service.adapters.rabbitmq.parking import Parking
from realtime_service.adapters.rabbitmq.reading import (
    Occurrences,
    content_key,
    declared_id,
    event_id_of,
    origin_of,
    read_event,
)
from realtime_service.domain.errors import BrokerUnavailable, Disconnect, EventInvalid, RealtimeError
from realtime_service.domain.event import Event
from realtime_service.domain.sessions import Depth, SessionListener
from realtime_service.domain.window import WINDOW_EVENTS

log = structlog.get_logger(__name__)

FIRST_DELAY_SECONDS: Final = 0.05
LONGEST_DELAY_SECONDS: Final = 5.0
SOON_EVENTS: Final = WINDOW_EVENTS // 2
"""So many settled events are acknowledged at once: the broker sends no more than a window beyond them."""

MakeQueue = Callable[["Source"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Source:
    """The queue a session consumes, and how it comes to be if it does not exist."""

    queue: str
    diagnosis: DiagnosisId
    limit: int
    make: MakeQueue
    is_ready: Callable[["Source"], bool]
    """Whether it may be consumed."""
    until_ready: MakeQueue
    """Waits until it may be."""


class _Nobody:
    """Whom a released session tells."""

    def making(self) -> None: ...
    def opened(self, generation: int, ready: int, *, full: bool, made: bool) -> None: ...
    def delivered(self, tag: int, event: Event, *, redelivered: bool) -> None: ...
    def refused(self, tag: int, reason: str) -> None: ...
    def parked(self, generation: int, tag: int) -> None: ...
    def lost(self) -> None: ...


_NOBODY: Final = _Nobody()


class QueueSession:
    """Consumes `source` and tells `listener`; see `realtime_service.domain.ports.Session`."""

    __slots__ = (
        "_acknowledged",
        "_channel",
        "_deleted",
        "_generation",
        "_link",
        "_listener",
        "_occurrences",
        "_opened",
        "_parkable",
        "_parking",
        "_refusal",
        "_released",
        "_settled",
        "_source",
        "_task",
        "_waiting",
        "_wanted",
        "consumers",
    )

    def __init__(
        self,
        link: BrokerLink,
        source: Source,
        listener: SessionListener,
        parking: Parking,
        occurrences: Occurrences,
    ) -> None:
        self._link = link
        self._source = source
        self._listener: SessionListener = listener
        self._parking = parking
        self._occurrences = occurrences
        self._channel: Channel | None = None
        self._generation = 0
        self._wanted = False
        self._opened = Flag()
        self._released = Flag()
        self._refusal: Disconnect | None = None
        self._deleted = False
        """The queue was deleted: one of that name, whoever made it, does not hold what that one held."""
        self._task: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._settled = 0
        self._acknowledged = 0
        self.consumers = 0
        self._parkable: dict[int, Delivery] = {}  # unsettled, and no event, or one for somebody else

    # What its user calls

    def open(self) -> None:
        """Want this session; it opens as soon as there is a broker, and again after every loss."""
        self._wanted = True
        self._tend()

    async def opened(self) -> None:
        """Return once the session consumes. Raises Disconnect when its queue must not be made."""
        await self._opened.wait()
        if self._refusal is not None:
            raise self._refusal

    async def release(self) -> None:
        """Close the channel: what is unsettled is back in the queue, in its place, when this returns."""
        self._wanted = False
        self._released.set()
        if self._waiting is not None:
            self._waiting.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._close_channel()
        self._listener = _NOBODY  # the one it had leads back here: both would wait for the garbage collector

    def renew(self) -> None:
        """Give everything unsettled back and consume anew."""
        if self._channel is not None:
            self._start(self._reopen(self._task))

    def settle(self, generation: int, tag: int) -> None:
        """Acknowledge everything up to `tag`; one frame for all that is settled in a moment."""
        if generation != self._generation or self._channel is None:
            return  # a channel that is gone; the broker delivers again, and the window knows what was proven
        self._settled = tag
        self._occurrences.settled(tag)
        for settled in [known for known in self._parkable if known <= tag]:
            del self._parkable[settled]
        if tag - self._acknowledged < SOON_EVENTS:
            self._link.acknowledge_soon(self)
        else:
            self.acknowledge()

    def park(self, generation: int, tag: int, reason: str) -> None:
        """Bring a delivery to the parking queue, then tell the listener."""
        message = self._parkable.get(tag)
        if generation == self._generation and message is not None:
            self._parking.park(message, reason, lambda: self._listener.parked(generation, tag))

    async def depth(self) -> Depth:
        """What is ready in the queue and who consumes it, behind every delivery made so far. Raises when not open."""
        if self._channel is None:
            raise ConnectionError("the session is not open")
        answer = await self._channel.queue_declare(
            self._source.queue, passive=True, timeout=RPC_TIMEOUT_SECONDS
        )
        return Depth(answer.message_count or 0, answer.consumer_count or 0)

    # Opening

    def _tend(self) -> None:
        if self._wanted and self._channel is None and (self._task is None or self._task.done()):
            self._start(self._open())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task is self._task:
            self._task = None

    async def _open(self) -> None:
        pauses = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
        made = False
        while self._wanted:
            ready = self._link.is_up and self._source.is_ready(self._source)
            if not ready and not await self._unless_released(self._until_ready()):
                return
            pause, generation = next(pauses), self._generation
            try:
                with translated():
                    async with self._link.opening:
                        if self._link.is_up and not self._released.up:
                            await self._consume(made=made)
                            return
                continue
            except BrokerUnavailable as error:
                if self._generation != generation:
                    made = False  # it was said
                if not isinstance(error.__cause__, ChannelNotFoundEntity):
                    log.warning("session_not_opened", reason=str(error))
                else:
                    again, made = made, await self._make() or made
                    if made and not again:
                        pause = 0
            except Exception:
                log.exception("session_not_opened")
            await self._close_channel()
            if self._refusal is not None:
                self._opened.set()
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), pause)

    async def _until_ready(self) -> None:
        await self._link.wait_up()
        await self._source.until_ready(self._source)

    async def _unless_released(self, wait: Coroutine[None, None, None]) -> bool:
        """Wait for something that may take for ever. False: the session was released meanwhile."""
        waiting = self._waiting = asyncio.create_task(wait)
        try:
            await asyncio.wait([waiting])
        finally:
            self._waiting = None
            waiting.cancel()
        return not self._released.up

    async def _make(self) -> bool:
        try:
            self._listener.making()
            with translated():
                await self._source.make(self._source)
        except Disconnect as refusal:
            self._refusal = refusal
            self._wanted = False
            return False
        except (RealtimeError, TimeoutError) as error:
            log.warning("queue_not_made", reason=str(error) or "no answer in time")
            return False
        return True

    async def _consume(self, *, made: bool) -> None:
        channel = await self._link.channel()

        def found(ready: int) -> None:
            """From here on it is this session's; what was settled before is not to be acknowledged on it."""
            self._channel = channel
            channel.on_closed, channel.on_cancelled = self._on_closed, self._on_cancelled
            self._generation += 1
            self._settled = self._acknowledged = 0
            full = ready >= self._source.limit
            self._listener.opened(self._generation, ready, full=full, made=made or self._deleted)
            self._deleted = False

        try:
            channel.basic_qos(prefetch_count=WINDOW_EVENTS)
            self.consumers = await channel.find_and_consume(
                self._source.queue, found, self._on_message, timeout=RPC_TIMEOUT_SECONDS
            )
        finally:
            if self._channel is not channel:
                await self._link.close(channel)
        self._opened.set()

    # Losing

    def _on_cancelled(self, channel: Channel) -> None:
        """The broker cancelled the consumer: the queue was deleted, or its node is gone."""
        if channel is self._channel:
            log.warning("consumer_cancelled_by_broker")
            self._deleted = True
            self.renew()

    async def _reopen(self, opening: asyncio.Task[None] | None) -> None:
        if opening is not None:
            await asyncio.wait([opening])
        await self._close_channel()
        if self._wanted:
            await self._open()

    def _on_closed(self, channel: Channel) -> None:
        if channel is self._channel:
            self._forget_channel()
            self._tend()

    def _forget_channel(self) -> None:
        self._channel = None
        self.consumers = 0
        self._opened.clear()
        self._parkable.clear()
        self._occurrences.lost()
        self._listener.lost()

    async def _close_channel(self) -> None:
        if (channel := self._channel) is None:
            return
        self._forget_channel()
        self._send_ack(channel)
        await self._link.close(channel)

    # Deliveries

    def _on_message(self, message: Delivery) -> None:
        if message.channel is not self._channel:
            return
        tag, redelivered = message.delivery_tag, message.redelivered
        try:
            event_id = declared_id(message)
            if event_id is None:
                content = content_key(message, origin_of(message))
                event_id = event_id_of(
                    content, self._occurrences.number(content, tag, redelivered=redelivered)
                )
            event = read_event(message, self._source.diagnosis, event_id, time.time())
        except EventInvalid as error:
            self._parkable[tag] = message
            self._listener.refused(tag, error.reason)
            return
        if event.user is not None:
            self._parkable[tag] = message
        self._listener.delivered(tag, event, redelivered=redelivered)

    def acknowledge(self) -> None:
        """Tell the broker what is settled. Called by the link, a moment after the first of it."""
        if self._channel is not None:
            self._send_ack(self._channel)

    def _send_ack(self, channel: Channel) -> None:
        if self._settled > self._acknowledged:
            self._acknowledged = self._settled
            channel.basic_ack(self._settled, multiple=True)
