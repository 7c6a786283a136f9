"""What was published and what arrived: the two sides that the checker holds against each other.

An event's number is its place in its diagnosis' stream, from 1. It travels in the body, so that a client can be checked
without knowing ids, and the body follows from it, so that one that was altered is noticed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

KINDS: Final = ("recommendation", "effectiveness", "feedback")


def kind_of(number: int) -> str:
    """The kinds take turns: one stream through all three exchanges."""
    return KINDS[number % 3]


def data_of(number: int) -> dict[str, Any]:
    """The body that an event is published with, without `diagnosis_id`."""
    share = number % 101 / 100
    match kind_of(number):
        case "recommendation":
            return {"old_data": {}, "new_data": {"number": number}, "reason": f"event {number}"}
        case "effectiveness":
            return {
                "recommendation_id": number,
                "effectiveness": share,
                "confidence": 1.0,
                "sample_size": number,
            }
        case _:
            return {"feedback_id": number, "rating": number % 5 + 1, "effectiveness": share}


def number_of(data: dict[str, Any]) -> int | None:
    """The number in a body; None for a body that is not ours."""
    new_data = data.get("new_data")
    number = (
        new_data.get("number")
        if isinstance(new_data, dict)
        else data.get("recommendation_id", data.get("feedback_id"))
    )
    return number if isinstance(number, int) and data == data_of(number) else None


@dataclass(slots=True)
class Publication:
    """An event that a publisher gave to the broker."""

    diagnosis: int
    number: int
    event_id: str | None
    """None: the publisher gave it none."""
    confirmed: bool = False
    attempts: int = 0
    """More than one: a connection was lost before the confirm came, so the broker may have it twice."""


@dataclass(frozen=True, slots=True)
class Received:
    """An event message as it arrived."""

    diagnosis: int
    number: int | None
    event_id: str
    kind: str
    redelivered: bool


@dataclass(slots=True)
class Connection:
    """One WebSocket connection, written down by its client."""

    client: str
    welcome: dict[str, Any] | None = None
    events: list[Received] = field(default_factory=list)
    proven: int = 0
    """How many of the events this client has proved, as far as it knows: its proof may have been lost on the way."""
    gaps: list[int | None] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    """Frames of any other type."""
    code: int | None = None
    """The close code; 1006 when there was none; None while it is open."""

    def hear(self, frame: dict[str, Any]) -> None:
        """Write down a text frame."""
        match frame["type"]:
            case "connect":
                assert self.welcome is None, "welcomed twice"
                assert not self.events, "an event came before the welcome"
                self.welcome = frame["data"]
            case "gap":
                self.gaps.append(frame["data"]["evicted"])
            case str(kind) if kind.endswith("_update"):
                self.events.append(
                    Received(
                        frame["diagnosis_id"],
                        number_of(frame["data"]),
                        frame["event_id"],
                        kind.removesuffix("_update"),
                        frame.get("redelivered", False),
                    )
                )
            case _:
                self.others.append(frame)

    @property
    def numbers(self) -> list[int]:
        """The events' numbers, in the order of arrival."""
        return [event.number for event in self.events if event.number is not None]

    @property
    def proven_numbers(self) -> list[int]:
        """The numbers of the events that were proved."""
        return [event.number for event in self.events[: self.proven] if event.number is not None]

    @property
    def is_open(self) -> bool:
        """Welcomed and not closed."""
        return self.welcome is not None and self.code is None


def numbers_of(connections: Iterable[Connection]) -> set[int]:
    """Every event that arrived on any of these connections."""
    return {number for connection in connections for number in connection.numbers}


def proven_of(connections: Iterable[Connection]) -> set[int]:
    """Every event that was proved on any of these connections."""
    return {number for connection in connections for number in connection.proven_numbers}
