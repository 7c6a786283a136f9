"""What a stretch of work cost, and what is made of it: the figures of a row."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from realtime_service.embedded.node import PrivateRabbitMQ
from tests.bench.processes import cpu_seconds

QUIET_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Target:
    """What a figure ought to be, said by one row of the table."""

    figure: str
    against: str | None
    """The subject whose figure it is divided by; None for the figure itself."""
    bound: float
    at_least: bool = True
    subject: str = "this service"


@dataclass(slots=True)
class Result:
    """A row: figures by subject, and what they ought to be. The first subject is this service."""

    row: str
    title: str
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    targets: Sequence[Target] = ()
    missing: list[str] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)
    """For the plots."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything: 1 is the full form."""

    scale: float = 1.0
    clients: int | None = None

    def of(self, full: int, least: int = 1) -> int:
        """A number of the full form, scaled."""
        return max(least, round(full * self.scale))

    def crowd(self, full: int) -> int:
        """A number of clients, scaled unless it was given."""
        return self.clients or self.of(full, 10)


@dataclass(slots=True)
class Bench:
    """What rows share."""

    node: PrivateRabbitMQ
    size: Size


class Cost:
    """CPU-seconds of servers from now on, until they have nothing more to do."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._before = cpu_seconds(*pids)

    async def until_quiet(self) -> float:
        """The cost until the servers use no more than a tick (10 ms) in 0.1 s; proofs and settlements are in it."""
        last = cpu_seconds(*self._pids)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    await asyncio.sleep(QUIET_SECONDS)
                    now = cpu_seconds(*self._pids)
                    if now - last < 0.011:
                        break
                    last = now
        return last - self._before


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; they are sorted."""
    return values[min(len(values) - 1, int(len(values) * share))]
