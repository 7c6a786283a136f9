"""A diagnosis' connections on this replica, and who of them gets and proves what.

The promises kept here (README, *Promises*):
1  FIFO: a window hands out in the broker's order, and a newcomer first gets what nobody has proven.
2  At least once, proven: `Settle` comes from a window's proven prefix and from nowhere else.
3  Exactly once on a connection: a window hands an event id out once a channel, a newcomer gets only what was handed out
   before it came, and what may have been sent before goes to those alone who do not have it among their receipts.
4  The shared queue is for what *nobody* has received: any member's proof settles the shared copy, a device's queue is
   settled by that device alone.

The shared session's audience is the unnamed members; for named ones it is a ledger. A *new* device (its queue was made
just now) belongs to that audience too until the shared stream has caught up with its own queue.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Literal

from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from contracts.messages import ReceiptMode
from realtime_service.domain.event import Event
from realtime_service.domain.receipts import Receipts
from realtime_service.domain.relays import NOWHERE, Clock, RelayStream, Stamp, Verdict, end_of
from realtime_service.domain.window import WINDOW_EVENTS, Record, SessionWindow

SHARED = None
"""The key of a room's shared session; a device session's key is its device key."""
SessionKey = str | None

GapCause = Literal["evicted", "full", "hole", "late", "barrier", "seeding"]
"""The broker dropped an event; a queue was full when it was opened, or was lost; of what another replica relayed
something is missing, came too late, or was waited for in vain; a new device did not get in time what the shared queue
held."""


@dataclass(slots=True, eq=False)
class Member:
    """A connection as the delivery rules see it."""

    id: ConnectionId
    user: UserId
    receipts: Receipts
    device: str | None = None
    """The device key of a connection that named itself."""
    unsure: bool = False
    """Another replica did not say what it holds: something may be missing."""
    floor: Stamp = NOWHERE
    """It gets of the stream what is behind this; what it is owed of the rest, it was sent when it arrived."""
    late: bool = False
    """The stream has not come to its floor."""

    @classmethod
    def of(
        cls, connection: ConnectionId, user: UserId, mode: ReceiptMode = "pong", device: str | None = None
    ) -> "Member":
        """A member that was sent nothing yet."""
        return cls(connection, user, Receipts(mode), device)


@dataclass(slots=True)
class Device:
    """A named member's own session."""

    member: Member
    window: SessionWindow = field(default_factory=SessionWindow)
    seeding: bool = False
    """The member still gets the shared stream; its own queue is held back meanwhile."""
    bounded: bool = False
    """What the shared window knows `to_come` includes all that was there when the device's queue was made."""


@dataclass(slots=True)
class Send:
    """Write an event to these members, behind everything written to them before, and note it in their receipts then."""

    event: Event
    members: tuple[Member, ...]
    repeated: bool


@dataclass(slots=True)
class Settle:
    """Acknowledge all deliveries of a session up to `tag`, on the channel of that generation."""

    session: SessionKey
    generation: int
    tag: int
    events: list[Event] = field(default_factory=list, compare=False)
    """What is let go by that."""


@dataclass(frozen=True, slots=True)
class Park:
    """A delivery nobody can ever receive: bring it to the parking queue, then report `parked`."""

    session: SessionKey
    generation: int
    tag: int
    reason: str


@dataclass(frozen=True, slots=True)
class TellGap:
    """Tell these members that events were dropped; None: nobody knows how many."""

    members: tuple[Member, ...]
    evicted: int | None
    cause: GapCause = field(default="full", compare=False)


@dataclass(frozen=True, slots=True)
class Relay:
    """Tell the other replicas of this event, in the order of these effects; then report `relay_confirmed`."""

    event: Event
    stamp: Stamp
    repeated: bool = False
    """It may have been sent before."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """This replica became the active one. Bring word through its own node queue, then report `barrier_passed`.

    What the replica before it relayed and settled is in that queue already: it comes first.
    """

    generation: int


@dataclass(frozen=True, slots=True)
class TellProven:
    """Tell the active replica that clients here have these events."""

    events: tuple[EventId, ...]


Effect = Send | Settle | Park | TellGap | Relay | Barrier | TellProven


@dataclass(frozen=True, slots=True)
class Held:
    """An event that another replica holds unproven."""

    event: Event
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Word:
    """What a replica says of a room when it is asked. Whatever it relays afterwards comes behind it."""

    at: Stamp
    """The last place in the stream that it knows."""
    leading: bool
    """It is the active one: what follows is all that was delivered and not settled."""
    held: tuple[Held, ...] = ()
    """What nobody has proven, in order."""
    proven: tuple[EventId, ...] = ()
    """What was proven of late. Whoever becomes active next may be delivered it again, and not know that."""


@dataclass(slots=True)
class _Arrival:
    """What happens while a member waits for the others' word."""

    epoch: int
    """The highest that was known here when it came."""
    leading: bool
    """This replica led then: `records` are whole, whoever led afterwards."""
    records: deque[Record]
    """What was unproven here then, and what came since."""


