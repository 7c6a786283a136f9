"""The clients of a large room: an event is noted once for all of them, and written to all in one pass.

Law: what a crowd is sent reaches each of it behind everything written to it before. Whoever is to be sent something of
its own steps out, and not before what the crowd was sent until then is written.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final, Protocol

import structlog

from contracts.ids import ConnectionId, EventId
from realtime_service.domain.receipts import CrowdLog
from realtime_service.domain.room import Member

log = structlog.get_logger(__name__)

CROWD: Final = 32
"""Connections of a room from which on not each is asked for a proof of each event: it is asked every two seconds."""
ASKED_OF_A_CROWD: Final = 4
"""So many, in turn, are asked at once: one proof settles the event."""
OWE_SECONDS: Final = 0.25
"""How late the clocks of a crowd's receipts may start."""
TIDY_BYTES: Final = 32 * 1024
"""After so many bytes the log is shortened, and what is unsent is looked at."""


class Walker(Protocol):
    """A connection that may walk in step with others. Every call returns at once."""

    member: Member

    def send(self, event: EventId, frame: bytes) -> None:
        """Send an event's frame to this one alone."""

    def ask(self) -> None:
        """Ask for a proof of what was sent with the next write, not some time later."""

    def step_in(self, log: CrowdLog) -> bool:
        """Be sent what the crowd is sent, from here on. False: it cannot, for now."""

    def writer(self) -> Callable[[bytes], object]:
        """What hands bytes to its socket."""

    def ask_now(self) -> None:
        """Ask for a proof of what was written, unless it is being asked; one that says so by itself is listened to."""

    def owes(self) -> None:
        """Something was written to it: its clock starts, unless it runs."""

    def end_if_slow(self) -> None:
        """End if too much of what was written is unsent."""


class Crowd:
    """The clients of one diagnosis that are sent the same."""

    def __init__(self) -> None:
        self._log = CrowdLog()
        self._members: tuple[Member, ...] = ()
        self._in_step: dict[Walker, Callable[[bytes], object]] = {}
        self._others: list[Walker] = []
        self._changes = 0  # of the log, when these were gathered
        self._frames: list[bytes] = []
        self._owing = False
        self._turn = 0
        self._untidy = 0

    def send(
        self,
        event: EventId,
        frame: bytes,
        members: tuple[Member, ...],
        connections: Mapping[ConnectionId, Walker],
    ) -> None:
        """Send an event to these members; to those in step it is written at the end of this loop turn."""
        if members != self._members or self._changes != self._log.changes:
            self._gather(members, connections)
        elif self._others:
            self._let_in(self._others)
        for connection in self._others:
            connection.send(event, frame)
        if not self._in_step:
            for connection in self._some(self._others):
                connection.ask()
            return
        self._log.append(event)
        if not self._frames:
            asyncio.get_running_loop().call_soon(self.flush)
        self._frames.append(frame)

    def flush(self) -> None:
        """Write what was sent to those in step, and ask some of them."""
        if not self._frames:
            return
        data = b"".join(self._frames)
        self._frames.clear()
        self._drop_those_out_of_step()
        for connection, write in self._in_step.items():
            try:
                write(data)
            except Exception as error:  # its transport is gone, and it will be in a moment
                log.debug("write_failed", connection=connection.member.id, error=type(error).__name__)
        self._log.written = self._log.end
        for connection in self._some(self._in_step):
            connection.ask_now()
        if not self._owing:
            self._owing = True
            asyncio.get_running_loop().call_later(OWE_SECONDS, self._owe)
        self._untidy += len(data)
        if self._untidy >= TIDY_BYTES:
            self._tidy()

    def left(self, connection: Walker) -> None:
        """A connection is gone."""
        self._in_step.pop(connection, None)
        self._members = ()

    def _gather(self, members: tuple[Member, ...], connections: Mapping[ConnectionId, Walker]) -> None:
        self.flush()
        wanted = [connections[each.id] for each in members if each.id in connections]
        before, self._in_step = self._in_step, {}
        self._members, self._others = members, []
        self._let_in(wanted)
        for connection in before:
            if connection not in self._in_step:
                connection.member.receipts.step_out()
                connection.owes()
        self._changes = self._log.changes

    def _let_in(self, waiting: list[Walker]) -> None:
        self._others = []
        for connection in waiting:
            if connection.step_in(self._log):
                self._in_step[connection] = connection.writer()
            else:
                self._others.append(connection)

    def _drop_those_out_of_step(self) -> None:
        if self._changes != self._log.changes:
            self._in_step = {
                connection: write
                for connection, write in self._in_step.items()
                if connection.member.receipts.place is not None
            }

    def _some(self, connections: Iterable[Walker]) -> list[Walker]:
        size = len(self._in_step) or len(self._others)
        self._turn = (self._turn + ASKED_OF_A_CROWD) % size if size else 0
        return list(islice(connections, self._turn, self._turn + ASKED_OF_A_CROWD))

    def _owe(self) -> None:
        self._owing = False
        for connection in self._in_step:
            connection.owes()

    def _tidy(self) -> None:
        self._untidy = 0
        for connection in list(self._in_step):
            connection.end_if_slow()
        places = [each.member.receipts.place for each in self._in_step]
        self._log.forget(min((place for place in places if place is not None), default=self._log.end))
