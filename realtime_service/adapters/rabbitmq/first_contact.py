"""First contact: the one door through which a diagnosis gets its shared queue.

Events of a diagnosis without a queue end in `diagnosis.unrouted`, whose single active consumer is this door on one
replica. Law: nobody else creates shared queues, or events would overtake each other on the way in.

    event, or request to provision ─► is the diagnosis known? ─► declare the queue, unbound ─► forward in order
                                       no: asked again for 60 s, then parked        250 ms without another ─► bind

While the queue is unbound every event comes through here, in order; once it is bound none does. What is published in
the few milliseconds in which the binding is made may be overtaken, once in a diagnosis' life.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import structlog
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelPreconditionFailed
from pamqp.common import FieldValue

from contracts import topology
from contracts.ids import DiagnosisId, EventId, parse_diagnosis_id
from contracts.topology import Header
from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, translated
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS, BrokerLink, new_channel
from realtime_service.adapters.rabbitmq.node import PROVISIONED
from realtime_service.adapters.rabbitmq.parking import Parking, republish
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.reading import (
    Occurrences,
    content_key,
    declared_id,
    event_id_of,
    headers_of,
    origin_of,
    read_event,
)
from realtime_service.domain.errors import BrokerUnavailable, DatabaseUnavailable, EventInvalid, PublishError
from realtime_service.domain.ports import Ownership

log = structlog.get_logger(__name__)

PREFETCH: Final = 1000
MOST_ASKED_AT_ONCE: Final = 4
"""Questions to the database under way: a flood of unknown ids must not take every connection to it."""
MOST_UNKNOWN: Final = 500
"""Events held for diagnoses that the database does not know (yet); more would hold up the others."""
QUIET_SECONDS: Final = 0.25
"""A queue is bound once this long passed without another event for it."""
BIND_SECONDS: Final = 5.0
"""It is bound after this at the latest."""
UNKNOWN_SECONDS: Final = 60.0
"""How long a diagnosis may take to appear in the database after its first event."""
FORWARDED_AT_ONCE: Final = 100
"""Events under way to the broker; their order is the publisher's."""
RETRY_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 5.0
PROVISION: Final = "provision"
"""`type` of a request to make a diagnosis' queue; its body is the id."""
PROVISION_SECONDS: Final = 2.0
"""How long a connect waits for the door."""


class _Newcomer:
    """A diagnosis at the door."""

    def __init__(self) -> None:
        self.events: deque[tuple[DeliveredMessage, EventId]] = deque()
        self.requests: deque[DeliveredMessage] = deque()
        self.arrived = asyncio.Event()
        """Another event is here; a request is no reason to wait for more."""
        self.unknown = False
        """The database said that there is no such diagnosis."""


