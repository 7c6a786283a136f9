"""First contact: the one door through which a diagnosis gets its shared queue.

Events of a diagnosis without a queue end in `diagnosis.unrouted`, whose single active consumer is this door on one
replica. Law: nobody else creates shared queues, or events would overtake each other on the way in.

    event, or request to provision ─► is the diagnosis known? ─► declare the queue, unbound ─► forward in order
                                       no: asked again for 60 s, then parked          250 ms without another ─┐
         requests are answered ◄─ what came before a second barrier is forwarded ◄─ bind ◄─ a barrier: none left ◄┘

While the queue is unbound every event comes through here, in order; once it is bound none does. A barrier goes through
`diagnosis.unrouted` like the events: when it is back, all that was published before it is here. So only what is
published in the few milliseconds in which the binding is made may be overtaken, once in a diagnosis' life.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from contracts import topology
from contracts.ids import DiagnosisId, EventId, parse_diagnosis_id
from contracts.replicas import QueueLost
from contracts.topology import Header
from realtime_service.adapters.rabbitmq.amqp.channel import Channel, Delivery
from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.adapters.rabbitmq.barriers import Barriers, is_barrier
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS, BrokerLink
from realtime_service.adapters.rabbitmq.new_queue import NewQueue, Waiting
from realtime_service.adapters.rabbitmq.node import PROVISIONED
from realtime_service.adapters.rabbitmq.parking import Parking
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
from realtime_service.adapters.rabbitmq.replicas import RabbitReplicas
from realtime_service.domain.errors import BrokerUnavailable, DatabaseUnavailable, EventInvalid, PublishError
from realtime_service.domain.ports import Ownership

log = structlog.get_logger(__name__)

MOST_ASKED_AT_ONCE: Final = 4
"""Questions to the database under way: a flood of unknown ids must not take every connection to it."""
MOST_UNKNOWN: Final = 500
"""Events held for diagnoses that the database does not know (yet); more would hold up the others."""
RETRY_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 5.0
PROVISION: Final = "provision"
"""`type` of a request to make a diagnosis' queue; its body is the id."""
BIND_SECONDS: Final = 5.0
PROVISION_SECONDS: Final = BIND_SECONDS + 2.0
"""How long a connect waits for the door: until the queue holds all that came before, so that it counts them right."""
ANSWER_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Patience:
    """What the door waits for, and how long."""

    unknown_seconds: float = 60.0
    """How long a diagnosis may take to appear in the database after its first event."""
    quiet_seconds: float = 0.25
    """A queue is bound once this long passed without another event for it, and none is on its way to the door."""
    bind_seconds: float = BIND_SECONDS
    """It is bound after this at the latest, and the door is done with it as long after that."""
    retry_seconds: float = RETRY_SECONDS
    """The first pause before anything is tried again; later ones grow."""
    prefetch: int = 1000
    """Deliveries held unsettled."""


