"""The delivery rules at work: carries out what `domain.room` decides, on this replica's sockets and sessions.

Law: a publisher never waits for a client. Everything that happens to a room is handled to its end in one loop turn,
without `await`; only coming and going wait, each for its own diagnosis alone.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Final, Protocol

import structlog

from contracts import topology
from contracts.close_codes import CloseCode
from contracts.ids import ConnectionId, DiagnosisId, EventId
from realtime_service.crowd import CROWD, Crowd, Walker
from realtime_service.domain.errors import Disconnect
from realtime_service.domain.event import Event
from realtime_service.domain.quota import DeviceQuota
from realtime_service.domain.room import (
    SHARED,
    Barrier,
    Effect,
    Member,
    Park,
    Relay,
    Room,
    Send,
    SessionKey,
    Settle,
    TellGap,
    TellProven,
    Word,
)
from realtime_service.domain.sessions import Replicas, Session, Sessions
from realtime_service.frames import text_frame
from realtime_service.logs import hashed
from realtime_service.metrics import Metrics
from realtime_service.neighbours import Neighbours

log = structlog.get_logger(__name__)

SEEDING_SECONDS: Final = 2.0
"""How long a new device's own queue waits for the shared stream."""
RENEW_SECONDS: Final = 300.0
"""A session whose oldest delivery did not move between two looks is re-opened: RabbitMQ closes channels on which a
delivery stays unacknowledged for 30 minutes (`consumer_timeout`)."""


class Connection(Walker, Protocol):
    """An authenticated socket. Every call returns at once."""

    diagnosis: DiagnosisId
    connected_at: float
    """When its handshake came, in Unix seconds."""

    @property
    def unsent_bytes(self) -> int:
        """What was written and waits for the network."""

    def tell_gap(self, evicted: int | None) -> None:
        """Tell the client that events were dropped."""

    def progress(self) -> None:
        """The client proved something: its clock starts anew."""

    def rest(self) -> None:
        """Others of the crowd proved the same before: nobody waits for what it proves next."""

    def end(self, code: CloseCode) -> None:
        """Close; no frame is written after this."""

    def end_when_proven(self, code: CloseCode) -> None:
        """Send no more events, and close as soon as nothing is unproven."""


class Observer(Protocol):
    """Somebody who looks on. Every call returns at once."""

    def came_or_left(self, diagnosis: DiagnosisId, member: Member) -> None:
        """A connection came, or is gone."""

    def delivered(self, session: SessionKey, event: Event, *, redelivered: bool) -> None:
        """The broker handed an event over."""

    def relayed(self, event: Event) -> None:
        """Other replicas are told of an event, now or with the crowd's next pass."""

    def sent(self, event: Event, members: tuple[Member, ...], *, repeated: bool) -> None:
        """An event is written to these connections, now or with the crowd's next pass."""

    def proven(self, diagnosis: DiagnosisId, member: Member, events: tuple[EventId, ...]) -> None:
        """A connection proved that it has these events."""

    def left_unproven(self, diagnosis: DiagnosisId, member: Member, events: tuple[EventId, ...]) -> None:
        """A connection is gone and had not proved these events."""


def _microseconds() -> int:
    return time.time_ns() // 1000


class _Place:
    """A room, its sockets and its sessions."""

    __slots__ = (
        "_hub",
        "closing",
        "connections",
        "counted",
        "counting",
        "crowd",
        "devices",
        "made",
        "releasing",
        "room",
        "seen",
        "shared",
    )

    def __init__(self, hub: "Hub", diagnosis: DiagnosisId) -> None:
        self.room = Room(diagnosis, clock=_microseconds)
        self.connections: dict[ConnectionId, Connection] = {}
        self.counted = False
        """It is known whether other replicas have clients of this diagnosis."""
        self.counting = asyncio.Lock()
        self._hub = hub
        self.shared = hub.sessions.shared(diagnosis, _Listener(hub, self, SHARED, None))
        self.devices: dict[str, Session] = {}
        self.made: dict[str, None] = {}  # an empty set takes three times as much
        self.releasing: dict[str, asyncio.Task[None]] = {}
        self.closing: asyncio.Task[None] | None = None
        self.seen: tuple[int, int] | None = None
        self.crowd: Crowd | None = None

    def session(self, key: SessionKey) -> Session | None:
        return self.shared if key is SHARED else self.devices.get(key)

    async def consumers(self) -> int:
        at_first = 0 if self.counted else self.shared.consumers
        return at_first or (await self.shared.depth()).consumers

    def perform(self, effects: Iterable[Effect]) -> None:
        self._hub.perform(self, effects)

    def renew(self) -> None:
        self.shared.renew()

    def once_written(self, call: Callable[[], None]) -> None:
        """Call as soon as what was sent until now is written: now, unless a crowd rests."""
        if self.crowd is None:
            call()
        else:
            self.crowd.once_written(call)

    def flush(self) -> None:
        if self.crowd is not None:
            self.crowd.flush()

    def has_newer(self, than: Connection) -> bool:
        """Whether the device of this connection opened another one since: admission may take its time."""
        age = (than.connected_at, than.member.id)
        return any(
            (each.connected_at, each.member.id) > age
            for each in self.connections.values()
            if each.member.device == than.member.device
        )

    def yield_device(self, key: str, newer: tuple[float, str]) -> None:
        """End older connections of a device than `newer`: (connect time, connection id)."""
        for connection in list(self.connections.values()):
            at, member = connection.connected_at, connection.member
            if member.device == key and member.id != newer[1] and (at, member.id) < newer:
                connection.end(CloseCode.REPLACED)
                self._hub.leave(connection)


