"""domain.relays, and what a room makes of it: who leads the stream between replicas, and what others get of it."""

from collections.abc import Iterable

import pytest

from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from realtime_service.domain.event import Event
from realtime_service.domain.relays import NOWHERE, RelayStream, Stamp, Verdict
from realtime_service.domain.room import (
    SHARED,
    Barrier,
    Effect,
    Held,
    Member,
    Relay,
    Room,
    Send,
    Settle,
    TellGap,
    Word,
)

OWNER = UserId(100)
NEW_YEAR = 1_767_225_600


def event(name: str) -> Event:
    return Event(EventId(name), DiagnosisId(1), name.encode())


# The stream


def test_the_first_relay_that_is_heard_is_taken_and_what_was_before_it_missed() -> None:
    stream = RelayStream()
    assert stream.follow(Stamp(3, 7)) is Verdict.HOLE
    assert stream.at == Stamp(3, 7)
    assert stream.followed


def test_the_next_within_an_epoch_and_the_first_of_another_are_no_hole() -> None:
    stream = RelayStream()
    stamps = [Stamp(1, 1), Stamp(1, 2), Stamp(2, 1), Stamp(5, 1)]
    assert [stream.follow(stamp) for stamp in stamps] == [Verdict.NEXT] * 4


def test_what_is_left_out_is_a_hole_within_an_epoch_and_at_the_beginning_of_one() -> None:
    stream = RelayStream()
    stamps = [Stamp(1, 1), Stamp(1, 3), Stamp(2, 2), Stamp(2, 3)]
    verdicts = [Verdict.NEXT, Verdict.HOLE, Verdict.HOLE, Verdict.NEXT]
    assert [stream.follow(stamp) for stamp in stamps] == verdicts


def test_repetitions_and_ghosts_are_old_and_change_nothing() -> None:
    stream = RelayStream()
    stream.follow(Stamp(2, 4))
    assert [stream.follow(stamp) for stamp in (Stamp(2, 4), Stamp(2, 3), Stamp(1, 99))] == [Verdict.OLD] * 3
    assert stream.at == Stamp(2, 4)


def test_who_becomes_active_leads_one_epoch_above_all_it_knows() -> None:
    stream = RelayStream()
    stream.follow(Stamp(4, 9))
    stream.lead()
    assert stream.leading
    assert [stream.next(), stream.next()] == [Stamp(5, 1), Stamp(5, 2)]
    assert stream.follow(Stamp(4, 10)) is Verdict.OLD
    assert stream.follow(Stamp(5, 3)) is Verdict.OLD, "its own epoch is nobody else's"
    assert stream.leading


def test_a_higher_epoch_ends_the_lead() -> None:
    stream = RelayStream()
    stream.lead()
    assert stream.follow(Stamp(2, 1)) is Verdict.NEXT
    assert not stream.leading


def test_who_becomes_active_later_leads_above_a_ghost_that_it_never_heard_of() -> None:
    ghost, successor = RelayStream(lambda: NEW_YEAR), RelayStream(lambda: NEW_YEAR + 60)
    ghost.lead()
    for _ in range(50):
        ghost.next()
    successor.lead()
    assert ghost.follow(successor.next()) is Verdict.NEXT
    assert not ghost.leading


def test_a_newcomer_catches_up_and_who_stands_somewhere_stays_there() -> None:
    stream = RelayStream()
    stream.catch_up(Stamp(2, 5))
    assert stream.followed
    assert stream.follow(Stamp(2, 6)) is Verdict.NEXT
    stream.catch_up(Stamp(2, 9))
    assert stream.follow(Stamp(2, 10)) is Verdict.HOLE, "what it missed does not come with an answer"


def test_of_an_epoch_that_had_ended_before_a_replica_came_nothing_is_followed() -> None:
    stream = RelayStream()
    stream.whole = True
    assert stream.follow(Stamp(3, 2)) is Verdict.OVER
    assert stream.at == NOWHERE
    assert stream.follow(Stamp(4, 1)) is Verdict.NEXT


# Rooms


