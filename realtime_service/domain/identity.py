"""Who is asking: what a verified token says, and nothing that was merely claimed."""

from dataclasses import dataclass
from enum import StrEnum

from contracts.ids import ClientId, UserId


class Scope(StrEnum):
    """Rights beyond one's own diagnoses (the `scope` claim, RFC 8693 §4.2)."""

    OPERATOR = "operator"
    """May read `GET /ws/status`."""
    PUBLISHER = "publisher"
    """May broadcast to every diagnosis."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The bearer of a verified token."""

    user_id: UserId
    """Compared with `diagnoses.patient_id`."""
    expires_at: float
    """Unix seconds; at this moment the connection ends. The allowed clock difference is already added."""
    scopes: frozenset[str] = frozenset()
    """The scopes this service knows; others are not kept."""
    device_id: ClientId | None = None
    """Names the device for apps that cannot send `client_id` themselves."""

    def has(self, scope: str) -> bool:
        """Whether the token grants `scope`."""
        return scope in self.scopes
