"""Clients whose proofs decide nothing are read less often.

In a large room one client's proof settles an event, and nobody waits for the others' proofs of the same. Whoever has
given such a proof by itself is not read again before the next tick, or before it is asked: what it acknowledges
meanwhile then comes in one read. Whoever proves something first is read at once.
"""

import asyncio
from typing import Final, Protocol

REST_SECONDS: Final = 0.2
"""How much later a frame of a client of a large room may be seen."""


class Reading(Protocol):
    """What reads a client's frames. Both calls do no harm when its socket is closed, or is in that state already."""

    def pause_reading(self) -> None:
        """Leave what comes in the socket's buffer."""

    def resume_reading(self) -> None:
        """Read it, and what comes from now on."""


class Rests:
    """Those that are not read for now, of all rooms: one timer for all."""

    def __init__(self, seconds: float) -> None:
        """`seconds` between ticks: well below the receipt time-out, for a proof may lie unread so long."""
        self._seconds = seconds
        self._resting: list[Reading] = []

    def rest(self, reading: Reading) -> None:
        """Do not read this client before the next tick."""
        if not self._resting:
            asyncio.get_running_loop().call_later(self._seconds, self._wake)
        reading.pause_reading()
        self._resting.append(reading)

    def _wake(self) -> None:
        resting, self._resting = self._resting, []
        for reading in resting:
            reading.resume_reading()
