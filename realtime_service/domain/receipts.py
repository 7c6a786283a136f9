"""What one connection was sent and has not proved that it received.

Law: bytes written to a socket prove nothing. A WebSocket PING that carries a number is written behind the frames; its
PONG proves everything written before it, because TCP and RFC 6455 §5.5.3 keep order. With `receipts=ack` the client's
own word proves instead, and PONGs only say that it lives.

The clients of a large room are sent the same events. While nothing sets one apart it keeps no list of its own, but its
place in the crowd's: an event to a thousand clients is noted once.
"""

from typing import Final

from contracts.ids import EventId
from contracts.messages import ReceiptMode

PING_EVERY_BYTES: Final = 16 * 1024
"""A long burst is proved in parts, so that the window moves while the rest is still under way."""


class CrowdLog:
    """What all who are in step with each other were sent, in order. Places are counted from its beginning."""

    __slots__ = ("_dropped", "_events", "changes", "proven", "written")

    def __init__(self) -> None:
        self._events: list[EventId] = []
        self._dropped = 0  # events before these
        self.written = 0
        """What is before this place was handed to every socket; what is behind it will be, in a moment."""
        self.proven = 0
        """All that is before this place was proved by somebody, or is owed by nobody who is in step."""
        self.changes = 0
        """Counts those who fell out of step."""

    @property
    def end(self) -> int:
        """The place of the next event."""
        return self._dropped + len(self._events)

    def append(self, event: EventId) -> None:
        """Note an event for everybody in step."""
        self._events.append(event)

    def between(self, first: int, end: int) -> list[EventId]:
        """The events of these places."""
        return self._events[first - self._dropped : end - self._dropped]

    def place(self, event: EventId, first: int) -> int | None:
        """Where the event is, from a place on; None when it is not."""
        try:
            return self._events.index(event, first - self._dropped) + self._dropped
        except ValueError:
            return None

    def forget(self, first: int) -> None:
        """Drop what is before a place that everybody in step has passed."""
        del self._events[: first - self._dropped]
        self._dropped = first
        self.proven = max(self.proven, first)


class _Step:
    """A client's place in its crowd."""

    __slots__ = ("log", "marks", "place")

    def __init__(self, log: CrowdLog) -> None:
        self.log = log
        self.place = log.end
        """What is unproven begins here."""
        self.marks: dict[int, int] = {}
        """PINGs that were not answered: up to where in the log each of them covers."""

    @property
    def unproven(self) -> list[EventId]:
        return self.log.between(self.place, self.log.end)

    @property
    def covered(self) -> int:
        """Up to where the last PING covers."""
        return max(self.marks.values(), default=self.place)

    def answered(self, number: int) -> int:
        """Up to where the PINGs to that one cover."""
        answered = [asked for asked in self.marks if asked <= number]
        return max([self.place, *map(self.marks.pop, answered)])

    def proved_to(self, end: int) -> list[EventId]:
        """What is proven now that nobody of the crowd proved before."""
        first, self.place = self.place, end
        if first <= self.log.proven:
            first, self.log.proven = self.log.proven, max(end, self.log.proven)
        return self.log.between(first, end) if first < end else []