class Replica:
    """A room, and a hub that notes what was sent to whom."""

    def __init__(self, *, peers: Iterable[str] = ("another",)) -> None:
        self.room = Room(DiagnosisId(1))
        self.room.acquainted = True
        self.room.peers |= set(peers)
        self.sent: dict[Member, list[str]] = {}
        self.tag = 0
        self.generation = 0
        self.reopen()

    def perform(self, effects: Iterable[Effect]) -> list[Effect]:
        """What is left for the broker, for other replicas, and for clients to be told."""
        rest: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send):
                for member in effect.members:
                    member.receipts.sent(effect.event.id, len(effect.event.message))
                    self.sent[member].append(effect.event.id)
            else:
                rest.append(effect)
        return rest

    def reopen(self) -> None:
        self.room.lost(SHARED)
        self.generation, self.tag = self.generation + 1, 0
        assert self.perform(self.room.opened(SHARED, self.generation, 0, full=False)) == []

    def join(self, name: str, *, ask: bool = False, device: str | None = None) -> Member:
        member = Member.of(ConnectionId(name), OWNER, "ack", device)
        self.sent[member] = []
        assert self.perform(self.room.join(member, ask=ask)) == []
        return member

    def deliver(self, *names: str, redelivered: bool = False) -> list[Effect]:
        rest = []
        for name in names:
            self.tag += 1
            rest += self.perform(self.room.deliver(SHARED, self.tag, event(name), redelivered=redelivered))
        return rest

    def hear(self, name: str, epoch: int, sequence: int) -> list[Effect]:
        return self.perform(self.room.relayed(event(name), Stamp(epoch, sequence)))

    def pass_barrier(self) -> list[Effect]:
        return self.perform(self.room.barrier_passed(self.generation))

    def ack(self, member: Member, name: str) -> list[Effect]:
        return self.perform(self.room.ack(member, EventId(name)))

    def settled(self, effects: Iterable[Effect]) -> list[int]:
        return [each.tag for each in effects if isinstance(each, Settle) and each.session is SHARED]


def lead(replica: Replica, *names: str) -> list[Effect]:
    """The broker made it the active one: what it tells when these are delivered and the barrier is passed."""
    barrier, *none = replica.deliver(*names)
    assert barrier == Barrier(replica.generation)
    assert not none
    return replica.pass_barrier()


def test_relayed_events_reach_unnamed_members_once_and_in_order() -> None:
    replica = Replica()
    member = replica.join("phone")
    for name, place in (("a", 1), ("b", 2), ("b", 2), ("a", 1), ("c", 3)):
        assert replica.hear(name, 1, place) == []
    assert replica.sent[member] == ["a", "b", "c"]


def test_an_event_relayed_by_two_leaders_is_sent_once() -> None:
    replica = Replica()
    member = replica.join("phone")
    replica.hear("a", 1, 1)
    replica.hear("b", 1, 2)
    assert replica.hear("b", 2, 1) == []
    replica.hear("c", 2, 2)
    assert replica.sent[member] == ["a", "b", "c"]


def test_what_the_broker_delivered_again_says_so_on_every_replica() -> None:
    leader, other = Replica(), Replica()
    leader.join("phone")
    leader.deliver("a", redelivered=True)
    [relay] = leader.pass_barrier()
    assert relay == Relay(event("a"), Stamp(1, 1), repeated=True)
    newcomer = other.join("who had it from a replica that died")
    effects = other.room.relayed(event("a"), Stamp(1, 1), repeated=True)
    assert effects == [Send(event("a"), (newcomer,), repeated=True)]


def test_a_ghost_is_not_listened_to() -> None:
    replica = Replica()
    member = replica.join("phone")
    replica.hear("a", 2, 1)
    assert replica.hear("a", 1, 7) == []
    assert replica.hear("what the ghost held", 1, 8) == [TellGap((member,), None)], "it may never come again"
    assert replica.sent[member] == ["a"]