class _Listener:
    """Brings what happens to a session to its room, and what the room decides to the hub."""

    __slots__ = (
        "_hub",
        "_key",
        "_member",
        "_place",
        "_was_open",
        "words",
    )

    def __init__(self, hub: "Hub", place: _Place, key: SessionKey, member: Member | None) -> None:
        self._hub = hub
        self._place = place
        self._key = key
        self._member = member
        self._was_open = False
        self.words: list[Word] = []
        """What other replicas say, for a device that turns out to be new."""

    def making(self) -> None:
        if self._member is not None:
            self._hub.allow_device(self._member)

    def opened(self, generation: int, ready: int, *, full: bool, made: bool) -> None:
        room, first = self._place.room, not self._was_open
        effects: list[Effect] = []
        if self._member is not None and self._key is not SHARED and first:
            if self._member not in room.members:
                return
            effects += room.join_device(self._member, new=made, words=self.words)
            if made:
                self._place.made[self._key] = None
        self._was_open = True
        if made and not first:
            self._hub.metrics.queues_lost.inc()
            log.warning("queue_lost", diagnosis=hashed(room.diagnosis), device=self._key is not SHARED)
        if self._current:
            effects += room.opened(self._key, generation, ready, full=full or (made and not first))
        self._hub.perform(self._place, effects)
        if self._key is SHARED and not first:
            self._hub.neighbours.back(self._place)

    def delivered(self, tag: int, event: Event, *, redelivered: bool) -> None:
        metrics = self._hub.metrics
        metrics.delivered.inc()
        stages = metrics.stages_of(event)
        (stages.returned if redelivered else stages.consumed).inc()
        if self._hub.observer:
            self._hub.observer.delivered(self._key, event, redelivered=redelivered)
        if self._current:
            effects = self._place.room.deliver(self._key, tag, event, redelivered=redelivered)
            self._hub.perform(self._place, effects)

    def refused(self, tag: int, reason: str) -> None:
        if self._current:
            self._hub.perform(self._place, self._place.room.refuse(self._key, tag, reason))

    def parked(self, generation: int, tag: int) -> None:
        if self._current:
            self._hub.perform(self._place, self._place.room.parked(self._key, generation, tag))

    def lost(self) -> None:
        if self._current:
            self._place.room.lost(self._key)

    @property
    def _current(self) -> bool:
        """Whether this session still serves somebody: one that is being released hands everything back."""
        room = self._place.room
        if self._key is SHARED:
            return room.watched
        device = room.devices.get(self._key)
        return device is not None and device.member is self._member


