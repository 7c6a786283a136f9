"""Identifiers that cross the wire, and what makes each of them valid."""

import re
from typing import Annotated, Final, NewType

from pydantic import Field

DiagnosisId = NewType("DiagnosisId", int)
UserId = NewType("UserId", int)
EventId = NewType("EventId", str)
ConnectionId = NewType("ConnectionId", str)
ClientId = NewType("ClientId", str)

MAX_ID: Final = 2**63 - 1
"""Identifiers fit PostgreSQL's `bigint`."""

MAX_EVENT_ID: Final = 128
"""Characters in an event id (AMQP `message_id`); they must be printable."""

DiagnosisIdField = Annotated[DiagnosisId, Field(ge=1, le=MAX_ID, strict=True, description="The diagnosis.")]
UserIdField = Annotated[UserId, Field(ge=1, le=MAX_ID, strict=True, description="The user.")]
EventIdField = Annotated[
    EventId,
    Field(
        min_length=1,
        max_length=MAX_EVENT_ID,
        description="Names the event, in printable characters; it never changes: clients de-duplicate by it.",
    ),
]

CLIENT_ID_PATTERN: Final = r"^[A-Za-z0-9._-]{1,128}$"

_CLIENT_ID = re.compile(CLIENT_ID_PATTERN.removesuffix("$") + r"\Z")
_DIGITS = re.compile(r"[1-9][0-9]{0,18}\Z")


def parse_diagnosis_id(text: str) -> DiagnosisId | None:
    """Read an id from a URL or a routing key: decimal digits, no sign, no leading zero, 1 … 2**63-1."""
    if not _DIGITS.match(text) or (number := int(text)) > MAX_ID:
        return None
    return DiagnosisId(number)


def parse_client_id(text: str) -> ClientId | None:
    """Read the name a device gives itself: 1–128 characters of `A-Za-z0-9._-`."""
    return ClientId(text) if _CLIENT_ID.match(text) else None


def parse_event_id(text: str) -> EventId | None:
    """Read an AMQP `message_id`: 1–128 printable characters, kept as they are."""
    return EventId(text) if 0 < len(text) <= MAX_EVENT_ID and text.isprintable() else None
