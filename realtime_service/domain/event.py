"""An event on its way: read once at the edge, from here on bytes that every client gets alike."""

from dataclasses import dataclass, field

from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId

_REPEATED = b',"redelivered":true}'


@dataclass(slots=True)
class Event:
    """What a client is sent, and to whom it must not go."""

    id: EventId
    diagnosis: DiagnosisId
    message: bytes = field(repr=False)
    """UTF-8 JSON of `contracts.messages.EventMessage`, without `redelivered`."""
    user: UserId | None = None
    """A personal event: for this user's connections alone."""
    excluded: ConnectionId | None = None
    """This connection caused the event and does not need it."""
    published: float = field(default=0.0, compare=False)
    """Unix seconds by the publisher's clock; 0: it was not said, or the event was told by another replica."""

    trace: str | None = field(default=None, compare=False)
    """The publisher's `traceparent` (W3C Trace Context), as it came."""

    @property
    def repeated_message(self) -> bytes:
        """The message for a connection on which it may be a repeat: the same object with `redelivered` added."""
        return self.message[:-1] + _REPEATED