class FirstContact:
    """The door. Every replica stands ready; the broker lets one serve."""

    def __init__(
        self,
        link: BrokerLink,
        publisher: ConfirmedPublisher,
        ownership: Ownership,
        parking: Parking,
        arguments: topology.Arguments,
        *,
        unknown_seconds: float = UNKNOWN_SECONDS,
    ) -> None:
        self._link = link
        self._publisher = publisher
        self._ownership = ownership
        self._parking = parking
        self._arguments = arguments
        self._unknown_seconds = unknown_seconds
        self.on_diagnosis: Callable[[DiagnosisId], None] = lambda _: None
        """Told of every diagnosis that got its queue."""
        self._newcomers: dict[DiagnosisId, _Newcomer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._occurrences = Occurrences()
        self._asking = asyncio.Semaphore(MOST_ASKED_AT_ONCE)
        self._channel: AbstractChannel | None = None

    async def prepare(self, connection: BrokerConnection) -> None:
        """Stand ready. Part of every (re)connect; what was under way on a lost connection comes again."""
        await self.close()
        channel = await new_channel(connection)
        await channel.basic_qos(prefetch_count=PREFETCH, timeout=RPC_TIMEOUT_SECONDS)
        self._channel = channel
        await channel.basic_consume(topology.UNROUTED, self._on_message, timeout=RPC_TIMEOUT_SECONDS)
        self._link.depend_on(channel, connection)

    async def close(self) -> None:
        """Stop what is under way, and begin nothing more; it is still in the queue."""
        self._channel = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._newcomers.clear()
        self._occurrences.lost()

    # Arrival

    async def _on_message(self, message: DeliveredMessage) -> None:
        if message.channel is not self._channel:
            return
        try:
            diagnosis, event_id = self._read(message)
        except EventInvalid as error:
            self._park(message, error.reason)
            return
        newcomer = self._newcomers.get(diagnosis)
        if newcomer is None:
            newcomer = self._newcomers[diagnosis] = _Newcomer()
            task = asyncio.create_task(self._serve(diagnosis, newcomer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if event_id is None:
            newcomer.requests.append(message)
        else:
            newcomer.events.append((message, event_id))
            newcomer.arrived.set()

    def _read(self, message: DeliveredMessage) -> tuple[DiagnosisId, EventId | None]:
        """The diagnosis, and the event's id unless this is a request. Raises EventInvalid."""
        if _is_request(message):
            if (asked := parse_diagnosis_id(message.body.decode("ascii", "replace"))) is None:
                raise EventInvalid("a request to provision no diagnosis")
            return asked, None
        origin = origin_of(message)
        if (diagnosis := topology.parse_routing_key(origin.key)) is None:
            raise EventInvalid("the routing key must be diagnosis.<id>")
        event_id = declared_id(message)
        if event_id is None:
            content = content_key(message, origin, salt="first contact")
            tag, redelivered = message.delivery_tag or 0, bool(message.redelivered)
            event_id = event_id_of(content, self._occurrences.number(content, tag, redelivered=redelivered))
        read_event(message, diagnosis, event_id, now=0)
        return diagnosis, event_id

    # Service

    async def _serve(self, diagnosis: DiagnosisId, newcomer: _Newcomer) -> None:
        try:
            if await self._is_known(diagnosis, newcomer):
                await self._provision_for_certain(diagnosis, newcomer)
            else:
                for request in newcomer.requests:
                    self._settle(request)
                for message, _ in newcomer.events:
                    self._park(message, "the diagnosis does not exist")
        except Exception as error:
            log.exception("first_contact_failed", error=type(error).__name__)
            self._give_back()
        finally:
            if self._newcomers.get(diagnosis) is newcomer:
                del self._newcomers[diagnosis]

    async def _is_known(self, diagnosis: DiagnosisId, newcomer: _Newcomer) -> bool:
        """Ask the database; ask again for one that is about to be created, or while the database is away."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        for pause in delays(RETRY_SECONDS, LONGEST_RETRY_SECONDS):
            try:
                async with self._asking:
                    newcomer.unknown = await self._ownership.owner_of(diagnosis) is None
                if not newcomer.unknown:
                    return True
                late = loop.time() - since > self._unknown_seconds
                if not newcomer.events or late or self._held() > MOST_UNKNOWN:
                    return False
            except DatabaseUnavailable:
                log.warning("first_contact_waits_for_database")
                since = loop.time()
            await asyncio.sleep(pause)
        return False

    def _held(self) -> int:
        """Events of unknown diagnoses; those of known ones are on their way out."""
        return sum(len(newcomer.events) for newcomer in self._newcomers.values() if newcomer.unknown)

    async def _provision_for_certain(self, diagnosis: DiagnosisId, newcomer: _Newcomer) -> None:
        """Try until it is done, or the connection is lost: what one queue is refused for is no fault of the others."""
        for pause in delays(RETRY_SECONDS, LONGEST_RETRY_SECONDS):
            try:
                await self._provision(diagnosis, newcomer)
            except BrokerUnavailable as error:
                log.warning("first_contact_interrupted", reason=str(error))
                await asyncio.sleep(pause)
            else:
                return

    async def _provision(self, diagnosis: DiagnosisId, newcomer: _Newcomer) -> None:
        """Declare, forward, bind, forward what still came through here."""
        queue = topology.shared_queue(diagnosis)
        await self._declare(queue)
        forwarded = await self._forward(queue, newcomer)
        deadline = asyncio.get_running_loop().time() + BIND_SECONDS
        while forwarded and asyncio.get_running_loop().time() < deadline:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await newcomer.arrived.wait()
            except TimeoutError:
                break
            await self._forward(queue, newcomer)
        await self._bind(queue, topology.routing_key(diagnosis))
        self.on_diagnosis(diagnosis)
        while newcomer.events or newcomer.requests:
            forwarded += await self._forward(queue, newcomer)
            if newcomer.requests:
                await self._answer(newcomer.requests.popleft(), diagnosis)
        log.info("diagnosis_provisioned", forwarded=forwarded)

    async def _forward(self, queue: str, newcomer: _Newcomer) -> int:
        """Forward what is here, in order; each is settled after its confirm. Returns how many."""
        newcomer.arrived.clear()
        count = 0
        while batch := list(islice(newcomer.events, FORWARDED_AT_ONCE)):
            outcomes = await asyncio.gather(
                *(self._forward_one(queue, *waiting) for waiting in batch), return_exceptions=True
            )
            for (message, _), outcome in zip(batch, outcomes, strict=True):
                if outcome is not None:
                    break
                newcomer.events.popleft()
                self._settle(message)
                count += 1
            failed = next((outcome for outcome in outcomes if outcome is not None), None)
            if isinstance(failed, PublishError):
                log.warning("forwarding_failed", error=str(failed))
                await asyncio.sleep(RETRY_SECONDS)
                await self._declare(queue)
            elif failed is not None:
                raise failed
        return count

    async def _forward_one(self, queue: str, message: DeliveredMessage, event_id: EventId) -> None:
        added: dict[str, FieldValue] = {Header.ORIGIN_EXCHANGE.value: origin_of(message).exchange}
        await republish(self._publisher, queue, message, message_id=event_id, added=added)

    async def _declare(self, queue: str) -> None:
        """Declare durable and unbound; a queue that exists with other arguments is used as it is."""
        channel = await self._link.channel()
        try:
            with translated():
                await channel.queue_declare(
                    queue, durable=True, arguments=dict(self._arguments), timeout=RPC_TIMEOUT_SECONDS
                )
        except BrokerUnavailable as error:
            if not isinstance(error.__cause__, ChannelPreconditionFailed):
                raise
            log.warning("queue_has_other_arguments", queue=queue)
        finally:
            await _close(channel)

    async def _bind(self, queue: str, key: str) -> None:
        channel = await self._link.channel()
        try:
            with translated():
                await channel.queue_bind(queue, topology.EVENTS, key, timeout=RPC_TIMEOUT_SECONDS)
        finally:
            await _close(channel)

    async def _answer(self, request: DeliveredMessage, diagnosis: DiagnosisId) -> None:
        reply_to = headers_of(request).get(Header.REPLY_TO)
        if isinstance(reply_to, str) and reply_to:
            try:
                await self._publisher.publish(
                    "",
                    reply_to,
                    str(diagnosis).encode(),
                    message_id=request.header.properties.message_id or "provisioned",
                    timeout_seconds=PROVISION_SECONDS,
                    message_type=PROVISIONED,
                )
            except PublishError as error:
                log.warning("provision_unanswered", error=str(error))
        self._settle(request)

    # Settling

    def _settle(self, message: DeliveredMessage) -> None:
        if message.channel is not self._channel:
            return  # delivered again on another one, under another tag
        tag = message.delivery_tag or 0
        self._occurrences.settled_one(tag)
        task = asyncio.create_task(_acknowledge(message.channel, tag))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _park(self, message: DeliveredMessage, reason: str) -> None:
        self._parking.park(message, reason, lambda: self._settle(message))

    def _give_back(self) -> None:
        """Something unforeseen: close the connection, so that everything comes again in order."""
        connection = self._link.connection
        if connection is not None:
            task = asyncio.create_task(connection.close())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def _is_request(message: DeliveredMessage) -> bool:
    return not message.exchange and message.header.properties.message_type == PROVISION


async def _acknowledge(channel: AbstractChannel, tag: int) -> None:
    try:
        with translated():
            await channel.basic_ack(tag, wait=False)
    except BrokerUnavailable:
        pass  # delivered again; forwarding twice is seen by the event's id


async def _close(channel: AbstractChannel) -> None:
    try:
        with translated():
            async with asyncio.timeout(RPC_TIMEOUT_SECONDS):
                await channel.close()
    except (BrokerUnavailable, TimeoutError):
        pass