class Hub:
    """This replica's rooms."""

    def __init__(
        self,
        sessions: Sessions,
        replicas: Replicas,
        metrics: Metrics,
        *,
        join_timeout_seconds: float,
        new_devices_per_day: int,
    ) -> None:
        self.sessions = sessions
        self.neighbours = Neighbours(replicas, lambda diagnosis: self._places.get(diagnosis), metrics)
        self.metrics = metrics
        self.on_room: Callable[[DiagnosisId], None] = lambda _: None
        """Told of every diagnosis that somebody watches."""
        self.observer: Observer | None = None
        self.traced: Callable[[Event, int], None] | None = None
        """Told of every event that is sent, and to how many."""
        self._join_timeout_seconds = join_timeout_seconds
        self._quota = DeviceQuota(new_devices_per_day)
        self._places: dict[DiagnosisId, _Place] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.sessions.set_function(lambda: sum(1 + len(each.devices) for each in self._places.values()))
        metrics.unsent.set_function(lambda: sum(each.unsent_bytes for each in self.connections()))

    # What the WebSocket route calls

    async def join(self, connection: Connection) -> bool:
        """Bring a connection into its diagnosis' room; events are written to it from here on. Welcome it afterwards.

        Returns whether it resumes: false for a device whose queue was made just now.
        Raises Disconnect(1013) when the broker does not answer in time.
        """
        member = connection.member
        try:
            async with asyncio.timeout(self._join_timeout_seconds):
                place, ask = await self._enter(connection)
                await place.shared.opened()
                self._check_still_here(place, connection)
                words = await self._ask(place, connection) if ask else []
                self._check_still_here(place, connection)
                if member.device is not None:
                    return await self._open_device(place, connection, member.device, words)
                if ask:
                    self.perform(place, place.room.arrive(member, words))
                return True
        except TimeoutError:
            self.leave(connection)
            raise Disconnect(CloseCode.TRY_LATER, "the broker did not answer in time", "broker") from None
        except BaseException:
            self.leave(connection)
            raise

    def leave(self, connection: Connection) -> None:
        """A connection is gone. What it had not proven goes back, unless another connection has it."""
        place = self._places.get(connection.diagnosis)
        member = connection.member
        if place is None or place.connections.get(member.id) is not connection:
            return
        del place.connections[member.id]
        if place.crowd is not None:
            place.crowd.left(connection)
        self.metrics.connections.dec()
        self.metrics.proof_times.left(member)
        if self.observer:
            self.observer.came_or_left(connection.diagnosis, member)
            if owed := member.receipts.owed:
                self.observer.left_unproven(connection.diagnosis, member, owed)
        key = member.device
        device = place.room.devices.get(key) if key is not None else None
        if key is not None and (device is None or device.member is member):
            self._release_device(place, key)
        self.perform(place, place.room.leave(member))
        self.neighbours.left(place)
        if not place.connections:
            place.closing = self._spawn(self._close(place))

    def pong(self, connection: Connection, number: int) -> bool:
        """A connection answered PING `number`. Returns whether that proved anything."""
        return self._advance(connection, lambda room: room.pong(connection.member, number))

    def ack(self, connection: Connection, event: EventId) -> bool:
        """A connection acknowledged an event and all before it. Returns whether that proved anything."""
        return self._advance(connection, lambda room: room.ack(connection.member, event))

    def written(self, connection: Connection) -> None:
        """Everything was handed to the socket of a connection that cannot prove anything."""
        self._advance(connection, lambda room: room.written(connection.member))

    def flush(self, diagnosis: DiagnosisId) -> None:
        """Write what was sent until now."""
        if place := self._places.get(diagnosis):
            place.flush()

    def queued_for(self, connection: Connection) -> int:
        """Events that wait for a connection that is being welcomed."""
        place = self._places.get(connection.diagnosis)
        return place.room.queued_for(connection.member) if place else 0

    def deaf(self) -> None:
        """What the other replicas said for a while is lost, and so are notices of what was evicted."""
        for place in list(self._places.values()):
            self.perform(place, place.room.deaf())

    def gap_for(self, connection: Connection) -> bool:
        """Whether events may be missing before those."""
        place = self._places.get(connection.diagnosis)
        return place.room.gap_for(connection.member) if place else False

    def allow_device(self, member: Member) -> None:
        """A device's queue is about to be made. Raises Disconnect(1013) when its user had too many of late."""
        if not self._quota.take(member.user, asyncio.get_running_loop().time()):
            raise Disconnect(CloseCode.TRY_LATER, "too many new devices today", "devices")

    # What the broker tells

    def evicted(self, queue: str, event: EventId, exchange: str) -> None:
        """The broker dropped an event, which was published to that exchange, from a queue."""
        parsed = topology.parse_queue(queue)
        place = self._places.get(parsed[0]) if parsed else None
        if parsed is None or place is None:
            return
        kind = "shared" if parsed[1] is SHARED else "device"
        self.metrics.was_evicted(exchange, kind)
        log.warning("event_evicted", diagnosis=hashed(parsed[0]), queue=kind, event_id=event)
        self.perform(place, place.room.evicted(parsed[1], event))

    # What operators and the inherited façade ask

    def connections_of(self, diagnosis: DiagnosisId) -> tuple[Connection, ...]:
        """The connections of a diagnosis on this replica."""
        place = self._places.get(diagnosis)
        return tuple(place.connections.values()) if place else ()

    def connections(self) -> list[Connection]:
        """All connections of this replica."""
        return [connection for place in self._places.values() for connection in place.connections.values()]

    def connections_by_diagnosis(self) -> dict[DiagnosisId, int]:
        """How many connections each diagnosis has here."""
        return {d: len(place.connections) for d, place in self._places.items() if place.connections}

    def pending_by_diagnosis(self) -> dict[DiagnosisId, int]:
        """Events sent, or about to be, that nobody has proven: they are not in the broker's ready count."""
        return {d: n for d, place in self._places.items() if (n := place.room.shared.pending)}

    def unsettled_by_diagnosis(self) -> dict[DiagnosisId, int]:
        """Deliveries of shared queues that are here and not settled: the broker does not count them as ready."""
        return {d: n for d, place in self._places.items() if (n := place.room.shared.unsettled)}

    def unsettled_of(self, diagnosis: DiagnosisId) -> dict[SessionKey, int]:
        """The same for each session of a diagnosis."""
        if (place := self._places.get(diagnosis)) is None:
            return {}
        counts: dict[SessionKey, int] = {SHARED: place.room.shared.unsettled}
        return counts | {key: device.window.unsettled for key, device in place.room.devices.items()}

    # Lifetimes

    async def run(self) -> None:
        """Renew sessions that stand still; for ever."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for place in list(self._places.values()):
                head = place.room.shared.head
                if head is not None and head == place.seen:
                    place.shared.renew()
                place.seen = head

    async def close(self) -> None:
        """Everybody is gone: wait until every session is released."""
        for connection in self.connections():
            self.leave(connection)
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.neighbours.close()

    # Parts

    async def _enter(self, connection: Connection) -> tuple[_Place, bool]:
        """The place of a connection, and whether other replicas must be asked what they hold."""
        diagnosis, member = connection.diagnosis, connection.member
        while (place := self._places.get(diagnosis)) and place.closing:
            await asyncio.wait([place.closing])
        if place and member.device is not None and place.has_newer(connection):
            raise Disconnect(CloseCode.REPLACED, "replaced before joining")
        if place is None:
            place = self._places[diagnosis] = _Place(self, diagnosis)
            self.metrics.rooms.set(len(self._places))
            place.shared.open()
            self.on_room(diagnosis)
            self.sessions.watch(diagnosis)
        place.connections[member.id] = connection  # before an older one leaves, which would close the room
        self.metrics.connections.inc()
        if self.observer:
            self.observer.came_or_left(diagnosis, member)
        if member.device is not None:
            place.yield_device(member.device, (math.inf, member.id))
        ask = not place.counted or not place.room.alone
        self.perform(place, place.room.join(member, ask=ask))
        return place, ask

    async def _ask(self, place: _Place, connection: Connection) -> list[Word]:
        """What other replicas say. Of many that come at once, one asks whether there are others at all."""
        if not place.counted:
            async with place.counting:
                if not place.counted:
                    return await self._words(place, connection)
        return [] if place.room.alone else await self._words(place, connection)

    async def _words(self, place: _Place, connection: Connection) -> list[Word]:
        words, complete = await self.neighbours.words(place)
        connection.member.unsure = not complete
        return words

    async def _open_device(self, place: _Place, connection: Connection, key: str, words: list[Word]) -> bool:
        if not place.room.alone:
            self.neighbours.take_over(place, key, (connection.connected_at, connection.member.id))
        if releasing := place.releasing.get(key):
            await asyncio.wait([releasing])
        self._check_still_here(place, connection)
        place.made.pop(key, None)
        listener = _Listener(self, place, key, connection.member)
        listener.words = words
        session = place.devices[key] = self.sessions.device(place.room.diagnosis, key, listener)
        session.open()
        await session.opened()
        new = key in place.made
        if new:
            self._spawn(self._seed(place, key))
        return not new

    @staticmethod
    def _check_still_here(place: _Place, connection: Connection) -> None:
        """A device may have come again while this connection waited."""
        if place.connections.get(connection.member.id) is not connection:
            raise Disconnect(CloseCode.REPLACED, "replaced while joining")

    async def _seed(self, place: _Place, key: str) -> None:
        """Let a new device have what the shared session holds, then its own queue."""
        deadline = asyncio.get_running_loop().call_later(SEEDING_SECONDS, self._end_seeding, place, key)
        try:
            async with asyncio.timeout(SEEDING_SECONDS):
                ready = (await place.shared.depth()).ready
        except Exception as error:
            log.warning("shared_depth_unknown", error=type(error).__name__)
            return
        self.perform(place, place.room.shared_depth(key, ready))
        if key not in place.room.devices or not place.room.devices[key].seeding:
            deadline.cancel()

    def _end_seeding(self, place: _Place, key: str) -> None:
        """It took its time; while the broker is away nothing is waited for in vain."""
        if place.room.consuming:
            self.perform(place, place.room.seeding_takes_too_long(key))
        elif key in place.room.devices:
            asyncio.get_running_loop().call_later(SEEDING_SECONDS, self._end_seeding, place, key)

    def _release_device(self, place: _Place, key: str) -> None:
        session = place.devices.pop(key, None)
        if session is None:
            return

        async def release() -> None:
            await session.release()
            place.releasing.pop(key, None)

        place.releasing[key] = self._spawn(release())

    async def _close(self, place: _Place) -> None:
        """The last connection left: hand everything back to the queue."""
        diagnosis = place.room.diagnosis
        self.neighbours.bye(place)
        try:
            await self.neighbours.relayed(place)
            await place.shared.release()
            for releasing in list(place.releasing.values()):
                await asyncio.wait([releasing])
            self.sessions.unwatch(diagnosis)
        finally:
            del self._places[diagnosis]
            self.metrics.rooms.set(len(self._places))

    def _advance(self, connection: Connection, decide: Callable[[Room], list[Effect]]) -> bool:
        place = self._places.get(connection.diagnosis)
        if place is None or connection.member.id not in place.connections:
            return False
        receipts = connection.member.receipts
        unproven, answered = receipts.unproven, receipts.answered
        owed = receipts.owed if self.observer else ()
        effects = decide(place.room)
        proven = unproven - receipts.unproven
        if proven:
            self.metrics.proven.inc(proven)
            self.metrics.proof_times.proved(connection.member)
        if self.observer and proven:
            self.observer.proven(connection.diagnosis, connection.member, owed[:proven])
        if proven or receipts.answered != answered:
            connection.progress()
        if proven and not effects and len(place.connections) > CROWD:
            connection.rest()
        self.perform(place, effects)
        return proven > 0

    def perform(self, place: _Place, effects: Iterable[Effect]) -> None:
        """Carry out what a room decided."""
        for effect in effects:
            match effect:
                case Send():
                    self._send(place, effect)
                case Settle(key, generation, tag, events):
                    for event in events:
                        self.metrics.stages_of(event).proven.inc()
                    if session := place.session(key):
                        session.settle(generation, tag)
                case Park(key, generation, tag, reason):
                    if session := place.session(key):
                        session.park(generation, tag, reason)
                case Relay():
                    place.once_written(partial(self.neighbours.relay, place, effect))
                    if self.observer and place.room.peers:
                        self.observer.relayed(effect.event)
                case TellProven(events):
                    self.neighbours.proven(place, events)
                case Barrier(generation):
                    self.neighbours.barrier(place, generation)
                case TellGap(members, evicted, cause):
                    self.metrics.gaps.labels(cause=cause).inc()
                    if cause != "evicted":  # of which each is said
                        log.warning("gap", diagnosis=hashed(place.room.diagnosis), cause=cause)
                    for member in members:
                        if connection := place.connections.get(member.id):
                            connection.tell_gap(evicted)

    def _send(self, place: _Place, send: Send) -> None:
        event = send.event
        frame = text_frame(event.repeated_message if send.repeated else event.message)
        self.metrics.sent.inc(len(send.members))
        if self.observer:
            self.observer.sent(event, send.members, repeated=send.repeated)
        if self.traced is not None:
            self.traced(event, len(send.members))
        if len(send.members) > CROWD:
            if place.crowd is None:
                place.crowd = Crowd()
            place.crowd.send(event.id, frame, send.members, place.connections)
            place.once_written(partial(self._measure, send))
            return
        place.flush()
        for member in send.members:
            if connection := place.connections.get(member.id):
                connection.send(event.id, frame)
                connection.ask()
        self._measure(send)

    def _measure(self, send: Send) -> None:
        event, metrics = send.event, self.metrics
        metrics.stages_of(event).sent.inc()
        if event.published and not send.repeated:
            metrics.delay.observe(max(0.0, time.time() - event.published))
        metrics.proof_times.sent(event.id, send.members[0])

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
