"""A replica leaves: its clients are told to come back elsewhere, batch by batch, each once it has proved what it has.

Law: nobody is kept beyond the time for it, and nobody is forgotten: whatever ends the drain, the last step is to end
every connection that is left.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from contracts.close_codes import CloseCode

BALANCER_SHARE: Final = 0.3
"""The part of a drain in which balancers notice `/readyz`; nobody is sent away yet."""
SPREAD_SHARE: Final = 0.6
"""The part over which the clients are spread, so that the other replicas are not stormed. In the rest, those that still
owe a proof may give it: what is unproven when a connection ends is sent again elsewhere."""
STEP_SECONDS: Final = 0.1
"""Between two batches."""


class Leaving(Protocol):
    """A connection."""

    def end_when_proven(self, code: CloseCode) -> None:
        """Send no more events, and close as soon as nothing is unproven: now, or with a proof that comes."""

    def end(self, code: CloseCode) -> None:
        """Close now, unless it is closed."""


async def send_away(connections: Callable[[], Sequence[Leaving]], seconds: float) -> None:
    """End all connections (1012) within `seconds`; at once when cancelled. Returns when none is left."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        if connections():
            await asyncio.sleep(seconds * BALANCER_SHARE)
        staying = connections()
        batches = max(1, min(len(staying), int(seconds * SPREAD_SHARE / STEP_SECONDS)))
        for batch in range(batches):
            if batch:
                await asyncio.sleep(STEP_SECONDS)
            for connection in staying[batch::batches]:
                connection.end_when_proven(CloseCode.RESTARTING)
        for _ in range(round((deadline - loop.time()) / STEP_SECONDS)):
            if not connections():
                return
            await asyncio.sleep(STEP_SECONDS)
    finally:
        for connection in connections():
            connection.end(CloseCode.RESTARTING)