class _Newcomer:
    """A diagnosis at the door."""

    def __init__(self) -> None:
        self.events: Waiting = deque()
        self.requests: deque[Delivery] = deque()
        self.arrived = asyncio.Event()
        """Another event is here, or a barrier; a request is no reason to wait for more."""
        self.unknown = False
        """The database said that there is no such diagnosis."""

    async def comes_within(self, seconds: float) -> bool:
        """Wait for something to come."""
        try:
            async with asyncio.timeout(seconds):
                await self.arrived.wait()
        except TimeoutError:
            return False
        return True


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
        patience: Patience | None = None,
    ) -> None:
        self._link = link
        self._publisher = publisher
        self._ownership = ownership
        self._parking = parking
        self._arguments = arguments
        self._patience = patience = patience or Patience()
        self._replicas = RabbitReplicas(publisher, topology.UNROUTED)
        self._barriers = Barriers(publisher, topology.UNROUTED, seconds=patience.bind_seconds)
        self.on_diagnosis: Callable[[DiagnosisId], None] = lambda _: None
        """Told of every diagnosis that got its queue."""
        self._newcomers: dict[DiagnosisId, _Newcomer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._occurrences = Occurrences()
        self._asking = asyncio.Semaphore(MOST_ASKED_AT_ONCE)
        self._channel: Channel | None = None

    async def prepare(self, connection: BrokerConnection) -> None:
        """Stand ready. Part of every (re)connect; what was under way on a lost connection comes again."""
        await self.close()
        channel = connection.channel()
        channel.basic_qos(prefetch_count=self._patience.prefetch)
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
        await self._barriers.close()
        self._newcomers.clear()
        self._occurrences.lost()

    # Arrival

    def _on_message(self, message: Delivery) -> None:
        if message.channel is not self._channel:
            return
        if is_barrier(message):
            self._barriers.returned(message)
            self._settle(message)
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

    def _read(self, message: Delivery) -> tuple[DiagnosisId, EventId | None]:
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
            number = self._occurrences.number(content, message.delivery_tag, redelivered=message.redelivered)
            event_id = event_id_of(content, number)
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
        for pause in delays(self._patience.retry_seconds, LONGEST_RETRY_SECONDS):
            try:
                async with self._asking:
                    newcomer.unknown = await self._ownership.owner_of(diagnosis) is None
                if not newcomer.unknown:
                    return True
                late = loop.time() - since > self._patience.unknown_seconds
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
        for pause in delays(self._patience.retry_seconds, LONGEST_RETRY_SECONDS):
            await self._link.wait_up()
            try:
                await self._provision(diagnosis, newcomer)
            except (BrokerUnavailable, PublishError) as error:
                log.warning("first_contact_interrupted", reason=str(error))
                await asyncio.sleep(pause)
            else:
                return

    async def _provision(self, diagnosis: DiagnosisId, newcomer: _Newcomer) -> None:
        """Declare, forward, bind, forward what still came through here.

        There may have been one before: replicas that had it, and are away, would find the new one and see nothing.
        """
        queue = NewQueue(self._link, self._publisher, self._arguments, diagnosis)
        if not await queue.exists():
            lost = QueueLost(sender=self._replicas.name, diagnosis_id=diagnosis)
            await self._replicas.tell_room(diagnosis, lost)
        await queue.declare()
        forwarded = await self._until_nothing_comes(queue, newcomer)
        await queue.bind()
        forwarded += await self._until_passed(
            queue, newcomer, self._loop_time() + self._patience.bind_seconds
        )
        self.on_diagnosis(diagnosis)
        while newcomer.events or newcomer.requests:
            forwarded += await self._forward(queue, newcomer)
            if newcomer.requests:
                await self._answer(newcomer.requests.popleft(), diagnosis)
        log.info("diagnosis_provisioned", forwarded=forwarded)

    async def _until_nothing_comes(self, queue: NewQueue, newcomer: _Newcomer) -> int:
        """Forward until a barrier comes back with no event before it, or time is up. Returns how many."""
        deadline = self._loop_time() + self._patience.bind_seconds
        forwarded = await self._forward(queue, newcomer)
        while self._loop_time() < deadline:
            if forwarded and await newcomer.comes_within(self._patience.quiet_seconds):
                forwarded += await self._forward(queue, newcomer)
            elif came := await self._until_passed(queue, newcomer, deadline):
                forwarded += came
            else:
                return forwarded
        log.warning("bound_while_events_come")
        return forwarded

    async def _until_passed(self, queue: NewQueue, newcomer: _Newcomer, deadline: float) -> int:
        """Forward what comes before a barrier that is sent now, or before the deadline. Returns how many."""
        forwarded, passed = 0, False
        while not passed and self._loop_time() < deadline:
            barrier = self._barriers.send()
            barrier.add_done_callback(lambda _: newcomer.arrived.set())
            while not barrier.done() and await newcomer.comes_within(deadline - self._loop_time()):
                forwarded += await self._forward(queue, newcomer)
            passed = barrier.done() and barrier.result()
        return forwarded + await self._forward(queue, newcomer)

    async def _forward(self, queue: NewQueue, newcomer: _Newcomer) -> int:
        newcomer.arrived.clear()
        return await queue.put(newcomer.events, self._settle)

    async def _answer(self, request: Delivery, diagnosis: DiagnosisId) -> None:
        reply_to = headers_of(request).get(Header.REPLY_TO)
        if isinstance(reply_to, str) and topology.is_node_queue(reply_to):
            try:
                await self._publisher.publish(
                    "",
                    reply_to,
                    str(diagnosis).encode(),
                    message_id=request.properties.message_id or "provisioned",
                    timeout_seconds=ANSWER_SECONDS,
                    message_type=PROVISIONED,
                )
            except PublishError as error:
                log.warning("provision_unanswered", error=str(error))
        self._settle(request)

    def _loop_time(self) -> float:
        return asyncio.get_running_loop().time()

    # Settling

    def _settle(self, message: Delivery) -> None:
        if message.channel is not self._channel:
            return  # delivered again on another one, under another tag
        self._occurrences.settled_one(message.delivery_tag)
        message.channel.basic_ack(message.delivery_tag)

    def _park(self, message: Delivery, reason: str) -> None:
        self._parking.park(message, reason, lambda: self._settle(message))

    def _give_back(self) -> None:
        """Something unforeseen: close the connection, so that everything comes again in order."""
        if self._link.connection is not None:
            self._link.connection.end()


def _is_request(message: Delivery) -> bool:
    return not message.exchange and message.properties.message_type == PROVISION
