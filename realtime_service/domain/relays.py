"""The stream of a room's events between replicas: who leads it, where it stands, what it left out.

Every replica with clients of a diagnosis consumes its shared queue; the broker activates one of them, which relays
each event to the others. Law: relays carry (epoch, sequence). A replica that becomes active takes the time for its
epoch, or the highest it knows plus one, whichever is higher; what comes from a lower one is ignored: a replica that was
frozen and wakes up is a ghost, also to those who never heard of it. (The replicas' clocks may differ by less than one
of them is active.) A hole in the sequence is a gap for this replica's unnamed clients.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple


class Stamp(NamedTuple):
    """A place in the stream; they sort in the order of the stream."""

    epoch: int
    sequence: int


NOWHERE: Final = Stamp(0, 0)
"""Before the first event."""


def end_of(epoch: int) -> Stamp:
    """Behind every event of an epoch, before all of the next."""
    return Stamp(epoch + 1, 0)


Clock = Callable[[], int]
"""Microseconds since 1970; any clock that the replicas share, roughly."""


class Verdict(Enum):
    """What a relay is to this replica."""

    NEXT = "next"
    HOLE = "hole"
    """It is the next, and something before it is missing."""
    OLD = "old"
    """A ghost, or a repetition."""
    OVER = "over"
    """Of an epoch that had ended when this replica came: what was not settled of it comes again."""


class RelayStream:
    """Where a room stands in the stream."""

    __slots__ = ("_at", "_clock", "followed", "leading", "whole")

    def __init__(self, clock: Clock = lambda: 0) -> None:
        self._at = NOWHERE
        self._clock = clock
        self.leading = False
        """This replica is the active one."""
        self.followed = False
        """Another replica has been heard of."""
        self.whole = False
        """All others said where they stand: what anybody leads from now on comes here from its beginning."""

    @property
    def at(self) -> Stamp:
        """The last place known."""
        return self._at

    def lead(self) -> None:
        """The broker made this replica the active one."""
        self._at = Stamp(max(self._at.epoch + 1, self._clock()), 0)
        self.leading = True

    def next(self) -> Stamp:
        """The place of the next event of this, the active replica."""
        self._at = Stamp(self._at.epoch, self._at.sequence + 1)
        return self._at

    def follow(self, stamp: Stamp) -> Verdict:
        """Another replica relays the event at `stamp`."""
        before = self._at
        self.followed = True
        if stamp <= before or (self.leading and stamp.epoch == before.epoch):
            return Verdict.OLD
        if before == NOWHERE and self.whole and stamp.sequence > 1:
            return Verdict.OVER
        self._at = stamp
        self.leading = False
        if before == NOWHERE:  # newcomers asked for what was before, and not all answered
            return Verdict.HOLE if stamp.sequence > 1 else Verdict.NEXT
        expected = before.sequence + 1 if stamp.epoch == before.epoch else 1
        return Verdict.NEXT if stamp.sequence == expected else Verdict.HOLE

    def catch_up(self, stamp: Stamp) -> None:
        """Another replica says where it stands; what is before that comes with its answer.

        Who stands somewhere already stays there: what it missed is to be seen as a hole.
        """
        self.followed = True
        if self._at == NOWHERE:
            self._at = stamp
