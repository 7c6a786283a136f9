"""Asks again, while connections live, whether the diagnoses they watch are still their users'.

Law: who lost a diagnosis is told so within a minute; who cannot be asked about stays: a database that is away must not
end what it once allowed. One task, and one query for many diagnoses, whatever the number of connections.
"""

import asyncio
from typing import Final

import structlog

from contracts.close_codes import CloseCode
from contracts.ids import DiagnosisId
from realtime_service.domain.errors import DatabaseUnavailable
from realtime_service.domain.ports import Ownership
from realtime_service.hub import Hub

log = structlog.get_logger(__name__)

DIAGNOSES_AT_ONCE: Final = 1000
"""Asked about in one query: so many are a matter of milliseconds, and each query has the database's whole time-out."""


class OwnershipRecheck:
    """Looks at this replica's connections, all of them at each interval."""

    def __init__(self, ownership: Ownership, hub: Hub, *, interval_seconds: float) -> None:
        self._ownership = ownership
        self._hub = hub
        self._interval = interval_seconds
        self._away = False

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(self._interval)
            await self.look()

    async def look(self) -> None:
        """Ask about every diagnosis that is watched here, and close whoever may not watch it any more."""
        watched = list(self._hub.connections_by_diagnosis())
        try:
            for start in range(0, len(watched), DIAGNOSES_AT_ONCE):
                await self._look_at(watched[start : start + DIAGNOSES_AT_ONCE])
        except DatabaseUnavailable as error:
            self._hub.metrics.rechecks_failed.inc()
            if not self._away:
                log.warning("ownership_not_rechecked", reason=str(error))
            self._away = True
        else:
            self._away = False

    async def _look_at(self, diagnoses: list[DiagnosisId]) -> None:
        """Raises DatabaseUnavailable, and then nobody is closed."""
        # Taken before the question: who is admitted meanwhile was asked about later than what the answer says.
        connections = [each for diagnosis in diagnoses for each in self._hub.connections_of(diagnosis)]
        owners = await self._ownership.owners_of(diagnoses)
        for connection in connections:
            if owners.get(connection.diagnosis) != connection.member.user:
                self._hub.metrics.revoked.inc()
                connection.end(CloseCode.NOT_ALLOWED)