NO_PEERS: Final[frozenset[str]] = frozenset()
"""One for all: an empty set takes 216 bytes, and there are many rooms."""


class Room:
    """One diagnosis on this replica."""

    __slots__ = (
        "_arriving",
        "_barrier",
        "_late",
        "_members",
        "_queue_lost",
        "_unnamed",
        "acquainted",
        "consuming",
        "devices",
        "diagnosis",
        "peers",
        "shared",
        "stream",
    )

    def __init__(self, diagnosis: DiagnosisId, clock: Clock = lambda: 0) -> None:
        self.diagnosis = diagnosis
        self.shared = SessionWindow()
        self.devices: dict[str, Device] = {}
        self._members: dict[ConnectionId, Member] = {}
        self._unnamed: dict[ConnectionId, Member] = {}
        self.peers: frozenset[str] = NO_PEERS
        """Other replicas with clients of this diagnosis, by their node queues."""
        self.stream = RelayStream(clock)
        self.acquainted = False
        """All other replicas with clients of this diagnosis are among `peers`."""
        self.consuming = False
        """The shared session is open: the broker counts this replica among those that it may activate."""
        self._queue_lost = False  # the shared one; those here are to be told
        self._barrier: int | None = None  # the generation whose deliveries wait for it
        self._arriving: dict[ConnectionId, _Arrival] = {}  # members that do not get the shared stream yet
        self._late = 0  # how many members are

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody here, in order of joining."""
        return tuple(self._members.values())

    @property
    def watched(self) -> bool:
        """Somebody is here."""
        return bool(self._members)

    def window(self, session: SessionKey) -> SessionWindow | None:
        """The window of a session; None for a device that is gone."""
        if session is SHARED:
            return self.shared
        device = self.devices.get(session)
        return device.window if device else None

    @property
    def alone(self) -> bool:
        """No other replica has clients of this diagnosis."""
        return self.acquainted and not self.peers

    def queued_for(self, member: Member) -> int:
        """Events that wait for a member that was welcomed just now."""
        device = self.devices.get(member.device) if member.device else None
        queued = member.receipts.unproven
        if device is None or device.seeding:
            queued += self.shared.to_come
        return queued + (device.window.to_come if device else 0)

    def gap_for(self, member: Member) -> bool:
        """Whether events may be missing before those that wait for this member."""
        device = self.devices.get(member.device) if member.device else None
        if device is None or device.seeding:
            return self.shared.overflowed or member.unsure
        return device.window.overflowed

    # Coming and going

    def join(self, member: Member, *, ask: bool = False) -> list[Effect]:
        """A member comes, before or after the shared session opened. Unnamed: it first gets what nobody has proven.

        `ask`: other replicas are asked what they hold; an unnamed member is sent nothing until it `arrive`s.
        """
        self._members[member.id] = member
        most = None if member.device is None else WINDOW_EVENTS
        records = deque(self.shared.unproven(), maxlen=most)
        self._arriving[member.id] = _Arrival(self.stream.at.epoch, self.stream.leading, records)
        return self.arrive(member, ()) if member.device is None and not ask else []

    def arrive(self, member: Member, words: Iterable[Word]) -> list[Effect]:
        """An unnamed member gets what is unproven here or elsewhere, in the order of the stream, then what comes.

        `words`: of every other replica that consumes, or the member is `unsure`.
        """
        if member.id not in self._arriving:
            return []
        effects = self._catch_up(member, self._merged(member, words))
        self._unnamed[member.id] = member
        return effects

    def join_device(self, member: Member, *, new: bool, words: Iterable[Word] = ()) -> list[Effect]:
        """A named member's own session is about to open. A `new` device first gets what the shared session holds.

        It also gets what the shared session handed out since it joined: that may be in its own queue, too, and must
        not come behind later events.
        """
        assert member.device is not None
        arrived = self._merged(member, words)
        device = self.devices[member.device] = Device(member, seeding=new)
        if not new:
            return []
        device.window.hold()
        for record in arrived:
            if record.event:
                device.window.had(record.event.id)
        return self._catch_up(member, arrived)

    def leave(self, member: Member) -> list[Effect]:
        """A member is gone; what it had not proven stays unproven."""
        self._members.pop(member.id, None)
        self._unnamed.pop(member.id, None)
        self._arriving.pop(member.id, None)
        self._keeps_up(member)
        if member.device and (device := self.devices.get(member.device)) and device.member is member:
            del self.devices[member.device]
        for record in self.shared.unproven():
            if record.event and self._needed_by_nobody(record.event):
                self.shared.prove([record.event.id])
        return self._settle(SHARED)

    # Deliveries

    def deliver(
        self, session: SessionKey, tag: int, event: Event, *, redelivered: bool = False
    ) -> list[Effect]:
        """The broker handed over an event."""
        window = self.window(session)
        if window is None:
            return []
        if event.user is not None and all(member.user != event.user for member in self._members.values()):
            return self.refuse(session, tag, "a personal event for a user who may not watch this diagnosis")
        effects = self._lead(window) if session is SHARED else []
        effects += self._hand_out(session, window.deliver(tag, event, redelivered=redelivered))
        effects += self._settle(session)
        if session is not SHARED and window.knows(event.id):
            # The shared stream has already reached what is in the device's own queue.
            effects += self.end_seeding(session)
        return effects

    def refuse(self, session: SessionKey, tag: int, reason: str) -> list[Effect]:
        """The broker handed over something that is no event. The shared copy is parked; a device's copy is let go."""
        window = self.window(session)
        if window is None:
            return []
        effects = self._lead(window) if session is SHARED else []
        effects += self._hand_out(session, window.deliver(tag, None))
        if session is SHARED:
            return [*effects, Park(session, window.generation, tag, reason), *self._settle(session)]
        window.refused(tag)
        return [*effects, *self._settle(session)]

    def parked(self, session: SessionKey, generation: int, tag: int) -> list[Effect]:
        """A refused delivery is safe in the parking queue."""
        window = self.window(session)
        if window is None or window.generation != generation:
            return []
        window.refused(tag)
        return self._settle(session)

    # Other replicas

    def relayed(self, event: Event, stamp: Stamp, *, repeated: bool = False) -> list[Effect]:
        """The active replica got an event from the shared queue."""
        verdict = self.stream.follow(stamp)
        if verdict is Verdict.OVER:
            return []
        if verdict is Verdict.OLD:
            # A relay that came late, or a ghost's. The leader is delivered what it does not know; nobody else is.
            return (
                [] if self.stream.leading or self.shared.knows(event.id) else self._tell_gap_at(stamp, "late")
            )
        effects = self._tell_gap_at(stamp, "hole") if verdict is Verdict.HOLE else []
        self.shared.remaining = max(0, self.shared.remaining - 1)
        self.shared.caught_up()
        if (self._unnamed or self._arriving or self._seeding()) and (
            record := self.shared.relayed(event, stamp, repeated=repeated)
        ):
            effects += self._hand_out(SHARED, [record], relay=False)
        return [*effects, *self._settle(SHARED)]

    def answered_late(self, word: Word) -> list[Effect]:
        """The active replica answers, and nobody waits for it any more. Whatever it had told of its events is here.

        What it holds and told nobody here of comes now: given back one day, it would come behind later events.
        """
        effects = self._epoch_goes_on(word)
        if self.stream.leading or not word.leading or not word.at.sequence or word.at <= self.stream.at:
            return effects
        for held in word.held:
            if held.stamp > self.stream.at:
                effects += self.relayed(held.event, held.stamp, repeated=True)
        if word.at > self.stream.at:
            self.stream.follow(word.at)
            effects += self._tell_gap_at(word.at, "late")
        return effects

    def _epoch_goes_on(self, word: Word) -> list[Effect]:
        """Who came while nobody seemed to lead waits for the next epoch, and this one has a leader after all."""
        floor = end_of(word.at.epoch)
        waiting = [each for each in self._members.values() if each.late and each.floor == floor]
        if self.stream.leading or not word.leading or not waiting:
            return []
        for member in waiting:
            member.floor = word.at
            if member.floor <= self.stream.at:
                self._keeps_up(member)
        return [TellGap(tuple(waiting), None, "late")]

    def relay_confirmed(self, event: EventId) -> list[Effect]:
        """The broker has what the other replicas are told of this event."""
        self.shared.relay_confirmed(event)
        return self._settle(SHARED)

    def proved_elsewhere(self, events: Iterable[EventId]) -> list[Effect]:
        """Clients of another replica have these events."""
        self.shared.prove(events)
        return self._settle(SHARED)

    def word(self) -> Word:
        """For a replica that asks."""
        held = tuple(Held(record.event, record.stamp) for record in self.shared.unproven() if record.event)
        return Word(self.stream.at, self.stream.leading, held, tuple(self.shared.proven()))

    def barrier_passed(self, generation: int, *, heard: bool = True) -> list[Effect]:
        """Everything that was relayed before this replica became the active one has been handled.

        Not `heard`: the barrier was waited for in vain, and what was relayed and settled before may be missing.
        """
        if self._barrier != generation:
            return []
        self._barrier = None
        self.stream.lead()
        effects = [] if heard else self._tell_gap("barrier")
        return [*effects, *self._hand_out(SHARED, self.shared.resume()), *self._settle(SHARED)]

    # Proofs

    def pong(self, member: Member, number: int) -> list[Effect]:
        """A member answered PING `number`."""
        return self._proven(member, member.receipts.pong(number))

    def ack(self, member: Member, event: EventId) -> list[Effect]:
        """A member acknowledged `event` and all before it."""
        return self._proven(member, member.receipts.ack(event))

    def written(self, member: Member) -> list[Effect]:
        """Everything was handed to the socket of a member that cannot prove anything."""
        return self._proven(member, member.receipts.assume())

    # Channels

    def lost(self, session: SessionKey) -> None:
        """A session's channel is gone; members stay."""
        if window := self.window(session):
            window.lost()
        if session is SHARED:
            self.consuming = self.stream.leading = self.stream.whole = False
            self._barrier = None
            for device in self.devices.values():
                device.bounded = False

    def opened(self, session: SessionKey, generation: int, ready: int, *, full: bool) -> list[Effect]:
        """A session is about to consume; `ready` events wait. A full queue may have dropped events before."""
        window = self.window(session)
        if window is None:
            return []
        self.lost(session)
        if session is SHARED:
            full, self._queue_lost = full or self._queue_lost, False
        window.opened(generation, ready, full=full)
        effects = self._tell_gap("full", session) if full else []
        if session is SHARED:
            self.consuming = True
            window.resume()
            for device in self.devices.values():
                device.bounded = True
            effects += self._settle(SHARED)
        return effects

    def queue_lost(self) -> bool:
        """The shared queue is gone, and about to be made. Returns whether it must be opened again because of that.

        Those here are told once it is open, if it was open before.
        """
        self._queue_lost = self.shared.generation > 0
        return self.consuming

    def deaf(self) -> list[Effect]:
        """What was said to this replica may be lost: events that others relayed, and that some were evicted."""
        if not self.shared.generation:
            return []
        self.shared.overflowed = True
        return self._tell_gap("hole")

    def shared_depth(self, device_key: str, ready: int) -> list[Effect]:
        """`ready` events were in the shared queue after a new device's queue was bound: wait for these, no longer."""
        device = self.devices.get(device_key)
        if device is None or not device.seeding:
            return []
        device.bounded = True
        self.shared.remaining = ready
        return self._end_seeding_where_through()

    def end_seeding(self, device_key: str) -> list[Effect]:
        """Stop waiting for the shared stream: the device's own queue goes on."""
        device = self.devices.get(device_key)
        if device is None or not device.seeding:
            return []
        device.seeding = False
        effects = self._hand_out(device_key, device.window.resume())
        return [*effects, *self._settle(device_key)]

    def seeding_takes_too_long(self, device_key: str) -> list[Effect]:
        """The shared stream did not come to its end in time, or nobody knows where that is: it may hold more."""
        device = self.devices.get(device_key)
        if device is None or not device.seeding:
            return []
        return [TellGap((device.member,), None, "seeding"), *self.end_seeding(device_key)]

    def evicted(self, session: SessionKey, event: EventId) -> list[Effect]:
        """The broker dropped an event from a session's queue. It is no gap for those who have it."""
        window = self.window(session)
        if window is None or window.knows(event):
            return []
        window.overflowed = True
        return self._tell_gap("evicted", session, 1)

    # Parts

    def _catch_up(self, member: Member, records: Iterable[Record]) -> list[Effect]:
        effects: list[Effect] = []
        elsewhere = bool(self.peers) or member.unsure  # all that is handed out here is relayed to these
        for record in records:
            if record.event and self._may_get(record.event, member):
                repeated = record.redelivered or record.sent or elsewhere
                effects.append(Send(record.event, (member,), repeated=repeated))
                record.sent = True
        return effects

    def _merged(self, member: Member, words: Iterable[Word]) -> list[Record]:
        """What a member that arrives is to be sent, in order: unproven here or elsewhere, or come since."""
        arrival = self._arriving.pop(member.id, None) or _Arrival(0, False, deque())
        words = list(words)
        self.stream.whole = self.stream.whole or not member.unsure
        member.floor, leader = self._floor(arrival, words, unsure=member.unsure)
        heard = words if member.unsure else [leader] if leader else []
        proven = [event for word in words for event in word.proven]
        self.shared.prove(proven)
        places: dict[EventId, tuple[Stamp, Record]] = {}
        for record in arrival.records:
            if record.event and (member.unsure or record.stamp > member.floor):
                places.setdefault(record.event.id, (record.stamp, record))
        for each in (held for word in heard for held in word.held):
            if each.event.id in places:
                stamp, record = places[each.event.id]
                places[each.event.id] = (min(stamp, each.stamp), record)
                continue
            self.shared.had(each.event.id)
            if each.event.id not in self.shared.proven_ids:
                places[each.event.id] = (
                    each.stamp,
                    Record(each.event, sent=True),
                )  # somebody else may have it
        for event in proven:
            self.shared.had(event)
        if self.stream.at < member.floor and not member.late:
            member.late = True
            self._late += 1
        return [record for _, record in sorted(places.values(), key=lambda place: place[0])]

    def _floor(self, arrival: _Arrival, words: list[Word], *, unsure: bool) -> tuple[Stamp, Word | None]:
        """From where on the stream is whole for a member that arrives, and who says what it is owed of the rest.

        The leader knows all that is not settled. Where nobody leads, all that is not settled comes again in the next
        epoch, and what is still under way of an earlier one must not come before it. Where somebody did not answer,
        that one may lead, and go on with the epoch: then the stream goes on from here.
        """
        if arrival.leading:
            return Stamp(arrival.epoch, 0), None
        leader = max((word for word in words if word.leading), key=lambda word: word.at, default=None)
        if self.stream.leading and (leader is None or leader.at.epoch < self.stream.at.epoch):
            return Stamp(self.stream.at.epoch, 0), None
        known = max([arrival.epoch, *(word.at.epoch for word in words)])
        if leader is None or leader.at.epoch < known:
            return max([self.stream.at, *(word.at for word in words)]) if unsure else end_of(known), None
        return leader.at, leader

    def _keeps_up(self, member: Member) -> None:
        self._late -= member.late
        member.late = False

    def _lead(self, window: SessionWindow) -> list[Effect]:
        """The first delivery on a channel says that the broker made this replica the active one."""
        if self.stream.leading or self._barrier is not None:
            return []
        if self.alone and not self.stream.followed:
            self.stream.lead()  # nobody can have relayed anything
            return []
        window.hold()
        self._barrier = window.generation
        return [Barrier(window.generation)]

    def _seeding(self) -> list[Member]:
        return [device.member for device in self.devices.values() if device.seeding]

    def _hand_out(self, session: SessionKey, records: list[Record], *, relay: bool = True) -> list[Effect]:
        effects: list[Effect] = []
        for record in records:
            if record.event is None:
                continue
            if session is SHARED:
                if self.devices:
                    effects += self._end_seeding_that_reached(record.event.id)
                if relay:
                    record.stamp = self.stream.next()
                members = self._shared_audience(record)
            else:
                members = self._device_audience(session, record.event)
            if record.redelivered:
                members = [member for member in members if record.event.id not in member.receipts]
            if members:
                effects.append(Send(record.event, tuple(members), repeated=record.redelivered))
                record.sent = True
            if session is SHARED and relay and not self.alone:
                record.relaying = True
                record.sent = record.sent or bool(self.peers)  # to somebody there, perhaps
                effects.append(Relay(record.event, record.stamp, record.redelivered))
            if session is SHARED and self._needed_by_nobody(record.event):
                self.shared.prove([record.event.id])
        return effects

    def _shared_audience(self, record: Record) -> list[Member]:
        assert record.event is not None
        event = record.event
        for arrival in self._arriving.values():
            arrival.records.append(record)
        members = list(self._unnamed.values())
        if event.user is not None or event.excluded is not None:
            members = [member for member in members if self._may_get(event, member)]
        if self._late:
            for member in self._members.values():
                if member.floor < record.stamp:
                    self._keeps_up(member)
            members = [member for member in members if not member.late]
        for device in self.devices.values():
            if device.seeding and not device.member.late and self._may_get(event, device.member):
                device.window.had(event.id)
                members.append(device.member)
        return members

    def _device_audience(self, session: str, event: Event) -> list[Member]:
        device = self.devices[session]
        if self._may_get(event, device.member):
            return [device.member]
        device.window.prove([event.id])
        return []

    @staticmethod
    def _may_get(event: Event, member: Member) -> bool:
        return event.excluded != member.id and event.user in (None, member.user)

    def _needed_by_nobody(self, event: Event) -> bool:
        """The connection that caused the event is here, and nobody else gets the shared stream: who should prove it?"""
        if event.excluded not in self._members:
            return False
        seeding = (device.member for device in self.devices.values() if device.seeding)
        return all(member.id == event.excluded for member in chain(self._unnamed.values(), seeding))

    def _tell_gap(
        self, cause: GapCause, session: SessionKey = SHARED, evicted: int | None = None
    ) -> list[Effect]:
        audience = self._audience_of(session)
        return [TellGap(audience, evicted, cause)] if audience else []

    def _tell_gap_at(self, stamp: Stamp, cause: GapCause) -> list[Effect]:
        """Who came later in the stream was sent what it is owed of this place, and misses nothing."""
        audience = tuple(member for member in self._unnamed.values() if member.floor < stamp)
        return [TellGap(audience, None, cause)] if audience else []

    def _audience_of(self, session: SessionKey) -> tuple[Member, ...]:
        if session is SHARED:
            return tuple(self._unnamed.values())
        return (self.devices[session].member,)

    def _proven(self, member: Member, events: Iterable[EventId]) -> list[Effect]:
        events = list(events)
        if not events:
            return []
        self.shared.prove(events)
        effects = self._settle(SHARED)
        if not self.alone and not self.stream.leading:
            effects.append(TellProven(tuple(events)))
        if member.device and (device := self.devices.get(member.device)) and device.member is member:
            device.window.prove(events)
            effects += self._settle(member.device)
        return effects

    def _settle(self, session: SessionKey) -> list[Effect]:
        window = self.window(session)
        if window is None:
            return []
        effects: list[Effect] = []
        while (tag := window.settle()) is not None:
            effects.append(Settle(session, window.generation, tag, window.let_go()))
            effects += self._hand_out(session, window.admit())
        if session is SHARED and self.devices:
            effects += self._end_seeding_where_through()
        return effects

    # New devices: from the shared stream to their own queue

    def _end_seeding_that_reached(self, event: EventId) -> list[Effect]:
        """Devices that hold a copy of the shared stream's next event go on with their own queue, from before it."""
        return self._end_seeding(lambda device: device.window.holds_back(event))

    def _end_seeding_where_through(self) -> list[Effect]:
        """Nothing is left that was in the shared queue before the devices' queues were made."""
        return [] if self.shared.to_come else self._end_seeding(lambda device: device.bounded)

    def _end_seeding(self, reached: Callable[[Device], bool]) -> list[Effect]:
        keys = [key for key, device in self.devices.items() if device.seeding and reached(device)]
        return [effect for key in keys for effect in self.end_seeding(key)]
