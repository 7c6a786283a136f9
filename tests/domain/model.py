"""What the delivery rules meet: a broker that keeps a diagnosis' queues, and clients behind slow wires.

Both are models: they do what RabbitMQ and a TCP connection do, one step at a time, and remember the truth that the
rules can only infer: what was published, dropped, written, read and proven.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from contracts.ids import ConnectionId, EventId, UserId
from realtime_service.domain.event import Event
from realtime_service.domain.room import Member, SessionKey

OWNER = UserId(1)
STRANGER = UserId(2)

LIMIT = 5
"""Ready messages a queue holds (`x-max-length`)."""
PREFETCH = 8
"""More than LIMIT, as in production (256 and 100): a lost channel gives back more than the queue may keep."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One publish: a publisher's retry is another one with the same event."""

    position: int
    event: Event | None
    """None: something that is no event."""

    @property
    def deliverable(self) -> bool:
        """Whether anybody may ever receive it."""
        return self.event is not None and self.event.user in (None, OWNER)


@dataclass(slots=True, eq=False)
class Copy:
    """A publication in one queue."""

    publication: Publication
    tag: int | None = None
    """None while it is ready."""
    redelivered: bool = False
    parked: bool = False


@dataclass(slots=True)
class Queue:
    """A queue with one consumer: in order, bounded, drop-head; what a lost channel returns takes its old place."""

    key: SessionKey
    copies: list[Copy] = field(default_factory=list)
    history: list[Publication] = field(default_factory=list)
    """All that was ever published to it."""
    dropped: list[Publication] = field(default_factory=list)
    """All that it ever dropped."""
    taken: list[Publication] = field(default_factory=list)
    """All that another replica consumed."""
    is_open: bool = False
    generation: int = 0
    settled: int = 0
    """The acknowledgement that is on its way."""
    _last_tag: int = 0

    def publish(self, publication: Publication) -> list[Publication]:
        """Take a message: those dropped for it."""
        self.history.append(publication)
        self.copies.append(Copy(publication))
        return self._trim()

    def open(self, generation: int) -> int:
        """A channel that is about to consume: the messages ready."""
        assert not self.is_open
        self.is_open = True
        self.generation = generation
        self.settled = self._last_tag = 0
        return self.ready

    def deliver(self) -> Copy | None:
        """The next delivery, if there is one within the prefetch."""
        if not self.is_open or sum(copy.tag is not None for copy in self.copies) >= PREFETCH:
            return None
        for copy in self.copies:
            if copy.tag is None:
                self._last_tag += 1
                copy.tag = self._last_tag
                return copy
        return None

    def unsettled(self, upto: int) -> list[Copy]:
        """The deliveries that an acknowledgement of `upto` with `multiple` covers."""
        return [c for c in self.copies if c.tag is not None and self.settled < c.tag <= upto]

    def acknowledge(self) -> bool:
        """The acknowledgement on its way arrives: whether it removed anything."""
        before = len(self.copies)
        self.copies = [copy for copy in self.copies if copy.tag is None or copy.tag > self.settled]
        return len(self.copies) < before

    def close(self) -> list[Publication]:
        """The channel is gone: what was unsettled is ready again; those dropped for that."""
        self.is_open = False
        self.settled = 0
        for copy in self.copies:
            if copy.tag is not None:
                copy.tag, copy.redelivered = None, True
        return self._trim()

    def take(self, copy: Copy) -> None:
        """Another replica consumed it."""
        self.copies.remove(copy)
        self.taken.append(copy.publication)

    @property
    def ready(self) -> int:
        """Messages that are not with a consumer; only these count against the limit."""
        return sum(copy.tag is None for copy in self.copies)

    def lost_for_good(self, event: EventId) -> bool:
        """Whether every copy of the event was dropped."""
        published = [p for p in self.history if p.event and p.event.id == event]
        return all(p in self.dropped for p in published)

    def _trim(self) -> list[Publication]:
        dropped = []
        while self.ready > LIMIT:
            oldest = next(copy for copy in self.copies if copy.tag is None)
            self.copies.remove(oldest)
            dropped.append(oldest.publication)
        self.dropped += dropped
        return dropped


@dataclass(slots=True, eq=False)
class Client:
    """A connection: what was written to it lies on the wire until it is read, and so do its answers."""

    member: Member
    joined: int
    """Position of the last publication before it joined the room."""
    made_queue: bool = False
    """Its device's queue was made for this connection."""
    queue_open: bool = False
    """Its device's session has opened once."""
    owed: set[EventId] = field(default_factory=set)
    """What the shared queue held when its device's queue was made."""
    sent: list[EventId] = field(default_factory=list)
    last_position: int = 0
    """Of the publication written last."""
    read: list[EventId] = field(default_factory=list)
    gaps: list[int | None] = field(default_factory=list)
    _outbox: list[EventId | int] = field(default_factory=list)
    _wire: deque[EventId | int] = field(default_factory=deque)
    _pongs: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def id(self) -> ConnectionId:
        return self.member.id

    @property
    def device(self) -> str | None:
        return self.member.device

    @property
    def mode(self) -> str:
        return self.member.receipts.mode

    def may_get(self, event: Event) -> bool:
        """Whether the event is for this connection."""
        return event.excluded != self.id and event.user in (None, self.member.user)

    def write(self, event: Event) -> None:
        """As `ClientConnection.write`: the frame, and a PING if one is due within a burst."""
        self.sent.append(event.id)
        number = self.member.receipts.sent(event.id, len(event.message))
        self._outbox.append(event.id)
        if number is not None:
            self._outbox.append(number)

    def ping(self) -> None:
        """As `ClientConnection.heartbeat_due`."""
        if not self.member.receipts.waiting and self.mode != "none":
            self._outbox.append(self.member.receipts.ping())

    def flush(self) -> None:
        """The end of a loop turn: what was written leaves, a PING behind it."""
        if (number := self.member.receipts.ping_due()) is not None:
            self._outbox.append(number)
        self._wire += self._outbox
        self._outbox.clear()

    def receive(self, frames: int) -> list[EventId]:
        """The client reads from the wire and answers PINGs: the events it read."""
        before = len(self.read)
        for _ in range(min(frames, len(self._wire))):
            frame = self._wire.popleft()
            if isinstance(frame, int):
                self._pongs.append((frame, len(self.read)))
            else:
                self.read.append(frame)
        return self.read[before:]

    @property
    def answers(self) -> bool:
        """Whether a PONG is on its way."""
        return bool(self._pongs)

    @property
    def can_answer(self) -> bool:
        """Whether it has anything to say: a PONG, or an acknowledgement."""
        return self.answers or (self.mode == "ack" and bool(self.read))

    def answer(self, *, latest: bool) -> tuple[int, list[EventId]]:
        """A PONG arrives, the oldest or (RFC 6455 §5.5.3) only the latest: its number, the events read before it."""
        number, read = self._pongs[-1] if latest else self._pongs[0]
        while self._pongs and self._pongs[0][0] <= number:
            self._pongs.popleft()
        return number, self.read[:read]

    @property
    def idle(self) -> bool:
        """Whether nothing is on the way in either direction."""
        return not (self._outbox or self._wire or self._pongs)


def ids_of(publications: Iterable[Publication]) -> set[EventId]:
    """The ids of those that can be received."""
    return {p.event.id for p in publications if p.event and p.deliverable}
