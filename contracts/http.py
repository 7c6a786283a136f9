"""What travels over HTTP: the replaced module's broadcast routes, the status route, RFC 9457 problems."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.events import EventType
from contracts.ids import DiagnosisIdField, EventIdField

BROADCAST_ROUTES: Final[dict[EventType, str]] = {
    EventType.RECOMMENDATION: "/ws/broadcast-recommendation-update",
    EventType.EFFECTIVENESS: "/ws/broadcast-effectiveness-update",
    EventType.FEEDBACK: "/ws/broadcast-feedback-update",
}
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
MAX_IDEMPOTENCY_KEY: Final = 255
PROBLEM_JSON: Final = "application/problem+json"


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, use_attribute_docstrings=True, json_schema_serialization_defaults_required=True
    )


class Accepted(_Model):
    """The broker confirmed the event."""

    status: Literal["accepted"] = "accepted"
    event_id: EventIdField
    diagnosis_id: DiagnosisIdField


class StatusReport(_Model):
    """Who is connected and what waits. Keys are diagnosis ids in decimal."""

    total_diagnoses: int
    """Diagnoses with at least one connection."""
    total_connections: int
    """Open WebSockets, on all replicas that answered."""
    connections_by_diagnosis: dict[str, int]
    """Open WebSockets of each diagnosis that has one, on all replicas that answered."""
    queued_messages_by_diagnosis: dict[str, int]
    """Every diagnosis with waiting events, also those nobody is connected to."""
    truncated: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """True: what waits may be incomplete. Without a management API only diagnoses that the replica that answers has
    seen could be asked for; or the broker, or a replica that holds some, did not answer."""
    silent_replicas: Annotated[list[str], Field(exclude_if=lambda value: not value)] = []
    """Replicas that did not answer in time: what they have is in no number. Left out when all answered."""


class Health(_Model):
    """Answer of `/livez` and `/readyz`; the HTTP status is the contract."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = Field(default_factory=dict)
    """What was looked at, and what was found, each in a word or two."""


class Problem(_Model):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    """A URI that names the kind of problem; `about:blank`: the HTTP status says it all."""
    title: str
    """The kind of problem in words, the same each time."""
    status: int
    """The HTTP status again, for those who see the body alone."""
    detail: str
    """What was wrong this time; never a value that was sent."""
    errors: list[str] | None = Field(default=None, exclude_if=lambda value: value is None)
    """For 422: each field that is wrong, and why."""