def test_a_hole_is_told_before_what_comes_behind_it() -> None:
    replica = Replica()
    member = replica.join("phone")
    replica.hear("a", 1, 1)
    effects = replica.room.relayed(event("c"), Stamp(1, 3))
    assert effects == [TellGap((member,), None), Send(event("c"), (member,), repeated=False)]


def test_a_leader_tells_the_others_in_order_and_settles_what_is_proven_and_confirmed() -> None:
    replica = Replica()
    member = replica.join("phone")
    first, second = Stamp(1, 1), Stamp(1, 2)
    assert lead(replica, "a", "b") == [Relay(event("a"), first), Relay(event("b"), second)]
    assert replica.ack(member, "b") == [], "neither is known to be relayed"
    assert replica.perform(replica.room.relay_confirmed(EventId("b"))) == [], "the first is not"
    assert replica.settled(replica.perform(replica.room.relay_confirmed(EventId("a")))) == [2]


def test_a_confirmed_relay_alone_settles_nothing() -> None:
    replica = Replica()
    replica.join("phone")
    lead(replica, "a")
    assert replica.perform(replica.room.relay_confirmed(EventId("a"))) == []


def test_a_proof_on_another_replica_settles_what_is_relayed() -> None:
    replica = Replica()
    replica.join("phone")
    lead(replica, "a")
    replica.room.relay_confirmed(EventId("a"))
    assert replica.settled(replica.perform(replica.room.proved_elsewhere([EventId("a")]))) == [1]


def test_a_replica_that_is_alone_hands_out_at_once_and_relays_nothing() -> None:
    replica = Replica(peers=())
    member = replica.join("phone")
    assert replica.deliver("a", "b") == []
    assert replica.sent[member] == ["a", "b"]
    assert replica.settled(replica.ack(member, "b")) == [2]


def test_a_new_leader_first_hears_what_was_relayed_before() -> None:
    replica = Replica()
    member = replica.join("phone")
    replica.hear("a", 1, 1)
    assert replica.deliver("b", "c", redelivered=True) == [Barrier(1)]
    assert replica.sent[member] == ["a"], "nothing is handed out before the barrier"
    replica.hear("b", 1, 2)
    assert replica.pass_barrier() == [
        Relay(event("b"), Stamp(2, 1), repeated=True),
        Relay(event("c"), Stamp(2, 2), repeated=True),
    ]
    assert replica.sent[member] == ["a", "b", "c"]


def test_a_barrier_of_an_earlier_channel_opens_nothing() -> None:
    replica = Replica()
    member = replica.join("phone")
    replica.deliver("a")
    replica.reopen()
    replica.deliver("a", redelivered=True)
    assert replica.perform(replica.room.barrier_passed(1)) == []
    assert replica.sent[member] == []
    replica.pass_barrier()
    assert replica.sent[member] == ["a"]


def test_a_barrier_that_comes_when_the_channel_is_lost_opens_nothing() -> None:
    replica = Replica()
    member = replica.join("phone")
    replica.deliver("a")
    replica.room.lost(SHARED)
    assert replica.perform(replica.room.barrier_passed(1)) == []
    assert not replica.room.stream.leading
    replica.hear("a", 1, 1)
    assert replica.sent[member] == ["a"]


def test_on_take_over_who_has_an_event_gets_it_no_more_and_a_proof_that_came_before_settles_it() -> None:
    replica = Replica()
    member = replica.join("phone")
    for place, name in enumerate("abc", 1):
        replica.hear(name, 1, place)
    replica.ack(member, "b")
    replica.deliver("a", "b", "c", redelivered=True)
    effects = replica.pass_barrier()
    assert replica.settled(effects) == [2]
    assert [each for each in effects if isinstance(each, Relay)] == [
        Relay(event("c"), Stamp(2, 1), repeated=True)
    ]
    assert replica.sent[member] == ["a", "b", "c"]
    replica.perform(replica.room.relay_confirmed(EventId("c")))
    assert replica.settled(replica.ack(member, "c")) == [3]


