"""What the HTTP routes need from the rest of the service, in their own words."""

from typing import Protocol

from contracts.events import EventBody
from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from realtime_service.cluster import Counted


class EventSink(Protocol):
    """Where an accepted event goes."""

    async def publish(
        self,
        body: EventBody,
        *,
        event_id: EventId | None = None,
        user_id: UserId | None = None,
        exclude_connection_id: ConnectionId | None = None,
        traceparent: str | None = None,
    ) -> EventId:
        """Publish, and return the event's id after the broker's confirm; bounded in time.

        Raises `PublishError` when there was none: the event may be published again under the same id.
        """
        ...


class Census(Protocol):
    """Who is connected."""

    async def census(self) -> Counted:
        """What all replicas have that answer; bounded in time. Raises nothing."""
        ...


class Backlogs(Protocol):
    """What is ready in the queues; what was handed out and nobody has proven is the census' business."""

    async def waiting(self) -> tuple[dict[DiagnosisId, int], bool]:
        """Events waiting for each diagnosis that has any, and whether others may be missing.

        Bounded in time; raises a RealtimeError at most.
        """
        ...


class Readiness(Protocol):
    """Whether new work is welcome here."""

    async def check(self) -> dict[str, str]:
        """What was looked at: `ok`, or what is wrong in a word or two; bounded in time."""
        ...
