"""The clients of a large room: an event is noted once for all of them, and written to all in one pass.

Law: what a crowd is sent reaches each of it behind everything written to it before. Whoever is to be sent something of
its own steps out, and not before what the crowd was sent until then is written.

An event that comes alone is written at once. A pass over a thousand sockets takes some milliseconds, so a crowd rests
after each: what comes meanwhile leaves in one write for each client.
"""

import asyncio
import time
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
REST_PER_CLIENT_SECONDS: Final = 0.0001
LONGEST_REST_SECONDS: Final = 0.04
"""A rest is some ten times as long as the pass was, and too short to be seen."""
TOGETHER_SECONDS: Final = 0.002
"""Amid a stream, what another replica's crowd was written together comes one by one within this time."""
JOINED_BYTES: Final = 64 * 1024
JOINED_EVENTS: Final = 128
"""So much does not wait: a client takes it in one read, and RabbitMQ hands out twice as many events unproven."""
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
        self._frames: list[bytes] = []  # to be written
        self._gathered = 0  # bytes of them
        self._then: list[Callable[[], None]] = []  # called when they are
        self._loop = asyncio.get_running_loop()
        self._pass: asyncio.TimerHandle | None = None
        self._rested_at = 0.0  # by time.monotonic
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
        """Send an event to these members; to those in step when the crowd has rested, or enough is gathered."""
        if members != self._members or self._changes != self._log.changes:
            self._gather(members, connections)
        elif self._others and not self._frames:
            self._let_in(self._others)
        for connection in self._others:
            connection.send(event, frame)
        if not self._in_step:
            for connection in self._some(self._others):
                connection.ask()
            return
        self._log.append(event)
        was_enough = self._is_enough
        self._frames.append(frame)
        self._gathered += len(frame)
        if self._is_enough and not was_enough:
            self._plan_pass(0.0)
        elif len(self._frames) == 1:
            rested = time.monotonic() - self._rested_at
            self._plan_pass(max(TOGETHER_SECONDS, -rested) if rested < LONGEST_REST_SECONDS else 0.0)

    def once_written(self, call: Callable[[], None]) -> None:
        """Call when everything that was sent is written: now, if it is."""
        if self._frames:
            self._then.append(call)
        else:
            call()

    def flush(self) -> None:
        """Write what was sent to those in step, and ask some of them."""
        if not self._frames:
            return
        if self._pass is not None:
            self._pass.cancel()
        data = b"".join(self._frames)
        self._frames.clear()
        self._gathered = 0
        self._drop_those_out_of_step()
        for connection, write in self._in_step.items():
            try:
                write(data)
            except Exception as error:  # its transport is gone, and it will be in a moment
                log.debug("write_failed", connection=connection.member.id, error=type(error).__name__)
        self._log.written = self._log.end
        rest = min(len(self._in_step) * REST_PER_CLIENT_SECONDS, LONGEST_REST_SECONDS)
        self._rested_at = time.monotonic() + rest
        then, self._then = self._then, []
        for call in then:
            call()
        self._let_in(self._others)
        for connection in self._some(self._in_step):
            connection.ask_now()
        if not self._owing:
            self._owing = True
            self._loop.call_later(OWE_SECONDS, self._owe)
        self._untidy += len(data)
        if self._untidy >= TIDY_BYTES:
            self._tidy()

    def left(self, connection: Walker) -> None:
        """A connection is gone."""
        self._in_step.pop(connection, None)
        self._members = ()

    @property
    def _is_enough(self) -> bool:
        return self._gathered >= JOINED_BYTES or len(self._frames) >= JOINED_EVENTS

    def _plan_pass(self, seconds: float) -> None:
        if self._pass is not None:
            self._pass.cancel()
        self._pass = self._loop.call_later(seconds, self.flush)

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
        """Who can steps in. Nothing waits to be written: whoever stepped in would be written that, too."""
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
