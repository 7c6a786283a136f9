"""Stand-ins for the outside world. Each passes the same tests as the adapter it stands for."""

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contracts.events import EventBody
from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from realtime_service.cluster import Counted
from realtime_service.domain.errors import BrokerUnavailable, DatabaseUnavailable, PublishError


class FakeOwnership:
    """A dictionary of diagnoses and their patients; a `domain.ports.Ownership`."""

    def __init__(self, owners: Mapping[int, int] | None = None) -> None:
        self.owners = dict(owners or {})
        self.available = True
        """False: every call raises `DatabaseUnavailable`, as an adapter does whose database is away."""
        self.asked: Counter[int] = Counter()
        """How often each diagnosis was asked about."""

    async def owner_of(self, diagnosis_id: DiagnosisId) -> UserId | None:
        return (await self.owners_of([diagnosis_id])).get(diagnosis_id)

    async def owners_of(self, diagnosis_ids: Iterable[DiagnosisId]) -> dict[DiagnosisId, UserId]:
        if ids := list(diagnosis_ids):
            self.asked.update(ids)
            await self.ping()
        return {known: UserId(self.owners[known]) for known in ids if known in self.owners}

    async def ping(self) -> None:
        if not self.available:
            raise DatabaseUnavailable("the database did not answer in time")


@dataclass(frozen=True)
class Published:
    """What `FakeEventSink` was given, and the id it answered."""

    body: EventBody
    event_id: EventId
    user_id: UserId | None
    exclude_connection_id: ConnectionId | None
    traceparent: str | None


class FakeEventSink:
    """Remembers what was published; a `web.ports.EventSink`."""

    def __init__(self) -> None:
        self.published: list[Published] = []
        self.available = True
        """False: every publish raises `PublishError`, as without a confirm."""

    async def publish(
        self,
        body: EventBody,
        *,
        event_id: EventId | None = None,
        user_id: UserId | None = None,
        exclude_connection_id: ConnectionId | None = None,
        traceparent: str | None = None,
    ) -> EventId:
        if not self.available:
            raise PublishError("the broker did not confirm the event in time")
        event_id = event_id or EventId(str(uuid.uuid4()))
        self.published.append(Published(body, event_id, user_id, exclude_connection_id, traceparent))
        return event_id


class FakeCensus:
    """A dictionary of connection counts; a `web.ports.Census`."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts = dict(counts or {})
        self.unsettled: dict[int, int] = {}
        self.silent: list[str] = []

    async def census(self) -> Counted:
        connections = {DiagnosisId(diagnosis): count for diagnosis, count in self.counts.items()}
        unsettled = {DiagnosisId(diagnosis): count for diagnosis, count in self.unsettled.items()}
        return Counted(connections, unsettled, self.silent)


class FakeBacklogs:
    """A dictionary of waiting events; a `web.ports.Backlogs`."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts = dict(counts or {})
        self.truncated = False
        self.available = True
        """False: raises `BrokerUnavailable`."""

    async def waiting(self) -> tuple[dict[DiagnosisId, int], bool]:
        if not self.available:
            raise BrokerUnavailable("no connection to the broker")
        return {DiagnosisId(diagnosis): count for diagnosis, count in self.counts.items()}, self.truncated


class FakeReadiness:
    """What a test says about the parts; a `web.ports.Readiness`."""

    def __init__(self, **checks: str) -> None:
        self.checks = checks

    async def check(self) -> dict[str, str]:
        return dict(self.checks)
