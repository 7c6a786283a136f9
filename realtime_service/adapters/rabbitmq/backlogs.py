"""How many events wait for each diagnosis: `realtime_service.web.ports.Backlogs` over RabbitMQ.

Law: asking never disturbs delivering. The broker is asked passively, on throw-away channels (404 closes a
channel), by one task at a time however many operators look, and for a bounded number of queues and seconds.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

import structlog
from aiormq.exceptions import ChannelNotFoundEntity

from contracts import topology
from contracts.ids import DiagnosisId
from realtime_service.adapters.management import ManagementApi, ManagementUnavailable
from realtime_service.adapters.rabbitmq.asking import throwaway_channel
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, translated
from realtime_service.domain.errors import BrokerUnavailable

log = structlog.get_logger(__name__)

MAX_SEEN: Final = 10_000
"""Diagnoses remembered, some 100 bytes each."""
MAX_ASKED: Final = 2_000
"""Queues asked for at once: 0.5 ms each (RabbitMQ 3.10.8, same machine)."""
ASK_SECONDS: Final = 3.0
"""How long the whole may take."""
MISSING_SECONDS: Final = 10.0
"""How long a queue that did not exist is not asked for: each such question costs a channel."""

_SHARED_QUEUES: Final = f"^{re.escape(topology.ANY_DIAGNOSIS.removesuffix('*'))}[0-9]+$"

Waiting = dict[DiagnosisId, int]


class QueueBacklogs:
    """Asks the shared queues. `connection` gives the broker connection of the moment, or None."""

    def __init__(
        self,
        connection: Callable[[], BrokerConnection | None],
        management: ManagementApi | None = None,
        *,
        max_seen: int = MAX_SEEN,
        max_asked: int = MAX_ASKED,
        ask_seconds: float = ASK_SECONDS,
    ) -> None:
        self._connection = connection
        self._management = management
        self._max_seen = max_seen
        self._max_asked = max_asked
        self._ask_seconds = ask_seconds
        self._seen: dict[DiagnosisId, float] = {}  # not to be asked for before this moment; newest last
        self._asking: asyncio.Task[tuple[Waiting, bool]] | None = None

    def note(self, diagnosis: DiagnosisId) -> None:
        """This diagnosis exists, and may have a queue from now on."""
        self._seen.pop(diagnosis, None)
        self._seen[diagnosis] = 0.0
        if len(self._seen) > self._max_seen:
            del self._seen[next(iter(self._seen))]

    async def waiting(self) -> tuple[Waiting, bool]:
        """See `Backlogs.waiting`. Who comes while an answer is under way gets that one. Raises nothing.

        With the management API all waiting queues are named; a number that the broker could not be asked for
        is up to 5 s old. Without it, diagnoses that were never noted here may be missing.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="ask for backlogs")
        counts, truncated = await asyncio.shield(self._asking)
        return dict(counts), truncated  # each caller may do with theirs as they like

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self) -> tuple[Waiting, bool]:
        until = time.monotonic() + self._ask_seconds
        listed, complete = await self._listed()
        names = islice(dict.fromkeys([*listed, *self._worth_asking()]), self._max_asked)
        counts = {diagnosis: count for diagnosis, count in listed.items() if count is not None}
        complete = await self._count(names, counts, until) and complete
        return {diagnosis: count for diagnosis, count in counts.items() if count > 0}, not complete

    async def _listed(self) -> tuple[dict[DiagnosisId, int | None], bool]:
        """What the management API knows, and whether that is every waiting queue."""
        if self._management is None:
            return {}, False
        try:
            queues, complete = await self._management.waiting(_SHARED_QUEUES, self._max_seen)
        except ManagementUnavailable as error:
            log.warning("management_unavailable", error=str(error))
            return {}, False
        parsed = ((topology.parse_queue(name), count) for name, count in queues.items())
        return {queue[0]: count for queue, count in parsed if queue and queue[1] is None}, complete

    def _worth_asking(self) -> list[DiagnosisId]:
        """Diagnoses seen, the latest first, without those whose queue did not exist a moment ago."""
        now = time.monotonic()
        return [diagnosis for diagnosis in reversed(self._seen) if self._seen[diagnosis] <= now]

    async def _count(self, diagnoses: Iterable[DiagnosisId], counts: Waiting, until: float) -> bool:
        """Put what the broker says into `counts`; whether it answered to the end."""
        remaining = iter(diagnoses)
        try:
            with translated():
                async with asyncio.timeout(until - time.monotonic()):
                    while await self._count_on_one_channel(remaining, counts):
                        pass
        except BrokerUnavailable as error:
            log.warning("backlogs_not_counted", reason=str(error))
            return False
        return True

    async def _count_on_one_channel(self, remaining: Iterator[DiagnosisId], counts: Waiting) -> bool:
        """Ask until a queue does not exist, which closes the channel: True, there is more to ask."""
        with throwaway_channel(self._connection()) as channel:
            for diagnosis in remaining:
                try:
                    answer = await channel.queue_declare(topology.shared_queue(diagnosis), passive=True)
                except ChannelNotFoundEntity:
                    counts.pop(diagnosis, None)
                    if diagnosis in self._seen:
                        self._seen[diagnosis] = time.monotonic() + MISSING_SECONDS
                    return True
                counts[diagnosis] = answer.message_count or 0
        return False
