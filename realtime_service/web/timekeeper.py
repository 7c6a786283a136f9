"""Deadlines of all connections, kept by one task: an idle connection has no timer of its own.

Each kind of deadline has one length, so a dictionary in order of last touch is in order of deadline too; a look costs
only what is due.
"""

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count
from typing import Final, Protocol

TICK_SECONDS: Final = 0.25
"""How late a deadline may be noticed."""
ASK_SECONDS: Final = 2.0
"""How long a client of a large room is sent events before it is asked whether it has them."""
SPARE_EXPIRIES: Final = 1000
"""Expiries of connections that ended which may be kept, beside one for each connection."""


class Timed(Protocol):
    """A connection as its deadlines see it."""

    def receipt_overdue(self) -> None:
        """Nothing was proved for the receipt time-out although something is owed."""

    def ask_due(self) -> None:
        """What was sent was not asked for yet, and it is time."""

    def heartbeat_due(self) -> None:
        """Nothing was heard for the heartbeat interval."""

    def token_expired(self, expires_at: float) -> None:
        """The moment at which a token expires, Unix seconds, has come."""


class Timekeeper:
    """Watches receipts, heartbeats and token expiry."""

    def __init__(self, *, receipt_timeout_seconds: float, heartbeat_seconds: float) -> None:
        self._receipt_timeout = receipt_timeout_seconds
        self._heartbeat = heartbeat_seconds
        self._ask_after = min(ASK_SECONDS, receipt_timeout_seconds / 2.5)
        self._owing: dict[Timed, float] = {}
        self._unasked: dict[Timed, float] = {}
        self._quiet: dict[Timed, float] = {}
        self._expiring: list[tuple[float, int]] = []  # a heap; numbers without a connection are passed over
        self._numbers = count()
        self._number_of: dict[Timed, int] = {}
        self._numbered: dict[int, Timed] = {}

    def owes(self, connection: Timed) -> None:
        """The connection made progress, or began to owe a proof: its time starts now."""
        self._owing.pop(connection, None)
        self._owing[connection] = time.monotonic() + self._receipt_timeout

    def begins_to_owe(self, connection: Timed) -> None:
        """Its time starts now unless it runs already."""
        if connection not in self._owing:
            self.owes(connection)

    def owes_nothing(self, connection: Timed) -> None:
        """Everything is proved."""
        self._owing.pop(connection, None)

    def asks_later(self, connection: Timed) -> None:
        """The connection was sent something; it is asked for a proof in a while, of that and of what follows."""
        if connection not in self._unasked:
            self._unasked[connection] = time.monotonic() + self._ask_after

    def heard(self, connection: Timed) -> None:
        """Something came from the client."""
        self._quiet.pop(connection, None)
        self._quiet[connection] = time.monotonic() + self._heartbeat

    def expires(self, connection: Timed, at: float) -> None:
        """The connection's token expires at `at`, Unix seconds; what was said before does not count any more."""
        self._forget_expiry(connection)
        number = self._number_of[connection] = next(self._numbers)
        self._numbered[number] = connection
        heapq.heappush(self._expiring, (at, number))

    def forget(self, connection: Timed) -> None:
        """The connection ended."""
        self._owing.pop(connection, None)
        self._unasked.pop(connection, None)
        self._quiet.pop(connection, None)
        self._forget_expiry(connection)

    async def run(self, tell_lag: Callable[[float], None] = lambda _: None) -> None:
        """Look at what is due, for ever; after this process stood still, only once it has heard what came meanwhile."""
        late = False
        while True:
            began = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            took = time.monotonic() - began
            tell_lag(max(0.0, took - TICK_SECONDS))
            late = not late and took > 2 * TICK_SECONDS
            if not late:
                self.look(time.monotonic(), time.time())

    def look(self, now: float, wall: float) -> None:
        """Tell every connection whose deadline has come. `now` of `time.monotonic`, `wall` in Unix seconds."""
        self._due(self._owing, now, lambda connection: connection.receipt_overdue())
        self._due(self._unasked, now, lambda connection: connection.ask_due())
        self._due(self._quiet, now, lambda connection: connection.heartbeat_due())
        while self._expiring and self._expiring[0][0] <= wall:
            at, number = heapq.heappop(self._expiring)
            if connection := self._numbered.pop(number, None):
                del self._number_of[connection]
                connection.token_expired(at)

    def _forget_expiry(self, connection: Timed) -> None:
        """A token may be good for years, and its connections come and go: they are not kept for as long."""
        if (number := self._number_of.pop(connection, None)) is not None:
            del self._numbered[number]
            if len(self._expiring) > 2 * len(self._numbered) + SPARE_EXPIRIES:
                self._expiring = [entry for entry in self._expiring if entry[1] in self._numbered]
                heapq.heapify(self._expiring)

    @staticmethod
    def _due(deadlines: dict[Timed, float], now: float, tell: Callable[[Timed], None]) -> None:
        due = []
        for connection, deadline in deadlines.items():
            if deadline > now:
                break
            due.append(connection)
        for connection in due:
            deadlines.pop(connection, None)
            tell(connection)
