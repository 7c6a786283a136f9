"""The replaced module's `ConnectionManager`, with its operations by name, over rooms and the broker.

What is different: `broadcast` and `send_personal_message` publish. So an event reaches the clients on other replicas
and those who are offline too, and the call returns after the broker's confirm. No lock is shared between diagnoses.
"""

from typing import Any, Protocol

from pydantic_core import to_json

from contracts.events import BODIES, EventBody, EventType, parse_body
from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from contracts.messages import WebSocketMessage
from realtime_service.domain.errors import EventInvalid
from realtime_service.hub import Connection, Hub


class Events(Protocol):
    """Where an event goes: confirmed, or PublishError."""

    async def publish(
        self,
        body: EventBody,
        *,
        user_id: UserId | None = None,
        exclude_connection_id: ConnectionId | None = None,
    ) -> EventId: ...


class ConnectionManager:
    """The connections of this replica, and messages to a diagnosis wherever its clients are."""

    def __init__(self, hub: Hub, events: Events) -> None:
        self._hub = hub
        self._events = events

    async def connect(self, websocket: Connection) -> bool:
        """Bring an authenticated connection into its diagnosis' room; see `Hub.join`. Raises Disconnect."""
        return await self._hub.join(websocket)

    async def disconnect(self, websocket: Connection) -> None:
        """Take a connection out; what it had not proven waits for the next."""
        self._hub.leave(websocket)

    async def broadcast(
        self, diagnosis_id: int, message: WebSocketMessage, exclude_websocket: Connection | None = None
    ) -> EventId:
        """Send an event message to every client of a diagnosis, but for one. Returns its event id.

        Raises EventInvalid when it is no event message of this diagnosis, PublishError when it was not confirmed.
        """
        excluded = exclude_websocket.member.id if exclude_websocket else None
        return await self._events.publish(_body(diagnosis_id, message), exclude_connection_id=excluded)

    async def send_personal_message(
        self, diagnosis_id: int, user_id: int, message: WebSocketMessage
    ) -> EventId:
        """Send an event message to one user's clients. Raises like `broadcast`."""
        return await self._events.publish(_body(diagnosis_id, message), user_id=UserId(user_id))

    def get_connection_count(self, diagnosis_id: int) -> int:
        """Connections of a diagnosis on this replica."""
        return len(self._hub.connections_of(DiagnosisId(diagnosis_id)))

    def get_all_connections_info(self) -> dict[str, Any]:
        """Totals and counts of this replica, in the shape of `GET /ws/status`."""
        counts = self._hub.connections_by_diagnosis()
        return {
            "total_diagnoses": len(counts),
            "total_connections": sum(counts.values()),
            "connections_by_diagnosis": {str(diagnosis): count for diagnosis, count in counts.items()},
            "queued_messages_by_diagnosis": {
                str(d): count for d, count in self._hub.pending_by_diagnosis().items()
            },
        }


def _body(diagnosis_id: int, message: WebSocketMessage) -> EventBody:
    try:
        kind = EventType(message.type)
        if message.diagnosis_id != diagnosis_id or not isinstance(message.data, dict):
            raise EventInvalid("the message is about another diagnosis, or its data is no object")
        return parse_body(kind, to_json({**message.data, "diagnosis_id": diagnosis_id}))
    except ValueError as error:
        kinds = ", ".join(BODIES)
        raise EventInvalid(
            f"{error}" if message.type in BODIES else f"type must be one of {kinds}"
        ) from error


_running: list[ConnectionManager] = []


def get_connection_manager() -> ConnectionManager:
    """The one instance of the service that runs in this process. Raises RuntimeError when none does."""
    if not _running:
        raise RuntimeError(
            "no realtime service runs in this process; upstream tasks use realtime_service.publisher"
        )
    return _running[-1]


def set_running(manager: ConnectionManager | None) -> None:
    """Called by the service when it starts, and with None when it ends."""
    _running.clear()
    if manager is not None:
        _running.append(manager)