def test_a_newcomer_gets_what_is_held_and_what_came_since_in_the_order_of_the_stream() -> None:
    replica = Replica()
    newcomer = replica.join("late", ask=True)
    replica.hear("d", 1, 4)
    replica.hear("c", 1, 3)  # before where it stands: comes with an answer
    replica.hear("e", 1, 5)
    assert replica.sent[newcomer] == [], "not before the others said what they hold"
    held = [Held(event(name), Stamp(1, place)) for name, place in (("b", 2), ("c", 3), ("d", 4))]
    word = Word(Stamp(1, 4), leading=True, held=tuple(held))
    assert replica.perform(replica.room.arrive(newcomer, [word])) == []
    assert replica.sent[newcomer] == ["b", "c", "d", "e"]
    replica.hear("f", 1, 6)
    assert replica.sent[newcomer] == ["b", "c", "d", "e", "f"]


def test_a_newcomer_is_not_sent_what_its_room_knows_to_be_proven() -> None:
    replica = Replica()
    old = replica.join("old")
    replica.hear("a", 1, 1)
    replica.hear("b", 1, 2)
    replica.ack(old, "a")
    newcomer = replica.join("late", ask=True)
    held = (Held(event("a"), Stamp(1, 1)), Held(event("b"), Stamp(1, 2)))
    replica.perform(replica.room.arrive(newcomer, [Word(Stamp(1, 2), leading=True, held=held)]))
    assert replica.sent[newcomer] == ["b"]
    assert replica.sent[old] == ["a", "b"]


def test_a_newcomer_at_the_leader_gets_what_nobody_proved() -> None:
    replica = Replica()
    old = replica.join("old")
    lead(replica, "a", "b", "c")
    replica.ack(old, "a")
    newcomer = replica.join("late", ask=True)
    replica.deliver("d")
    replica.perform(replica.room.arrive(newcomer, []))
    replica.deliver("e")
    assert replica.sent[newcomer] == ["b", "c", "d", "e"]


def test_a_ghost_s_relay_is_a_gap_for_who_may_miss_it_and_none_for_who_came_later() -> None:
    replica = Replica()
    old = replica.join("old")
    replica.hear("c", 2, 1)
    newcomer = replica.join("late", ask=True)
    replica.perform(replica.room.arrive(newcomer, [Word(Stamp(2, 1), leading=True)]))
    assert replica.hear("a", 1, 1) == [TellGap((old,), None)]
    assert replica.sent[newcomer] == []


def test_a_new_device_elsewhere_gets_what_the_leader_holds_and_nothing_of_it_again_from_its_own_queue() -> (
    None
):
    replica = Replica()
    device = replica.join("phone", ask=True, device="key")
    held = (Held(event("a"), Stamp(1, 1)), Held(event("b"), Stamp(1, 2)))
    word = Word(Stamp(1, 2), leading=True, held=held)
    replica.perform(replica.room.join_device(device, new=True, words=[word]))
    replica.perform(replica.room.opened("key", 1, 0, full=False))
    replica.hear("c", 1, 3)
    for tag, name in enumerate("bcd", 1):  # its queue was made between a and b
        replica.perform(replica.room.deliver("key", tag, event(name)))
    assert replica.sent[device] == ["a", "b", "c", "d"]


def test_members_that_leave_before_they_arrive_get_nothing() -> None:
    replica = Replica()
    member = replica.join("late", ask=True)
    replica.room.leave(member)
    assert replica.room.arrive(member, [Word(NOWHERE, leading=True, held=(Held(event("a"), NOWHERE),))]) == []


def test_a_newcomer_between_two_leaders_waits_for_what_the_next_is_delivered_again() -> None:
    replica = Replica()
    old = replica.join("old")
    replica.hear("a", 1, 1)
    newcomer = replica.join("late", ask=True)
    replica.hear("b", 1, 2)
    replica.perform(replica.room.arrive(newcomer, [Word(Stamp(1, 2), leading=False)]))
    replica.hear("c", 1, 3)  # under way when its leader died
    assert replica.sent[newcomer] == []
    for place, name in enumerate("abcd", 1):
        replica.hear(name, 2, place)
    assert replica.sent[newcomer] == ["a", "b", "c", "d"]
    assert replica.sent[old] == ["a", "b", "c", "d"]


