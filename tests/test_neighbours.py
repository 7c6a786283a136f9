"""What a replica says to the others: in the order in which it happened, also where something waits to be written."""

from collections.abc import Iterable

import pytest

from contracts.ids import DiagnosisId, EventId
from contracts.replicas import Ask, Kind, ReplicaMessage
from realtime_service import neighbours
from realtime_service.domain import room as decided
from realtime_service.domain.event import Event
from realtime_service.domain.relays import Stamp
from realtime_service.domain.room import SHARED, Effect, Room
from realtime_service.metrics import Metrics
from realtime_service.neighbours import Neighbours
from tests.service.harness.waiting import until

DIAGNOSIS = DiagnosisId(1)
OTHER = "realtime.node.other"


class Told:
    """The other replicas: notes what they are told."""

    name = "realtime.node.this"

    def __init__(self) -> None:
        self.messages: list[ReplicaMessage] = []

    async def tell_room(self, diagnosis: DiagnosisId, message: ReplicaMessage) -> None:
        self.messages.append(message)

    async def tell(self, node: str, message: ReplicaMessage) -> None:
        self.messages.append(message)

    async def tell_all(self, message: ReplicaMessage) -> None:
        self.messages.append(message)


class Place:
    """A room with one event that is relayed only when it is written."""

    counted = True

    def __init__(self, told: Told) -> None:
        self.room = Room(DIAGNOSIS)
        self.room.opened(SHARED, 1, 0, full=False)
        self.room.peers |= {OTHER}
        self.neighbours = Neighbours(told, lambda _: self, Metrics())
        self._held = [decided.Relay(Event(EventId("a"), DIAGNOSIS, b"{}"), Stamp(1, 1))]

    async def consumers(self) -> int:
        return 1

    def flush(self) -> None:
        for relay in self._held:
            self.neighbours.relay(self, relay)
        self._held = []

    def perform(self, effects: Iterable[Effect]) -> None: ...

    def renew(self) -> None: ...

    def yield_device(self, key: str, newer: tuple[float, str]) -> None: ...


@pytest.mark.parametrize("kind", [Kind.ANSWER, Kind.BYE, None])
async def test_what_waits_to_be_written_is_relayed_before_the_replica_says(kind: Kind | None) -> None:
    told = Told()
    place = Place(told)
    if kind is None:  # nobody is left to say goodbye to
        place.room.acquainted, place.room.peers = True, frozenset()
    if kind is Kind.ANSWER:
        place.neighbours.heard(Ask(sender=OTHER, diagnosis_id=DIAGNOSIS, ask_id="x"))
    else:
        place.neighbours.bye(place)
    await place.neighbours.close()
    assert [message.kind for message in told.messages] == [Kind.RELAY, *([kind] if kind else [])]


async def test_a_room_is_alone_only_once_everybody_is_back_at_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "LOOK_AGAIN_SECONDS", 0.02)
    place = Place(Told())
    place.room.peers = frozenset()
    away = True
    place.neighbours.some_may_be_away = lambda: away
    for _ in range(3):
        assert await place.neighbours.words(place) == ([], True)
        assert not place.room.alone
    away = False
    await until(lambda: place.room.alone, "it is looked at again")
