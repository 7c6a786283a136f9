"""What one connection was sent and has not proved that it received.

Law: bytes written to a socket prove nothing. A WebSocket PING that carries a number is written behind the frames; its
PONG proves everything written before it, because TCP and RFC 6455 §5.5.3 keep order. With `receipts=ack` the client's
own word proves instead, and PONGs only say that it lives.
"""

from typing import Final

from contracts.ids import EventId
from contracts.messages import ReceiptMode

PING_EVERY_BYTES: Final = 16 * 1024
"""A long burst is proved in parts, so that the window moves while the rest is still under way."""


class Receipts:
    """Numbers PINGs, remembers what each covers, turns PONGs and acks into proven event ids, in the order sent."""

    __slots__ = ("_asked", "_bytes", "_covered", "_sent", "answered", "mode")

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

    def __contains__(self, event: EventId) -> bool:
        """Whether the event was sent and is not proven."""
        return event in self._sent

    @property
    def unproven(self) -> int:
        """Events sent and not proven."""
        return len(self._sent)

    @property
    def owed(self) -> tuple[EventId, ...]:
        """Events sent and not proven, in the order sent."""
        return tuple(self._sent)

    @property
    def uncovered(self) -> bool:
        """Whether something was sent behind the last PING."""
        return bool(self._sent) and self._covered > self._asked

    @property
    def waiting(self) -> bool:
        """Whether the client owes something: a proof, or the PONG of a PING."""
        return bool(self._sent) or self.answered < self._asked

    def sent(self, event: EventId, size: int) -> None:
        """Note an event as written, `size` bytes."""
        self._covered = self._sent[event] = self._asked + 1
        self._bytes += size

    def ping_due(self, *, more_follows: bool) -> int | None:
        """The number of the PING to write behind what was written; None when none is needed now.

        One is due every 16 KiB, and, at the end of what is to be written, when none is outstanding.
        """
        if self.mode != "pong" or not self.uncovered:
            return None
        if self._bytes >= PING_EVERY_BYTES or (not more_follows and self.answered == self._asked):
            return self.ping()
        return None

    def ping(self) -> int:
        """The number of a PING to be written now; it covers all that was written before."""
        self._asked += 1
        self._bytes = 0
        return self._asked

    def pong(self, number: int) -> list[EventId]:
        """The PONG of PING `number` came: what it proves. A number never asked, or answered before, proves nothing."""
        if not self.answered < number <= self._asked:
            return []
        self.answered = number
        if self.mode != "pong":
            return []
        return self._take(number)

    def ack(self, event: EventId) -> list[EventId]:
        """The client handled `event` and all before it: what that proves. Unknown ids prove nothing."""
        if self.mode != "ack" or event not in self._sent:
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