def test_a_newcomer_at_who_takes_over_gets_everything_in_order() -> None:
    replica = Replica()
    replica.hear("a", 1, 1)
    newcomer = replica.join("late", ask=True)
    replica.hear("b", 1, 2)
    replica.perform(replica.room.arrive(newcomer, [Word(Stamp(1, 1), leading=False)]))
    lead(replica, "a", "b", "c")
    assert replica.sent[newcomer] == ["a", "b", "c"]


def test_a_leader_tells_what_is_held_and_what_is_proven_and_will_come_again_if_it_dies() -> None:
    leader = Replica()
    leader.join("phone")
    lead(leader, "a", "b")
    leader.room.proved_elsewhere([EventId("b")])
    word = leader.room.word()
    assert word == Word(
        Stamp(1, 2), leading=True, held=(Held(event("a"), Stamp(1, 1)),), proven=(EventId("b"),)
    )

    replica = Replica()
    newcomer = replica.join("late", ask=True)
    replica.room.stream.catch_up(word.at)
    replica.perform(replica.room.arrive(newcomer, [word]))
    replica.hear("c", 1, 3)
    assert replica.deliver("a", "b", "c", redelivered=True) == [Barrier(1)]
    replica.pass_barrier()
    assert replica.sent[newcomer] == ["a", "c"]


def test_a_barrier_that_was_waited_for_in_vain_is_a_gap() -> None:
    replica = Replica()
    member = replica.join("phone")
    replica.deliver("a")
    gap, _ = replica.perform(replica.room.barrier_passed(replica.generation, heard=False))
    assert gap == TellGap((member,), None)
    assert replica.sent[member] == ["a"]


def test_a_room_that_does_not_know_whether_it_is_alone_relays() -> None:
    replica = Replica(peers=())
    replica.room.acquainted = False
    replica.join("phone")
    assert lead(replica, "a") == [Relay(event("a"), Stamp(1, 1))]


def test_what_was_settled_of_late_is_told_too_for_a_broker_that_crashes_forgets_it() -> None:
    leader = Replica()
    phone = leader.join("phone")
    lead(leader, "a", "b")
    leader.room.relay_confirmed(EventId("a"))
    assert leader.settled(leader.ack(phone, "a")) == [1]

    replica = Replica()
    newcomer = replica.join("late", ask=True)
    replica.perform(replica.room.arrive(newcomer, [leader.room.word()]))
    replica.deliver("a", "b", redelivered=True)
    assert replica.settled(replica.pass_barrier()) == [1]
    assert replica.sent[newcomer] == ["b"]


def test_what_a_device_proved_before_it_was_handed_out_is_still_owed_to_a_newcomer() -> None:
    leader = Replica()
    leader.room.proved_elsewhere([EventId("a")])
    lead(leader, "b")
    word = leader.room.word()
    assert EventId("a") not in word.proven


def test_a_newcomer_at_a_leader_that_loses_its_channel_meanwhile_gets_what_it_held() -> None:
    replica = Replica(peers=())
    replica.join("phone")
    replica.deliver("a")
    newcomer = replica.join("late", ask=True)
    replica.deliver("b")
    replica.reopen()
    replica.perform(replica.room.arrive(newcomer, []))
    assert replica.sent[newcomer] == ["a", "b"]
    replica.deliver("a", "b", "c", redelivered=True)
    assert replica.sent[newcomer] == ["a", "b", "c"]


def test_what_anybody_says_is_proven_is_not_owed_to_a_newcomer_although_the_leader_does_not_know() -> None:
    replica = Replica()
    member = replica.join("phone", ask=True)
    held = tuple(Held(event(name), Stamp(1, place)) for place, name in ((1, "a"), (2, "b")))
    words = [
        Word(Stamp(1, 2), leading=True, held=held),
        Word(Stamp(1, 2), leading=False, proven=(EventId("a"),)),
    ]
    replica.perform(replica.room.arrive(member, words))
    assert replica.sent[member] == ["b"]