class Receipts:
    """Numbers PINGs, remembers what each covers, turns PONGs and acks into proven event ids, in the order sent."""

    __slots__ = ("_asked", "_bytes", "_covered", "_sent", "_step", "answered", "mode")

    def __init__(self, mode: ReceiptMode) -> None:
        self.mode: ReceiptMode = mode
        # What was sent and is not proven, in order, and the number of the PING that covers it. (An empty dictionary
        # takes a tenth of an empty deque, and there is one for each connection.)
        self._sent: dict[EventId, int] = {}
        self._covered = 0  # the number of the newest of them
        self._asked = 0
        self.answered = 0
        """Number of the last PING that was answered."""
        self._bytes = 0
        self._step: _Step | None = None  # in step with a crowd; nothing is in `_sent` then

    def __contains__(self, event: EventId) -> bool:
        """Whether the event was sent and is not proven."""
        if step := self._step:
            return step.log.place(event, step.place) is not None
        return event in self._sent

    @property
    def unproven(self) -> int:
        """Events sent and not proven."""
        return self._step.log.end - self._step.place if self._step else len(self._sent)

    @property
    def owed(self) -> tuple[EventId, ...]:
        """Events sent and not proven, in the order sent."""
        return tuple(self._step.unproven if self._step else self._sent)

    @property
    def uncovered(self) -> bool:
        """Whether something was sent behind the last PING."""
        if step := self._step:
            return step.log.written > step.covered
        return bool(self._sent) and self._covered > self._asked

    @property
    def waiting(self) -> bool:
        """Whether the client owes something: a proof, or the PONG of a PING."""
        return self.unproven > 0 or self.answered < self._asked

    # In step with a crowd

    @property
    def place(self) -> int | None:
        """From where on it owes a proof of what is in the log of its crowd; None: it is in step with nobody."""
        return self._step.place if self._step else None

    def step_in(self, log: CrowdLog) -> bool:
        """Be sent what that crowd is sent from here on, and nothing else. False: it owes something of its own."""
        if self._step is None and not self._sent:
            self._step = _Step(log)
        return self._step is not None

    def step_out(self) -> None:
        """Be sent events of one's own again, and of the crowd's nothing that is not written yet."""
        if (step := self._step) is None:
            return
        self._step = None
        step.log.changes += 1
        for place, event in enumerate(step.log.between(step.place, step.log.written), step.place):
            covering = [number for number, end in step.marks.items() if place < end]
            self._covered = self._sent[event] = min(covering, default=self._asked + 1)

    # Sending

    def sent(self, event: EventId, size: int) -> int | None:
        """Note an event as written, `size` bytes. Returns the number of the PING to write behind it: every 16 KiB."""
        if self._step:
            self.step_out()
        self._covered = self._sent[event] = self._asked + 1
        self._bytes += size
        return self.ping() if self._bytes >= PING_EVERY_BYTES and self.mode == "pong" else None

    def ping_due(self) -> int | None:
        """The number of the PING to write at the end of what is to be written; None while another is outstanding."""
        if self.answered != self._asked or self.mode != "pong" or not self.uncovered:
            return None
        return self.ping()

    def ping(self) -> int:
        """The number of a PING to be written now; it covers all that was written before."""
        self._asked += 1
        self._bytes = 0
        if self._step:
            self._step.marks[self._asked] = self._step.log.written
        return self._asked

    # Proofs

    def pong(self, number: int) -> list[EventId]:
        """The PONG of PING `number` came: what it proves. A number never asked, or answered before, proves nothing.

        Of what a crowd was sent: what none of it has proved before.
        """
        if not self.answered < number <= self._asked:
            return []
        self.answered = number
        if step := self._step:
            end = step.answered(number)
            return step.proved_to(end) if self.mode == "pong" else []
        return self._take(number) if self.mode == "pong" else []

    def ack(self, event: EventId) -> list[EventId]:
        """The client handled `event` and all before it: what that proves. Unknown ids prove nothing.

        Of what a crowd was sent: what none of it has proved before.
        """
        if self.mode != "ack":
            return []
        if step := self._step:
            place = step.log.place(event, step.place)
            return [] if place is None or place >= step.log.written else step.proved_to(place + 1)
        if event not in self._sent:
            return []
        sent = list(self._sent)
        proven = sent[: sent.index(event) + 1]
        for each in proven:
            del self._sent[each]
        return proven

    def assume(self) -> list[EventId]:
        """Take all that was written as received: for `receipts: none`, where no proof can be had."""
        return self._take(self._covered)

    def _take(self, number: int) -> list[EventId]:
        """What the PINGs up to `number` cover."""
        proven = []
        for event, covered_by in self._sent.items():
            if covered_by > number:
                break
            proven.append(event)
        for event in proven:
            del self._sent[event]
        return proven
