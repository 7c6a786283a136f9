"""One queue's deliveries between their arrival and their settlement.

Law: a delivery is settled only when it, and every delivery before it, is proven (promises 1 and 2). `multiple=True`
is legal because the channel has one queue. An event id is handed out once, however often the channel delivers it
(promise 3).

    delivered ──► waiting ──► handed out, unproven ──► proven ──► settled (a prefix, in order)
                  (bytes)

To be handed out and to be proven are two things. What a device proved, which has it from its own queue, may still have
to be handed out here. What was handed out on a channel that is gone comes again and, unless it was proven meanwhile, is
handed out again: `redelivered`, to those who have not been sent it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contracts.ids import EventId
from realtime_service.domain.event import Event
from realtime_service.domain.recent import RecentIds
from realtime_service.domain.relays import NOWHERE, Stamp

WINDOW_EVENTS: Final = 256
"""Unsettled deliveries of a session (AMQP prefetch). A small window loses events to drop-head for a healthy client:
with 32 and a 100 ms phone a burst of 150 lost 18 (RabbitMQ 3.10.8)."""
WINDOW_BYTES: Final = 1024 * 1024
"""Bytes handed out and not settled; more wait here until the first are proven."""


@dataclass(slots=True)
class Record:
    """An event that is not settled."""

    event: Event | None
    """None: a refused delivery on its way to the parking queue; it holds its place like any other."""
    redelivered: bool = False
    """The broker says, or this window knows, that it may have been sent before: not everybody may need it."""
    sent: bool = False
    """It went to somebody from here."""
    proven: bool = False
    deliveries: int = 0
    """Unsettled deliveries of this event: a publisher may have repeated it."""
    stamp: Stamp = NOWHERE
    """Its place in the stream between replicas."""
    relaying: bool = False
    """Other replicas are being told of it: not to be settled before the broker has that."""

    @property
    def size(self) -> int:
        """Bytes of its message."""
        return len(self.event.message) if self.event else 0


class SessionWindow:
    """The deliveries of one durable queue, in the broker's order."""

    __slots__ = (
        "_bytes",
        "_handed_out",
        "_held",
        "_let_go",
        "_records",
        "_unsettled",
        "_waiting",
        "generation",
        "overflowed",
        "proven_ids",
        "remaining",
    )

    def __init__(self) -> None:
        self.generation = 0
        """Counts the channels this session has had; a tag means something only with its generation."""
        self.remaining = 0
        """Events the queue still held when they were counted last and that were not delivered yet."""
        self.overflowed = False
        """Events may have been dropped before those that wait here; false again once nothing waits."""
        self.proven_ids = RecentIds()
        """Ids proven of late, also before their delivery arrived."""
        # By delivery tag, in order. (An empty dictionary takes a tenth of an empty deque, and most are empty.)
        self._unsettled: dict[int, Record] = {}
        self._waiting: dict[int, Record] = {}
        self._records: dict[EventId, Record] = {}  # handed out and not settled, in order
        # The ids of these, and of such as were settled of late or on a channel that is gone.
        self._handed_out = RecentIds()
        self._let_go: list[Event] | None = None
        self._bytes = 0
        self._held = False

    def lost(self) -> None:
        """The channel is gone and its tags with it. The broker will deliver again what was not settled."""
        self._unsettled.clear()
        self._waiting.clear()
        self._records.clear()
        self._bytes = self.remaining = 0

    def opened(self, generation: int, ready: int, *, full: bool = False) -> None:
        """A new channel is about to consume; `ready` events wait in the queue, which was `full`."""
        self.lost()
        self.generation = generation
        self.remaining = ready
        self.overflowed = self.overflowed or full

    def hold(self) -> None:
        """Keep deliveries back until `resume`."""
        self._held = True

    def resume(self) -> list[Record]:
        """Stop keeping back: the records to hand out now."""
        self._held = False
        return self.admit()

    def deliver(self, tag: int, event: Event | None, *, redelivered: bool = False) -> list[Record]:
        """A delivery arrived: the records to hand out now. `event` is None for one that is being refused."""
        self.remaining = max(0, self.remaining - 1)
        self._waiting[tag] = Record(event, redelivered)
        return self.admit()

    def prove(self, events: Iterable[EventId]) -> None:
        """Somebody proved that they have these events; also such as were not delivered here yet."""
        for event in events:
            self.proven_ids.add(event)
            if record := self._records.get(event):
                record.proven = True

    def refused(self, tag: int) -> None:
        """The refused delivery `tag` is safe in the parking queue."""
        for deliveries in (self._unsettled, self._waiting):
            if record := deliveries.get(tag):
                record.proven = True

    def settle(self) -> int | None:
        """Let go of the longest proven prefix: its last tag, or None when there is nothing to settle."""
        last = None
        while self._unsettled:
            tag, record = next(iter(self._unsettled.items()))
            if not record.proven or record.relaying:
                break
            last = tag
            del self._unsettled[tag]
            record.deliveries -= 1
            if record.event is not None and not record.deliveries:
                del self._records[record.event.id]
                self._bytes -= record.size
                if self._let_go is None:  # most windows are empty, and each has some
                    self._let_go = []
                self._let_go.append(record.event)
        if last is not None:
            self.caught_up()
        return last

    def caught_up(self) -> None:
        """An event is through: if nothing waits behind it, nothing is missing before what waits."""
        if self.overflowed and not self.pending:
            self.overflowed = False

    def let_go(self) -> list[Event]:
        """The events that were settled since this was asked last."""
        events, self._let_go = self._let_go or [], None
        return events

    def admit(self) -> list[Record]:
        """The records to hand out now that bytes may have become free."""
        handed_out: list[Record] = []
        while self._waiting and not self._held:
            tag, record = next(iter(self._waiting.items()))
            if known := self._known(record):
                record = known
            elif self._fits(record):
                self._hand_out(record)
                handed_out.append(record)
            else:
                break
            del self._waiting[tag]
            record.deliveries += 1
            self._unsettled[tag] = record
        return handed_out

    def unproven(self) -> list[Record]:
        """Records that were handed out and that nobody has proven, in order."""
        return [record for record in self._records.values() if not record.proven]

    def relayed(self, event: Event, stamp: Stamp, *, repeated: bool = False) -> Record | None:
        """Another replica got an event from this queue: what to hand out; None where all had it that are to have it.

        It is not kept: if that replica dies with the event unproven, the broker delivers it to the next, which relays
        it again. What nobody here has proven then is for those who came meanwhile.
        """
        known = self.knows(event.id)
        if known and event.id in self.proven_ids:
            return None
        self._handed_out.add(event.id)
        return Record(event, redelivered=known or repeated, stamp=stamp)

    def relay_confirmed(self, event: EventId) -> None:
        """The broker has what the other replicas are told."""
        if record := self._records.get(event):
            record.relaying = False

    def proven(self) -> list[EventId]:
        """What was handed out and proven of late: the broker may deliver it again, also where it was settled.

        A broker that crashes forgets acknowledgements (RabbitMQ 3.10, classic queues).
        """
        return [event for event in self.proven_ids.latest(WINDOW_EVENTS) if self.knows(event)]

    def had(self, event: EventId) -> None:
        """The event reached this window's audience another way: here, too, it was handed out."""
        self._handed_out.add(event)

    def knows(self, event: EventId) -> bool:
        """Whether the event was handed out here, now or of late."""
        return event in self._handed_out

    def holds_back(self, event: EventId) -> bool:
        """Whether the event was delivered and waits to be handed out."""
        return any(record.event is not None and record.event.id == event for record in self._waiting.values())

    @property
    def to_come(self) -> int:
        """Events of this queue that were not handed out yet, as far as known here."""
        return len(self._waiting) + self.remaining

    @property
    def pending(self) -> int:
        """Events of this queue that nobody has proven, as far as known here."""
        return len(self.unproven()) + self.to_come

    @property
    def head(self) -> tuple[int, int] | None:
        """Generation and tag of the oldest unsettled delivery."""
        return (self.generation, next(iter(self._unsettled))) if self._unsettled else None

    @property
    def unsettled(self) -> int:
        """Deliveries that the broker keeps until they are settled."""
        return len(self._unsettled) + len(self._waiting)

    def _known(self, record: Record) -> Record | None:
        """What a delivery stands for that is not to be handed out; None: the event is to be handed out."""
        if record.event is None:
            return record
        event = record.event.id
        if known := self._records.get(event):
            return known
        return Record(None, proven=True) if event in self.proven_ids and event in self._handed_out else None

    def _fits(self, record: Record) -> bool:
        return self._bytes == 0 or self._bytes + record.size <= WINDOW_BYTES

    def _hand_out(self, record: Record) -> None:
        assert record.event is not None
        event = record.event.id
        record.proven = event in self.proven_ids
        record.redelivered = record.redelivered or event in self._handed_out
        self._handed_out.add(event)
        self._records[event] = record
        self._bytes += record.size