def test_an_answer_that_comes_too_late_says_what_was_missed_and_later_relays_are_no_hole() -> None:
    replica = Replica()
    phone = replica.join("phone")
    assert replica.hear("a", 5, 1) == []
    assert replica.perform(replica.room.answered_late(Word(Stamp(5, 3), leading=True))) == [
        TellGap((phone,), None)
    ]
    assert replica.hear("d", 5, 4) == []
    assert replica.sent[phone] == ["a", "d"]


def test_what_the_active_replica_still_holds_comes_with_its_late_answer_before_what_it_relays_next() -> None:
    """It took itself to be alone and told nobody; should it give these back, they must not come behind the next."""
    replica = Replica()
    phone = replica.join("phone")
    assert replica.hear("a", 5, 1) == []
    held = (Held(event("b"), Stamp(6, 1)), Held(event("c"), Stamp(6, 2)))
    assert replica.perform(replica.room.answered_late(Word(Stamp(6, 2), leading=True, held=held))) == []
    assert replica.hear("d", 6, 3) == []
    assert replica.sent[phone] == ["a", "b", "c", "d"]


def test_what_was_settled_before_a_late_answer_is_a_gap_and_what_is_held_comes_once() -> None:
    replica = Replica()
    phone = replica.join("phone")
    held = (Held(event("a"), Stamp(5, 1)), Held(event("c"), Stamp(5, 3)))
    assert replica.hear("a", 5, 1) == []
    late = replica.perform(replica.room.answered_late(Word(Stamp(5, 4), leading=True, held=held)))
    assert late == [TellGap((phone,), None), TellGap((phone,), None)]
    assert replica.hear("e", 5, 5) == []
    assert replica.sent[phone] == ["a", "c", "e"]


@pytest.mark.parametrize("at", [2, 3])
def test_who_came_while_nobody_seemed_to_lead_is_told_when_somebody_does_and_gets_what_follows(
    at: int,
) -> None:
    """A replica that was being counted again took the leader's place among those who were to answer."""
    replica = Replica()
    phone = replica.join("phone")
    assert replica.hear("a", 5, 1) == []
    newcomer = replica.join("newcomer", ask=True)
    assert replica.perform(replica.room.arrive(newcomer, [Word(Stamp(5, 1), leading=False)])) == []
    assert replica.hear("b", 5, 2) == []
    assert replica.sent[newcomer] == []
    told = replica.perform(replica.room.answered_late(Word(Stamp(5, at), leading=True)))
    assert told[0] == TellGap((newcomer,), None, "late")
    assert replica.hear("c", 5, at + 1) == []
    assert replica.sent == {phone: ["a", "b", "c"], newcomer: ["c"]}


def test_an_answer_that_comes_too_late_and_tells_nothing_new_is_no_gap() -> None:
    replica = Replica()
    replica.join("phone")
    assert replica.hear("a", 5, 1) == []
    for word in (
        Word(Stamp(5, 1), leading=True),
        Word(Stamp(4, 9), leading=True),
        Word(Stamp(6, 0), leading=True),
        Word(Stamp(6, 2), leading=False),
    ):
        assert replica.room.answered_late(word) == []
    assert replica.hear("b", 5, 2) == []


@pytest.mark.parametrize("peers", [(), ("another",)])
def test_what_was_delivered_before_the_others_answered_is_a_repeat_only_if_there_are_others(
    peers: tuple[str, ...],
) -> None:
    room = Room(DiagnosisId(1))
    room.opened(SHARED, 1, 1, full=False)
    member = Member.of(ConnectionId("first"), OWNER)
    assert room.join(member, ask=True) == []
    assert room.deliver(SHARED, 1, event("waited")) == [Barrier(1)]
    assert room.barrier_passed(1) == [Relay(event("waited"), Stamp(1, 1))]
    room.peers |= set(peers)
    room.acquainted = True
    assert room.arrive(member, ()) == [Send(event("waited"), (member,), repeated=bool(peers))]
