"""The queue this replica is spoken to through: by other replicas, the first-contact door, and of evictions.

One name for the process' life. The queue outlives a lost broker connection, so nothing said meanwhile is lost and no
room has to bind again; it expires after 60 s without a consumer.

It is bound for each diagnosis that is watched. Where a crowd would have to wait for that, it is bound for all of them
at once, and hears more than it needs until each has its own binding.

A message with an `x-death` header is an eviction notice and nothing else: it is the dropped event itself and carries
whatever `type` its publisher chose.
"""

import asyncio
import math
import uuid
from collections.abc import Callable
from itertools import islice
from typing import Final

import structlog
from pydantic import ValidationError

from contracts import topology
from contracts.events import explain
from contracts.ids import DiagnosisId, EventId, parse_diagnosis_id
from contracts.replicas import ALL_REPLICAS, MESSAGES, ReplicaMessage
from contracts.topology import Header
from realtime_service.adapters.rabbitmq.amqp.channel import Channel, Delivery
from realtime_service.adapters.rabbitmq.asking import exists
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, translated
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS, BrokerLink
from realtime_service.adapters.rabbitmq.reading import content_key, declared_id, headers_of, origin_of
from realtime_service.domain.errors import BrokerUnavailable, EventInvalid

log = structlog.get_logger(__name__)

PROVISIONED: Final = "provisioned"
"""`type` of the door's answer; its body is the diagnosis id."""
PREFETCH: Final = 1000
LEAVE_SECONDS: Final = 2.0
CROWD: Final = 16
"""More diagnoses than this that wait to be bound are heard through one binding for all: it costs RabbitMQ 0.5–0.7 ms
to make one (for a durable queue, RabbitMQ 3.10)."""
AT_ONCE: Final = 16
PAUSE_SECONDS: Final = 0.05
"""What nobody waits for is done so many at a time, and so long apart while others come: each diagnosis of a crowd gets
its own binding, and loses it when the crowd is gone."""
CALM_SECONDS: Final = 0.1
LONGEST_CROWD_SECONDS: Final = 10.0
"""It is done without a pause when nobody has come for so long, or somebody has come all the time for so long."""
UNBIND_SECONDS: Final = 60.0
"""A client that comes back within this time finds its diagnosis bound still."""

OnMessage = Callable[[ReplicaMessage], None]
OnEvicted = Callable[[str, EventId, str], None]
"""Told the queue's name, the dropped event's id, and the exchange that it was published to."""


