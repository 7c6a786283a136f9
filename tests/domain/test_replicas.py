"""The promises hold between replicas in every history that `replicas_machine` can think of, and it notices when not."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from contracts.ids import DiagnosisId
from realtime_service.domain.event import Event
from realtime_service.domain.relays import NOWHERE, Clock, Stamp
from realtime_service.domain.room import Effect, Room, SessionKey, Word, _Arrival
from realtime_service.domain.window import Record, SessionWindow
from tests.domain.replicas_machine import Replicas

EXAMPLES = int(os.environ.get("PROMISES_EXAMPLES", "100"))
HISTORY = settings(
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

Replicas.TestCase.settings = settings(HISTORY, max_examples=EXAMPLES)

TestReplicas = pytest.mark.timeout(60 + EXAMPLES)(Replicas.TestCase)


# The same world with one rule broken


class SettlesBeforeTheOthersKnow(Room):
    """What is proven is settled, whether or not the broker has its relay."""

    def _settle(self, session: SessionKey) -> list[Effect]:
        for record in self.shared.unproven():
            record.relaying = False
        for record in self.shared._unsettled.values():
            record.relaying = False
        return super()._settle(session)


class KnowsNoRelays(SessionWindow):
    """What was handed out comes again with every relay of it."""

    def relayed(self, event: Event, stamp: Stamp, *, repeated: bool = False) -> Record | None:
        return Record(event, stamp=stamp)


class SendsOnWhatIsKnown(Room):
    """No de-duplication."""

    def __init__(self, diagnosis: DiagnosisId, clock: Clock) -> None:
        super().__init__(diagnosis, clock)
        self.shared = KnowsNoRelays()


class HearsNobodyOut(Room):
    """A new active replica hands out at once."""

    def _lead(self, window: SessionWindow) -> list[Effect]:
        if not self.stream.leading:
            self.stream.lead()
        return []


class TakesDeliveriesForProofs(Room):
    """Bytes written are settled."""

    def _hand_out(self, session: SessionKey, records: list[Record], *, relay: bool = True) -> list[Effect]:
        effects = super()._hand_out(session, records, relay=relay)
        self.shared.prove([record.event.id for record in records if record.event])
        return effects


class TakesEveryRelay(Room):
    """A newcomer gets what is under way of an epoch whose leader said nothing."""

    def _floor(self, arrival: _Arrival, words: list[Word], *, unsure: bool) -> tuple[Stamp, Word | None]:
        return NOWHERE, super()._floor(arrival, words, unsure=unsure)[1]


class WaitsForAnotherEpoch(Room):
    """A newcomer gets nothing of an epoch whose leader said nothing, though it may go on."""

    def _floor(self, arrival: _Arrival, words: list[Word], *, unsure: bool) -> tuple[Stamp, Word | None]:
        return super()._floor(arrival, words, unsure=False)


BROKEN = (SendsOnWhatIsKnown, TakesDeliveriesForProofs)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_rule_is_found(broken: type[Room]) -> None:
    class Broken(Replicas):
        make_room = broken

    found = settings(
        HISTORY, max_examples=2000, derandomize=True, database=None, phases=[Phase.generate], print_blob=False
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Broken, settings=found)


@pytest.mark.parametrize("room", [Room, SettlesBeforeTheOthersKnow], ids=lambda room: room.__name__)
def test_an_active_replica_that_crashes_with_a_relay_on_its_lips(room: type[Room]) -> None:
    """Too rare a history to be found by chance."""

    class Told(Replicas):
        make_room = room

    history = Told()
    history.begin()
    history.all_arrives()
    history.publish(1)
    active = history.replicas[0]
    while not active.clients[0].got:
        history.something_arrives([0])
    assert active.outbox, "the others were not told yet"
    history.all_prove_all(active)
    history.a_replica_crashes(0)
    if room is Room:
        history.teardown()
    else:
        with pytest.raises(AssertionError, match="lost"):
            history.teardown()


@pytest.mark.parametrize("room", [Room, HearsNobodyOut], ids=lambda room: room.__name__)
def test_what_was_relayed_and_settled_reaches_who_takes_over_before_what_was_not(room: type[Room]) -> None:
    """Too rare a history to be found by chance."""

    class Listening(Replicas):
        make_room = room

    history = Listening()
    history.begin()
    history.all_arrives()
    history.publish(2)
    active, other, _ = history.replicas
    while not (active.inbox or other.inbox):
        history.something_arrives([0] * 2)
    while active.outbox:
        history._broker_takes(active)
    assert active.clients[0].got == [1, 2]
    history._prove(active, active.clients[0], 0)
    assert [event for _, event in active.unsettled] == [2]
    history.a_replica_crashes(0)
    while other.delivered or history.queue:
        history.something_arrives([0])
    if room is Room:
        history.teardown()
    else:
        with pytest.raises(AssertionError, match=r"lost|\[2"):
            history.teardown()


@pytest.mark.parametrize("room", [Room, TakesEveryRelay], ids=lambda room: room.__name__)
def test_a_newcomer_while_the_active_replica_loses_its_channel_between_two_relays(room: type[Room]) -> None:
    """Too rare a history to be found by chance."""

    class Joining(Replicas):
        make_room = room

    history = Joining()
    history.begin()
    history.all_arrives()
    history.publish(2)
    history.something_arrives([0] * 3)
    history.something_arrives([0] * 6)
    history.a_channel_is_lost(0)
    history.a_client_comes(1)
    if room is Room:
        history.teardown()
    else:
        with pytest.raises(AssertionError, match=r"\[2, 1\]"):
            history.teardown()


@pytest.mark.parametrize("room", [Room, WaitsForAnotherEpoch], ids=lambda room: room.__name__)
def test_a_newcomer_that_the_active_replica_did_not_answer_in_time(room: type[Room]) -> None:
    """It was frozen for a moment, and goes on."""

    class Hasty(Replicas):
        make_room = room

    history = Hasty()
    history.begin()
    history.publish(1)
    history.all_arrives()
    history.a_client_comes(1)
    history.nobody_answers_in_time(1)
    history.publish(2)
    if room is Room:
        history.teardown()
    else:
        with pytest.raises(AssertionError, match="lost"):
            history.teardown()
