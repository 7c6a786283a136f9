"""A diagnosis' connections on this replica, and who of them gets and proves what.

The promises kept here (README, *Promises*):
1  FIFO: a window hands out in the broker's order, and a newcomer first gets what nobody has proven.
2  At least once, proven: `Settle` comes from a window's proven prefix and from nowhere else.
3  Exactly once on a connection: a window hands an event id out once; a newcomer gets only what was handed out before it
   came. What comes again after it was given up goes to those alone who have not been sent it.
4  The shared queue is for what *nobody* has received: any member's proof settles the shared copy, a device's queue is
   settled by that device alone.

The shared session's audience is the unnamed members; for named ones it is a ledger. A *new* device (its queue was made
just now) belongs to that audience too until the shared stream has caught up with its own queue.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain

from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from contracts.messages import ReceiptMode
from realtime_service.domain.event import Event
from realtime_service.domain.receipts import Receipts
from realtime_service.domain.window import WINDOW_EVENTS, Record, SessionWindow

SHARED = None
"""The key of a room's shared session; a device session's key is its device key."""
SessionKey = str | None


@dataclass(slots=True, eq=False)
class Member:
    """A connection as the delivery rules see it."""

    id: ConnectionId
    user: UserId
    receipts: Receipts
    device: str | None = None
    """The device key of a connection that named itself."""

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


@dataclass(frozen=True, slots=True)
class Send:
    """Write an event to these members, behind everything written to them before, and note it in their receipts then."""

    event: Event
    members: tuple[Member, ...]
    repeated: bool


@dataclass(frozen=True, slots=True)
class Settle:
    """Acknowledge all deliveries of a session up to `tag`, on the channel of that generation."""

    session: SessionKey
    generation: int
    tag: int


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


Effect = Send | Settle | Park | TellGap


class Room:
    """One diagnosis on this replica."""

    __slots__ = ("_arriving", "_members", "_unnamed", "devices", "diagnosis", "shared")

    def __init__(self, diagnosis: DiagnosisId) -> None:
        self.diagnosis = diagnosis
        self.shared = SessionWindow()
        self.devices: dict[str, Device] = {}
        self._members: dict[ConnectionId, Member] = {}
        self._unnamed: dict[ConnectionId, Member] = {}
        # For named members whose own session is not open yet: what the shared session holds or has handed out since.
        self._arriving: dict[ConnectionId, deque[Event]] = {}

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody here, in order of joining."""
        return tuple(self._members.values())

    def window(self, session: SessionKey) -> SessionWindow | None:
        """The window of a session; None for a device that is gone."""
        if session is SHARED:
            return self.shared
        device = self.devices.get(session)
        return device.window if device else None

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
            return self.shared.overflowed
        return device.window.overflowed

    # Coming and going

    def join(self, member: Member) -> list[Effect]:
        """A member comes, before or after the shared session opened. Unnamed: it first gets what nobody has proven."""
        self._members[member.id] = member
        unproven = [record.event for record in self.shared.unproven() if record.event]
        if member.device is not None:
            self._arriving[member.id] = deque(unproven, maxlen=WINDOW_EVENTS)
            return []
        self._unnamed[member.id] = member
        return self._catch_up(member, unproven)

    def join_device(self, member: Member, *, new: bool) -> list[Effect]:
        """A named member's own session is about to open. A `new` device first gets what the shared session holds.

        It also gets what the shared session handed out since it joined: that may be in its own queue, too, and must
        not come behind later events.
        """
        assert member.device is not None
        arrived = self._arriving.pop(member.id, ())
        device = self.devices[member.device] = Device(member, seeding=new)
        if not new:
            return []
        device.window.hold()
        for event in arrived:
            device.window.had(event.id)
        return self._catch_up(member, arrived)

    def leave(self, member: Member) -> list[Effect]:
        """A member is gone; what it had not proven stays unproven."""
        self._members.pop(member.id, None)
        self._unnamed.pop(member.id, None)
        self._arriving.pop(member.id, None)
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
        effects = self._hand_out(session, window.deliver(tag, event, redelivered=redelivered))
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
        effects = self._hand_out(session, window.deliver(tag, None))
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
            for device in self.devices.values():
                device.bounded = False

    def opened(self, session: SessionKey, generation: int, ready: int, *, full: bool) -> list[Effect]:
        """A session is about to consume; `ready` events wait. A full queue may have dropped events before."""
        window = self.window(session)
        if window is None:
            return []
        window.opened(generation, ready, full=full)
        effects: list[Effect] = []
        if full and (audience := self._audience_of(session)):
            effects.append(TellGap(audience, None))
        if session is SHARED:
            for device in self.devices.values():
                device.bounded = True
            effects += self._settle(SHARED)
        return effects

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

    def evicted(self, session: SessionKey, event: EventId) -> list[Effect]:
        """The broker dropped an event from a session's queue. It is no gap for those who have it."""
        window = self.window(session)
        if window is None or window.knows(event):
            return []
        window.overflowed = True
        audience = self._audience_of(session)
        return [TellGap(audience, 1)] if audience else []

    # Parts

    def _catch_up(self, member: Member, events: Iterable[Event]) -> list[Effect]:
        return [Send(event, (member,), repeated=True) for event in events if self._may_get(event, member)]

    def _hand_out(self, session: SessionKey, records: list[Record]) -> list[Effect]:
        effects: list[Effect] = []
        for record in records:
            if record.event is None:
                continue
            if session is SHARED:
                effects += self._end_seeding_that_reached(record.event.id)
                members = self._shared_audience(record.event)
            else:
                members = self._device_audience(session, record.event)
            if record.redelivered:
                members = [member for member in members if record.event.id not in member.receipts]
            if members:
                effects.append(Send(record.event, tuple(members), repeated=record.redelivered))
            if session is SHARED and self._needed_by_nobody(record.event):
                self.shared.prove([record.event.id])
        return effects

    def _shared_audience(self, event: Event) -> list[Member]:
        for arrived in self._arriving.values():
            arrived.append(event)
        members = [member for member in self._unnamed.values() if self._may_get(event, member)]
        for device in self.devices.values():
            if device.seeding and self._may_get(event, device.member):
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
        if member.device and (device := self.devices.get(member.device)) and device.member is member:
            device.window.prove(events)
            effects += self._settle(member.device)
        return effects

    def _settle(self, session: SessionKey) -> list[Effect]:
        window = self.window(session)
        if window is None:
            return []
        effects = self._hand_out(session, window.admit())
        while (tag := window.settle()) is not None:
            effects.append(Settle(session, window.generation, tag))
            effects += self._hand_out(session, window.admit())
        if session is SHARED:
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
