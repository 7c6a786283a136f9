"""Holds what arrived against what was published: the promises, as a function.

per connection   the publisher's order, no event twice, nothing foreign
per audience     every confirmed event was proved by one of its connections, or its loss was announced
per client       what came before on an earlier connection says `redelivered`
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.service.harness.history import Connection, Publication, kind_of, proven_of


class Watching(Protocol):
    """Somebody with connections, oldest first."""

    connections: list[Connection]


@dataclass(frozen=True, slots=True)
class Audience:
    """Clients that together are owed every event: a device; one that stayed; all of a diagnosis."""

    name: str
    clients: Sequence[Watching]
    first: int = 1
    """The first event it is owed: a device's queue holds nothing from before it was made."""

    @property
    def connections(self) -> list[Connection]:
        """All connections they have had so far."""
        return [connection for client in self.clients for connection in client.connections]


@dataclass(slots=True)
class Verdict:
    """What went wrong. Each entry is a sentence, or in `dropped` a number."""

    lost: list[str] = field(default_factory=list)
    """Confirmed, proved by nobody, and not announced."""
    repeated: list[str] = field(default_factory=list)
    """Sent twice on one connection."""
    reordered: list[str] = field(default_factory=list)
    """Arrived after one that was published later."""
    skipped: list[str] = field(default_factory=list)
    """Left out on a connection that got earlier and later ones."""
    foreign: list[str] = field(default_factory=list)
    """Never published like this, or for another diagnosis."""
    unmarked: list[str] = field(default_factory=list)
    """Came to a client again without saying so."""
    again: list[str] = field(default_factory=list)
    """Came to a client that had proved it: no fault, unless nothing befell it or its proof on the way."""
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """By audience: numbers that are missing, as its clients were told."""

    @property
    def faults(self) -> list[str]:
        """Everything that a promise forbids."""
        return [*self.lost, *self.repeated, *self.reordered, *self.skipped, *self.foreign, *self.unmarked]


def check(publications: Iterable[Publication], audiences: Iterable[Audience]) -> Verdict:
    """Judge the audiences of one diagnosis by its publications, in the order in which they were published."""
    published = {publication.number: publication for publication in publications}
    audiences = list(audiences)
    verdict = Verdict()
    for connection in {id(each): each for audience in audiences for each in audience.connections}.values():
        _check_connection(connection, published, verdict)
    for audience in audiences:
        _check_audience(audience, published, verdict)
        _check_marks(audience, published, verdict)
    return verdict


def _check_connection(connection: Connection, published: dict[int, Publication], verdict: Verdict) -> None:
    ids: set[str] = set()
    seen: set[int] = set()
    newest = 0
    for event in connection.events:
        about = f"{connection.client}: event {event.number} ({event.event_id})"
        publication = published.get(event.number or 0)
        if (
            publication is None
            or event.number is None
            or publication.diagnosis != event.diagnosis
            or publication.event_id not in (None, event.event_id)
            or kind_of(event.number) != event.kind
        ):
            verdict.foreign.append(f"{about} was not published")
            continue
        if event.event_id in ids or event.number in seen:
            verdict.repeated.append(f"{about} came twice on one connection")
        elif event.number < newest:
            verdict.reordered.append(f"{about} came after {newest}")
        ids.add(event.event_id)
        seen.add(event.number)
        newest = max(newest, event.number)
    _check_holes(connection, published, verdict)


def _check_holes(connection: Connection, published: dict[int, Publication], verdict: Verdict) -> None:
    """From the first event that is new to everybody on, nothing is left out."""
    seen = set(connection.numbers)
    live = [event.number for event in connection.events if event.number is not None and not event.redelivered]
    if not live:
        return
    holes = [
        number
        for number in range(min(live), max(seen))
        if number not in seen and number in published and published[number].confirmed
    ]
    if len(holes) > _announced([connection]):
        verdict.skipped += [f"{connection.client}: event {number} was left out" for number in holes]


def _check_audience(audience: Audience, published: dict[int, Publication], verdict: Verdict) -> None:
    proven = proven_of(audience.connections)
    missing = [
        number
        for number, publication in published.items()
        if publication.confirmed and number >= audience.first and number not in proven
    ]
    if missing and len(missing) <= _announced(audience.connections):
        verdict.dropped[audience.name] = missing
    else:
        verdict.lost += [f"{audience.name}: event {number} was lost" for number in missing]


def _announced(connections: Sequence[Connection]) -> float:
    """How many losses these clients were told of."""
    if any(connection.welcome and connection.welcome["gap"] for connection in connections):
        return float("inf")
    told = [evicted for connection in connections for evicted in connection.gaps]
    return sum(float("inf") if evicted is None else evicted for evicted in told)


def _check_marks(audience: Audience, published: dict[int, Publication], verdict: Verdict) -> None:
    before: dict[str, set[str]] = defaultdict(set)
    proven: dict[str, set[str]] = defaultdict(set)
    for connection in audience.connections:
        for event in connection.events:
            retried = event.number in published and published[event.number].attempts > 1
            if event.event_id in before[connection.client] and not event.redelivered and not retried:
                verdict.unmarked.append(
                    f"{connection.client}: event {event.number} came again and did not say so"
                )
            if event.event_id in proven[connection.client]:
                verdict.again.append(f"{connection.client}: event {event.number} came again after its proof")
        before[connection.client] |= {event.event_id for event in connection.events}
        proven[connection.client] |= {event.event_id for event in connection.events[: connection.proven]}