class NodeQueue:
    """Consumes `realtime.node.<uuid>` and binds it for the diagnoses this replica watches."""

    def __init__(
        self,
        link: BrokerLink,
        on_evicted: OnEvicted,
        on_message: OnMessage,
        on_deaf: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_deaf` is told when the queue was gone, and all that waited in it."""
        self.name = topology.node_queue(str(uuid.uuid4()))
        self._link = link
        self._on_evicted = on_evicted
        self._on_replica_message = on_message
        self._on_deaf = on_deaf
        self._deaf = False  # the queue was gone, and `on_deaf` was not told yet
        self._watched: set[DiagnosisId] = set()
        self._unwatched: dict[DiagnosisId, float] = {}  # when to unbind, on the loop's clock; in that order
        self._bindings: dict[DiagnosisId, bool] = {}  # False: it is not known whether there is one
        self._missing: dict[DiagnosisId, None] = {}  # watched and not bound; first come, first bound
        self._hears_all = False  # through one binding
        self._came = self._calm_by = 0.0  # on the loop's clock: the crowd's last, and when it is one no more
        self._changed = asyncio.Event()
        self._awaited: dict[DiagnosisId, asyncio.Future[None]] = {}  # bindings that somebody waits for
        self._binding: asyncio.Task[None] | None = None
        self._channel: Channel | None = None
        self._expected: dict[DiagnosisId, list[asyncio.Future[None]]] = {}

    async def prepare(self, connection: BrokerConnection) -> None:
        """Declare, consume, and go on binding. Part of every (re)connect."""
        if self._binding is not None:
            self._binding.cancel()
        if not await exists(connection.channel(), self.name):
            self._bindings.clear()
            self._unwatched.clear()
            self._missing = dict.fromkeys(self._watched)
            self._hears_all = False
            self._deaf = self._deaf or self._channel is not None
        channel = connection.channel()
        await channel.queue_declare(
            self.name, durable=True, arguments=dict(topology.NODE_ARGUMENTS), timeout=RPC_TIMEOUT_SECONDS
        )
        channel.basic_qos(prefetch_count=PREFETCH)
        await channel.basic_consume(self.name, self._on_message, timeout=RPC_TIMEOUT_SECONDS)
        self._link.depend_on(channel, connection)
        self._channel = channel
        if self._deaf:
            self._deaf = False
            self._on_deaf()
        self._binding = asyncio.create_task(self._keep_bound(connection), name="bind the node queue")

    def watch(self, diagnosis: DiagnosisId) -> None:
        """Hear of evictions from this diagnosis' queues, from some milliseconds on."""
        self._unwatched.pop(diagnosis, None)
        self._watched.add(diagnosis)
        if not self._bindings.get(diagnosis):
            self._missing[diagnosis] = None
            if self._hears_all:
                self._came = asyncio.get_running_loop().time()
            else:
                self._changed.set()

    def is_bound(self, diagnosis: DiagnosisId) -> bool:
        """Whether what is said to this diagnosis' replicas reaches this one."""
        return self._hears_all or self._bindings.get(diagnosis, False)

    async def bound(self, diagnosis: DiagnosisId) -> None:
        """Return once it is."""
        while not self.is_bound(diagnosis):
            if (binding := self._awaited.get(diagnosis)) is None:
                binding = self._awaited[diagnosis] = asyncio.get_running_loop().create_future()
            await asyncio.wait([binding])  # others may wait for it, too

    def unwatch(self, diagnosis: DiagnosisId) -> None:
        """Hear no more of it, some time from now: clients come back."""
        self._watched.discard(diagnosis)
        self._missing.pop(diagnosis, None)
        self._wake(diagnosis)
        if diagnosis in self._bindings:  # not so where all were heard
            if not self._unwatched:
                self._changed.set()
            self._unwatched[diagnosis] = asyncio.get_running_loop().time() + UNBIND_SECONDS

    def expect(self, diagnosis: DiagnosisId) -> "asyncio.Future[None]":
        """A future for the door's next answer about a diagnosis."""
        future = asyncio.get_running_loop().create_future()
        waiting = [other for other in self._expected.get(diagnosis, []) if not other.done()]
        self._expected[diagnosis] = [*waiting, future]
        return future

    async def delete(self) -> None:
        """Remove the queue: this replica leaves for good."""
        if self._binding is not None:
            self._binding.cancel()
        channel, self._channel = self._channel, None
        if channel is None or channel.is_closed:
            return
        try:
            with translated():
                await channel.basic_cancel(timeout=LEAVE_SECONDS)
                await channel.queue_delete(self.name, timeout=LEAVE_SECONDS)
        except (BrokerUnavailable, TimeoutError):
            pass  # it expires

    async def _keep_bound(self, connection: BrokerConnection) -> None:
        """Bind what is watched and unbind what has not been for a while."""
        try:
            with translated():
                channel = connection.channel()
                self._link.depend_on(channel, connection)
                await self._add(channel, ALL_REPLICAS)
                if not self._hears_all:  # but its end may have been lost with another connection
                    await self._remove(channel, topology.ANY_DIAGNOSIS)
                rested = 0.0
                while True:
                    self._changed.clear()
                    if self._missing and not self._hears_all:
                        await self._let_in(channel)
                    else:
                        rested = await self._tidy(channel, rested)
        except BrokerUnavailable as error:
            log.warning("node_binding_stopped", reason=str(error))
        except Exception as error:
            log.exception("node_binding_failed", error=type(error).__name__)
        connection.end()  # or clients would wait for bindings that nobody makes

    async def _let_in(self, channel: Channel) -> None:
        """Bind for those who wait: for each of them, or for the whole crowd."""
        if len(self._missing) <= CROWD:
            await self._bind(channel, list(self._missing))
            return
        await self._add(channel, topology.ANY_DIAGNOSIS)
        self._hears_all = True
        self._came = asyncio.get_running_loop().time()
        self._calm_by = self._came + LONGEST_CROWD_SECONDS
        for diagnosis in list(self._awaited):
            self._wake(diagnosis)

    async def _tidy(self, channel: Channel, rested: float) -> float:
        """Do some of what nobody waits for, once this has rested; else wait for that, or for a change.

        Returns from when on it will have rested, on the loop's clock.
        """
        loop = asyncio.get_running_loop()
        due = next(iter(self._unwatched.values()), math.inf)
        if await self._changes_before(rested if self._hears_all else max(rested, due)):
            return rested
        now = loop.time()
        if gone := [each for each, due in islice(self._unwatched.items(), AT_ONCE) if due <= now]:
            await self._unbind(channel, gone)
        if self._hears_all and self._missing:
            await self._bind(channel, list(islice(self._missing, AT_ONCE)))
        elif self._hears_all:
            self._hears_all = False  # first: who comes meanwhile has to wait
            await self._remove(channel, topology.ANY_DIAGNOSIS)
        late = due < now - LONGEST_CROWD_SECONDS
        calm = self._hears_all and now >= min(self._came + CALM_SECONDS, self._calm_by)
        return loop.time() + (0 if calm or late else PAUSE_SECONDS)

    async def _changes_before(self, when: float) -> bool:
        try:
            async with asyncio.timeout_at(when if when < math.inf else None):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _bind(self, channel: Channel, diagnoses: list[DiagnosisId]) -> None:
        for diagnosis in diagnoses:
            self._bindings[diagnosis] = False
        await self._add(channel, *map(topology.routing_key, diagnoses))
        for diagnosis in diagnoses:
            self._bindings[diagnosis] = True
            self._missing.pop(diagnosis, None)
            self._wake(diagnosis)

    async def _unbind(self, channel: Channel, diagnoses: list[DiagnosisId]) -> None:
        for diagnosis in diagnoses:
            self._bindings[diagnosis] = False  # first: who watches it again meanwhile has to wait
        await self._remove(channel, *map(topology.routing_key, diagnoses))
        for diagnosis in diagnoses:
            del self._bindings[diagnosis]
            self._unwatched.pop(diagnosis, None)

    async def _add(self, channel: Channel, *keys: str) -> None:
        await channel.queue_bind(self.name, topology.NODES, *keys, timeout=RPC_TIMEOUT_SECONDS)

    async def _remove(self, channel: Channel, *keys: str) -> None:
        await channel.queue_unbind(self.name, topology.NODES, *keys, timeout=RPC_TIMEOUT_SECONDS)

    def _wake(self, diagnosis: DiagnosisId) -> None:
        """Let those who wait for a binding look again."""
        if (binding := self._awaited.pop(diagnosis, None)) is not None:
            binding.set_result(None)

    def _on_message(self, message: Delivery) -> None:
        kind = message.properties.message_type or ""
        try:
            if Header.DEATH in headers_of(message):
                self._evicted(message)
            elif kind == PROVISIONED and not message.exchange:
                self._provisioned(message.body)
            elif kind in MESSAGES:
                self._heard(MESSAGES[kind], message.body)
        except Exception as error:
            log.exception("node_message_failed", error=type(error).__name__)
        message.channel.basic_ack(message.delivery_tag)

    def _heard(self, kind: type[ReplicaMessage], body: bytes) -> None:
        try:
            said = kind.model_validate_json(body)
        except ValidationError as error:  # it quotes what was sent: an event, perhaps
            log.warning("node_message_unusable", kind=kind.__name__, reason=explain(error))
        else:
            self._on_replica_message(said)

    def _evicted(self, message: Delivery) -> None:
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
        self._on_evicted(queue, event, origin.exchange)

    def _provisioned(self, body: bytes) -> None:
        if (diagnosis := parse_diagnosis_id(body.decode("ascii", "replace"))) is None:
            log.warning("node_message_unusable", kind=PROVISIONED, reason="it names no diagnosis")
            return
        for future in self._expected.pop(diagnosis, []):
            if not future.done():
                future.set_result(None)
