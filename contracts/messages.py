"""What travels over a WebSocket: JSON text frames, told apart by `type`.

Server to client every frame is a `WebSocketMessage`: type, diagnosis, time, data; an event adds its id.
Client to server there are three frames, and a client that sends none of them is served all the same.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import to_json

from contracts.events import EventType
from contracts.ids import ConnectionId, DiagnosisId, DiagnosisIdField, EventId, EventIdField

SUBPROTOCOL: Final = "realtime.v1"
BEARER_SUBPROTOCOL: Final = "bearer."
"""A token may be offered as sub-protocol `bearer.<jwt>` beside SUBPROTOCOL, which is the one answered."""

MAX_FRAME_BYTES: Final = 4 * 1024
"""A client's frame; larger ones end the connection with 1009."""
MAX_AUTH_FRAME_BYTES: Final = 16 * 1024
"""An `auth` frame: tokens can be large."""

ReceiptMode = Literal["pong", "ack", "none"]


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(unix_seconds: float) -> str:
    """RFC 3339, UTC, milliseconds: `2026-11-22T10:00:00.000Z`.

    Raises ValueError (NaN) or OverflowError for what is no moment of the years 1 to 9999.
    """
    seconds, milliseconds = divmod(round(unix_seconds * 1000), 1000)
    return f"{_second(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=64)
def _second(unix_seconds: int) -> str:
    """Most events that pass within a second were published within it."""
    return (_EPOCH + timedelta(seconds=unix_seconds)).isoformat(timespec="seconds").removesuffix("+00:00")


class Frame(BaseModel):
    """A JSON object with a `type`."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class WebSocketMessage(Frame):
    """A frame from server to client."""

    type: str
    """Tells the frames apart; a client ignores a type it does not know."""
    diagnosis_id: DiagnosisIdField
    timestamp: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """RFC 3339, UTC, milliseconds: of an event when it was published, of any other frame when it was sent."""
    data: Any

    def to_bytes(self) -> bytes:
        """UTF-8 JSON, the payload of a text frame."""
        return self.model_dump_json().encode()


class WelcomeData(Frame):
    """What a client may count on from here."""

    connection_id: ConnectionId
    """Names this connection, for the logs and for publishers that leave it out (`exclude_connection_id`)."""
    queued_messages: int
    """Events that wait for this client; they follow, in order."""
    gap: bool
    """The backlog was full: older events may be gone."""
    resumed: bool
    """False: this device's queue was made just now, it has no past."""
    receipts: ReceiptMode
    """How arrival is proved: WebSocket PONG, `ack` frames, or not at all."""
    window: int
    """Events sent before the first must be proved."""
    receipt_timeout_seconds: float
    """Without progress for this long while something is unproven, the connection is closed with 4408."""
    heartbeat_seconds: float
    """The server's WebSocket PINGs are at most this far apart: silence for longer means a dead connection."""


class Welcome(WebSocketMessage):
    """The welcome: the first frame, once the client may watch the diagnosis."""

    type: Literal["connect"] = "connect"
    data: WelcomeData


class EventMessage(WebSocketMessage):
    """An event; `data` is the published body without `diagnosis_id`."""

    type: EventType
    event_id: EventIdField
    data: dict[str, Any]
    redelivered: Annotated[Literal[True] | None, Field(exclude_if=lambda value: value is None)] = None
    """Present when this event was, or may have been, sent on another connection before."""


_BEGINNINGS: Final = {kind: f'{{"type":"{kind}","diagnosis_id":'.encode() for kind in EventType}


def event_message(
    kind: EventType, diagnosis: DiagnosisId, event: EventId, timestamp: str, data: bytes
) -> bytes:
    """What `EventMessage.to_bytes` says; `data` is JSON already: it was read once, and is not taken apart."""
    return b'%b%d,"timestamp":"%b","data":%b,"event_id":%b}' % (
        _BEGINNINGS[kind],
        diagnosis,
        timestamp.encode(),
        data,
        to_json(event),
    )


class GapData(Frame):
    """What is known of the loss."""

    evicted: int | None
    """How many events were dropped while connected; null: unknown."""


class Gap(WebSocketMessage):
    """Events were dropped that this client will not get."""

    type: Literal["gap"] = "gap"
    data: GapData


class Pong(WebSocketMessage):
    """Answer to a client's `ping` frame."""

    type: Literal["pong"] = "pong"
    data: dict[str, Any] = Field(default_factory=dict)
    """Empty."""


class ErrorData(Frame):
    """What was wrong with a frame."""

    code: str
    """For programs: lower-case words joined by `_`."""
    message: str
    """For people; the frame is not quoted in it."""


class ErrorMessage(WebSocketMessage):
    """A client's frame could not be used; the connection lives."""

    type: Literal["error"] = "error"
    data: ErrorData


class Ping(Frame):
    """Keep-alive of clients that cannot send WebSocket PINGs; the bare text `ping` is the same."""

    type: Literal["ping"] = "ping"


class Ack(Frame):
    """This event, and all sent before it on this connection, were handled. Unknown ids are ignored."""

    type: Literal["ack"] = "ack"
    event_id: EventIdField


class Auth(Frame):
    """The token as first frame, or a new one before the old expires."""

    type: Literal["auth"] = "auth"
    token: str
    """A JWT; the frame may have up to 16 KiB."""


ClientFrame = Ping | Ack | Auth
CLIENT_FRAME: Final[TypeAdapter[ClientFrame]] = TypeAdapter(
    Annotated[ClientFrame, Field(discriminator="type")]
)
SERVER_MESSAGES: Final = (Welcome, EventMessage, Gap, Pong, ErrorMessage)
