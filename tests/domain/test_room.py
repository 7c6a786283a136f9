"""domain.room: who gets an event, who proves it, and what a gap is."""

from collections.abc import Iterable

import pytest

from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from contracts.messages import ReceiptMode
from realtime_service.domain.event import Event
from realtime_service.domain.relays import Stamp
from realtime_service.domain.room import SHARED, Effect, Member, Park, Room, Send, SessionKey, Settle, TellGap
from realtime_service.domain.window import WINDOW_BYTES

OWNER, STRANGER = UserId(100), UserId(200)


def event(name: str, *, size: int = 2, user: UserId | None = None, excluded: Member | None = None) -> Event:
    return Event(EventId(name), DiagnosisId(1), bytes(size), user, excluded.id if excluded else None)


class Hub:
    """Carries out what the room decides, as the real one does; remembers who was sent what."""

    def __init__(self) -> None:
        self.room = Room(DiagnosisId(1))
        self.room.acquainted = True
        self.sent: dict[Member, list[str]] = {}
        self.repeated: list[tuple[str, Member]] = []
        self._tags: dict[SessionKey, int] = {}
        self.open(SHARED)

    def perform(self, effects: Iterable[Effect]) -> list[Effect]:
        """What is left for the broker, and for clients to be told."""
        rest: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send):
                for member in effect.members:
                    member.receipts.sent(effect.event.id, len(effect.event.message))
                    self.sent[member].append(effect.event.id)
                    if effect.repeated:
                        self.repeated.append((effect.event.id, member))
            else:
                rest.append(effect)
        return rest

    def open(
        self, session: SessionKey, ready: int = 0, *, generation: int = 1, full: bool = False
    ) -> list[Effect]:
        self._tags[session] = 0
        return self.perform(self.room.opened(session, generation, ready, full=full))

    def reopen(self, session: SessionKey, ready: int = 0, *, full: bool = False) -> list[Effect]:
        self.room.lost(session)
        return self.open(session, ready, generation=2, full=full)

    def join(self, name: str, *, mode: ReceiptMode = "pong", user: UserId = OWNER) -> Member:
        member = Member.of(ConnectionId(name), user, mode)
        self.sent[member] = []
        assert self.perform(self.room.join(member)) == []
        return member

    def enter(self, name: str) -> Member:
        """A named connection that waits for its own session."""
        member = Member.of(ConnectionId(f"{name} {len(self.sent)}"), OWNER, device=name)
        self.sent[member] = []
        assert self.perform(self.room.join(member)) == []
        return member

    def open_device(self, member: Member, *, new: bool) -> None:
        assert member.device is not None
        assert self.perform(self.room.join_device(member, new=new)) == []
        self.open(member.device)

    def join_device(self, name: str, *, new: bool = False) -> Member:
        member = self.enter(name)
        self.open_device(member, new=new)
        return member

    def deliver(
        self, *events: Event | str, to: SessionKey = SHARED, redelivered: bool = False
    ) -> list[Effect]:
        rest = []
        for item in events:
            delivered = event(item) if isinstance(item, str) else item
            self._tags[to] += 1
            effects = self.room.deliver(to, self._tags[to], delivered, redelivered=redelivered)
            rest += self.perform(effects)
        return rest

    def refuse(self, *, to: SessionKey = SHARED) -> list[Effect]:
        self._tags[to] += 1
        return self.perform(self.room.refuse(to, self._tags[to], "rubbish"))

    def proves(self, member: Member) -> list[Effect]:
        """The client answers a PING written just now."""
        return self.perform(self.room.pong(member, member.receipts.ping()))

    def leave(self, member: Member) -> list[Effect]:
        return self.perform(self.room.leave(member))


@pytest.fixture
def hub() -> Hub:
    return Hub()


# The shared session: everybody without a name


def test_an_event_goes_to_every_unnamed_connection_and_is_settled_when_one_proves_it(hub: Hub) -> None:
    anna, bert = hub.join("anna"), hub.join("bert")
    assert hub.deliver("a") == []
    assert hub.sent == {anna: ["a"], bert: ["a"]}
    assert hub.proves(bert) == [Settle(SHARED, 1, 1)]
    assert hub.proves(anna) == []


def test_nothing_is_settled_because_it_was_sent(hub: Hub) -> None:
    anna = hub.join("anna")
    assert hub.deliver("a", "b") == []
    assert hub.leave(anna) == []


def test_only_a_proven_prefix_is_settled(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a")
    bert = hub.join("bert", mode="ack")
    hub.perform(hub.room.ack(bert, EventId("a")))
    hub.deliver("b", "c")
    assert hub.perform(hub.room.ack(bert, EventId("b"))) == [Settle(SHARED, 1, 2)]
    assert hub.perform(hub.room.ack(bert, EventId("x"))) == []
    assert hub.proves(anna) == [Settle(SHARED, 1, 3)]


def test_where_no_proof_can_be_had_what_was_written_is_settled(hub: Hub) -> None:
    anna = hub.join("anna", mode="none")
    hub.deliver("a", "b")
    assert hub.perform(hub.room.written(anna)) == [Settle(SHARED, 1, 2)]


def test_a_newcomer_first_gets_what_nobody_has_proven_in_order(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a")
    hub.proves(anna)
    hub.deliver("b", "c")
    bert = hub.join("bert")
    hub.deliver("d")
    assert hub.sent[bert] == ["b", "c", "d"]
    assert [name for name, member in hub.repeated if member is bert] == ["b", "c"]


def test_what_one_connection_left_unproven_the_next_one_proves(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a")
    bert = hub.join("bert")
    hub.leave(anna)
    assert hub.proves(bert) == [Settle(SHARED, 1, 1)]


def test_the_publishers_retry_is_sent_to_nobody_twice(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a", "b", "a")
    assert hub.sent[anna] == ["a", "b"]
    assert hub.proves(anna) == [Settle(SHARED, 1, 3)]
    assert hub.deliver("a") == [Settle(SHARED, 1, 4)]


def test_what_waits_for_room_follows_when_room_is_made(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver(event("a", size=WINDOW_BYTES), "b", "c")
    assert hub.sent[anna] == ["a"]
    assert hub.proves(anna) == [Settle(SHARED, 1, 1)]
    assert hub.sent[anna] == ["a", "b", "c"]


def test_what_the_broker_delivers_again_is_marked_on_new_connections(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a", redelivered=True)
    assert hub.repeated == [("a", anna)]


# A lost channel


def test_what_is_delivered_again_is_not_sent_again_and_settled_on_the_new_channel(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a", "b")
    hub.reopen(SHARED, 2)
    hub.deliver("a", "b", redelivered=True)
    hub.deliver("c")
    assert hub.sent[anna] == ["a", "b", "c"]
    assert hub.proves(anna) == [Settle(SHARED, 2, 3)]


def test_what_was_proven_meanwhile_is_settled_when_it_comes_again(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a")
    hub.room.lost(SHARED)
    assert hub.proves(anna) == []
    hub.open(SHARED, 1, generation=2)
    assert hub.deliver("a", redelivered=True) == [Settle(SHARED, 2, 1)]
    assert hub.sent[anna] == ["a"]


def test_who_came_while_the_channel_was_lost_gets_what_comes_again(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a")
    hub.room.lost(SHARED)
    bert = hub.join("bert")
    hub.open(SHARED, 1, generation=2)
    hub.deliver("a", redelivered=True)
    assert (hub.sent[anna], hub.sent[bert]) == (["a"], ["a"])
    assert hub.repeated == [("a", bert)]


def test_an_event_that_left_the_queue_and_is_published_again_is_not_sent_again(hub: Hub) -> None:
    """The publisher saw no confirm; its first try was dropped while the channel was lost."""
    anna = hub.join("anna")
    hub.deliver("a", "b")
    hub.reopen(SHARED, 1)
    hub.deliver("b", redelivered=True)
    hub.deliver("c", "a")
    assert hub.sent[anna] == ["a", "b", "c"]
    assert hub.proves(anna) == [Settle(SHARED, 2, 3)]


def test_room_is_made_by_what_does_not_come_again(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver(event("a", size=WINDOW_BYTES))
    hub.reopen(SHARED)
    hub.deliver(event("b", size=WINDOW_BYTES))
    assert hub.sent[anna] == ["a", "b"]


def test_what_comes_again_is_settled_though_the_window_is_full_of_it(hub: Hub) -> None:
    anna = hub.join("anna")
    large = event("a", size=WINDOW_BYTES)
    hub.deliver(large)
    hub.reopen(SHARED, 1)
    hub.deliver(large, redelivered=True)
    assert hub.proves(anna) == [Settle(SHARED, 2, 1)]


# Who must not get an event, and who proves it then


def test_the_excluded_connection_does_not_get_the_event_and_the_others_prove_it(hub: Hub) -> None:
    anna, bert = hub.join("anna"), hub.join("bert")
    assert hub.deliver(event("a", excluded=anna)) == []
    assert hub.sent == {anna: [], bert: ["a"]}
    assert hub.proves(bert) == [Settle(SHARED, 1, 1)]


def test_an_excluded_connection_that_is_alone_proves_the_event(hub: Hub) -> None:
    anna = hub.join("anna")
    assert hub.deliver(event("a", excluded=anna)) == [Settle(SHARED, 1, 1)]
    assert hub.sent[anna] == []


def test_an_excluded_connection_that_is_left_alone_proves_the_event(hub: Hub) -> None:
    anna, bert = hub.join("anna"), hub.join("bert")
    hub.deliver(event("a", excluded=anna))
    assert hub.leave(bert) == [Settle(SHARED, 1, 1)]


def test_the_absence_of_an_excluded_connection_proves_nothing(hub: Hub) -> None:
    anna, bert = hub.join("anna"), hub.join("bert")
    hub.leave(anna)
    assert hub.deliver(event("a", excluded=anna)) == []
    assert hub.sent[bert] == ["a"]


def test_an_event_for_others_than_the_only_audience_does_not_wait_for_a_named_device(hub: Hub) -> None:
    """The device has a copy of its own, or never will: it must not hold up the only one who gets the shared stream."""
    anna, phone = hub.join("anna"), hub.join_device("phone")
    assert hub.deliver(event("a", excluded=anna)) == [Settle(SHARED, 1, 1)]
    hub.deliver(event("a", excluded=anna), to="phone")
    assert hub.sent[phone] == ["a"]


def test_a_device_settles_its_own_copy_of_an_event_that_excludes_it(hub: Hub) -> None:
    phone = hub.join_device("phone")
    assert hub.deliver(event("a", excluded=phone), to="phone") == [Settle("phone", 1, 1)]
    assert hub.sent[phone] == []


def test_a_personal_event_goes_to_its_users_connections_alone(hub: Hub) -> None:
    anna, carl = hub.join("anna"), hub.join("carl", user=STRANGER)
    hub.deliver(event("a", user=OWNER))
    assert (hub.sent[anna], hub.sent[carl]) == (["a"], [])
    assert hub.sent[hub.join("dora", user=STRANGER)] == []


def test_a_personal_event_for_somebody_else_is_parked_and_then_settled(hub: Hub) -> None:
    anna = hub.join("anna")
    (park,) = hub.deliver(event("a", user=STRANGER))
    assert park == Park(SHARED, 1, 1, "a personal event for a user who may not watch this diagnosis")
    assert hub.sent[anna] == []
    assert hub.perform(hub.room.parked(SHARED, 1, 1)) == [Settle(SHARED, 1, 1)]


def test_a_devices_copy_of_a_personal_event_for_somebody_else_is_let_go(hub: Hub) -> None:
    hub.join_device("phone")
    assert hub.deliver(event("a", user=STRANGER), to="phone") == [Settle("phone", 1, 1)]


# What is no event


def test_a_refused_delivery_holds_up_the_settlement_until_it_is_parked(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a")
    assert hub.refuse() == [Park(SHARED, 1, 2, "rubbish")]
    hub.deliver("b")
    assert hub.proves(anna) == [Settle(SHARED, 1, 1)]
    assert hub.perform(hub.room.parked(SHARED, 1, 2)) == [Settle(SHARED, 1, 3)]


def test_a_refused_delivery_may_be_parked_while_it_waits_for_room(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver(event("a", size=WINDOW_BYTES), "b")
    hub.refuse()
    hub.perform(hub.room.parked(SHARED, 1, 3))
    hub.proves(anna)
    assert hub.proves(anna) == [Settle(SHARED, 1, 3)]


def test_news_of_parking_from_an_older_channel_settles_nothing(hub: Hub) -> None:
    hub.join("anna")
    hub.refuse()
    hub.reopen(SHARED, 1)
    hub.refuse()
    assert hub.perform(hub.room.parked(SHARED, 1, 1)) == []
    assert hub.perform(hub.room.parked(SHARED, 2, 1)) == [Settle(SHARED, 2, 1)]


def test_a_devices_copy_of_what_is_no_event_is_let_go_in_its_place(hub: Hub) -> None:
    phone = hub.join_device("phone")
    hub.deliver("a", to="phone")
    assert hub.refuse(to="phone") == []
    assert hub.proves(phone) == [Settle("phone", 1, 2)]


# Named devices


def test_a_devices_events_come_from_its_own_queue_and_are_settled_by_its_own_proof(hub: Hub) -> None:
    phone, tablet = hub.join_device("phone"), hub.join_device("tablet")
    hub.deliver("a", to="phone")
    hub.deliver("a", to="tablet")
    assert (hub.sent[phone], hub.sent[tablet]) == (["a"], ["a"])
    assert hub.proves(phone) == [Settle("phone", 1, 1)]


def test_a_devices_proof_settles_the_shared_copy(hub: Hub) -> None:
    phone = hub.join_device("phone")
    hub.deliver("a")
    assert hub.sent[phone] == []
    hub.deliver("a", to="phone")
    assert hub.proves(phone) == [Settle(SHARED, 1, 1), Settle("phone", 1, 1)]


def test_a_devices_proof_settles_the_shared_copy_that_comes_after_it(hub: Hub) -> None:
    phone = hub.join_device("phone")
    hub.deliver("a", to="phone")
    hub.proves(phone)
    assert hub.deliver("a") == [Settle(SHARED, 1, 1)]


def test_what_a_device_proved_first_still_goes_to_the_unnamed(hub: Hub) -> None:
    phone, anna = hub.join_device("phone"), hub.join("anna")
    hub.deliver("a", to="phone")
    hub.proves(phone)
    assert hub.deliver("a") == [Settle(SHARED, 1, 1)]
    assert hub.sent[anna] == ["a"]


def test_what_a_device_proved_while_it_waited_for_room_still_goes_to_the_unnamed(hub: Hub) -> None:
    phone, anna = hub.join_device("phone"), hub.join("anna")
    hub.deliver(event("large", size=WINDOW_BYTES), "a")
    hub.deliver("a", to="phone")
    hub.proves(phone)
    hub.proves(anna)
    assert hub.sent[anna] == ["large", "a"]


def test_an_unnamed_proof_settles_no_devices_copy(hub: Hub) -> None:
    anna, phone = hub.join("anna"), hub.join_device("phone")
    hub.deliver("a")
    hub.deliver("a", to="phone")
    assert hub.proves(anna) == [Settle(SHARED, 1, 1)]
    assert hub.proves(phone) == [Settle("phone", 1, 1)]


def test_a_device_whose_channel_was_lost_is_sent_nothing_twice(hub: Hub) -> None:
    phone = hub.join_device("phone")
    hub.deliver("a", to="phone")
    hub.reopen("phone", 1)
    hub.deliver("a", to="phone", redelivered=True)
    hub.deliver("b", to="phone")
    assert hub.sent[phone] == ["a", "b"]
    assert hub.proves(phone) == [Settle("phone", 2, 2)]


def test_deliveries_of_a_device_that_left_go_nowhere(hub: Hub) -> None:
    phone = hub.join_device("phone")
    hub.leave(phone)
    assert hub.room.window("phone") is None
    assert hub.deliver("a", to="phone") == []
    assert hub.refuse(to="phone") == []
    assert hub.open("phone") == []
    assert hub.perform(hub.room.parked("phone", 1, 1)) == []
    assert hub.perform(hub.room.evicted("phone", EventId("a"))) == []


def test_an_older_connection_of_a_device_takes_nothing_along_when_it_leaves(hub: Hub) -> None:
    older = hub.join_device("phone")
    newer = hub.join_device("phone")
    hub.leave(older)
    hub.deliver("a", to="phone")
    assert hub.sent[newer] == ["a"]
    assert hub.room.members == (newer,)


# New devices


def test_a_new_device_first_gets_what_the_shared_session_holds(hub: Hub) -> None:
    hub.join("anna")
    hub.deliver("a")
    phone = hub.join_device("phone", new=True)
    hub.deliver("b")
    assert hub.sent[phone] == ["a", "b"]
    assert hub.proves(phone) == [Settle(SHARED, 1, 2)]


def test_a_device_that_was_here_before_does_not(hub: Hub) -> None:
    hub.deliver("a")
    phone = hub.join_device("phone")
    hub.deliver("b")
    assert hub.sent[phone] == []


def test_a_new_devices_own_queue_waits_until_the_shared_stream_reaches_it(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver("b", "c", to="phone")
    assert hub.sent[phone] == []
    hub.deliver("a")
    assert hub.sent[phone] == ["a"]
    hub.deliver("b")
    assert hub.sent[phone] == ["a", "b", "c"]
    hub.deliver("c", "d")
    hub.deliver("d", to="phone")
    assert hub.sent[phone] == ["a", "b", "c", "d"]


def test_a_new_device_is_not_sent_its_own_copy_of_what_the_shared_stream_brought(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver("a", "b")
    assert hub.deliver("b", to="phone") == []
    hub.deliver("c", to="phone")
    assert hub.sent[phone] == ["a", "b", "c"]
    assert hub.proves(phone) == [Settle(SHARED, 1, 2), Settle("phone", 1, 2)]


def test_the_own_copy_of_what_a_new_device_has_proven_is_settled_at_once(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver("a")
    hub.proves(phone)
    assert hub.deliver("a", to="phone") == [Settle("phone", 1, 1)]
    assert hub.sent[phone] == ["a"]


def test_a_new_devices_own_queue_goes_on_when_the_shared_queue_is_empty(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver("a", to="phone")
    assert hub.perform(hub.room.shared_depth("phone", 0)) == []
    assert hub.sent[phone] == ["a"]


def test_a_new_devices_own_queue_goes_on_when_the_shared_queue_as_it_was_is_through(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver("c", to="phone")
    hub.perform(hub.room.shared_depth("phone", 2))
    hub.deliver("a")
    assert hub.sent[phone] == ["a"]
    hub.refuse()
    assert hub.sent[phone] == ["a", "c"]


def test_what_waits_for_room_belongs_to_the_shared_queue_as_it_was(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver(event("a", size=WINDOW_BYTES), "b")
    phone = hub.join_device("phone", new=True)
    hub.deliver("c", to="phone")
    hub.perform(hub.room.shared_depth("phone", 0))
    assert hub.sent[phone] == ["a"]
    hub.proves(anna)
    assert hub.sent[phone] == ["a", "b", "c"]


def test_after_a_lost_channel_the_shared_queue_is_counted_anew(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver("c", to="phone")
    hub.perform(hub.room.shared_depth("phone", 2))
    hub.deliver("a")
    hub.room.lost(SHARED)
    hub.proves(phone)
    assert hub.sent[phone] == ["a"]
    hub.open(SHARED, 2, generation=2)
    hub.deliver("a", redelivered=True)
    assert hub.sent[phone] == ["a"]
    hub.deliver("b")
    assert hub.sent[phone] == ["a", "b", "c"]


def test_a_new_devices_own_queue_goes_on_when_an_empty_shared_queue_is_opened_again(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver("a", to="phone")
    hub.reopen(SHARED, 0)
    assert hub.sent[phone] == ["a"]


def test_a_new_device_does_not_wait_for_ever(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver("a", to="phone")
    hub.refuse(to="phone")
    assert hub.perform(hub.room.seeding_takes_too_long("phone")) == [TellGap((phone,), None)]
    assert hub.sent[phone] == ["a"]
    assert hub.proves(phone) == [Settle("phone", 1, 2)]
    assert hub.perform(hub.room.seeding_takes_too_long("phone")) == []
    assert hub.perform(hub.room.shared_depth("phone", 0)) == []


def test_a_new_device_gets_what_passed_while_its_queue_was_made_in_its_place(hub: Hub) -> None:
    """Its own queue may have it, too, and delivers it behind what the shared stream brings meanwhile."""
    anna = hub.join("anna")
    phone = hub.enter("phone")
    hub.deliver("a")
    hub.proves(anna)
    hub.open_device(phone, new=True)
    hub.deliver("b")
    hub.deliver("a", "b", to="phone")
    assert hub.sent[phone] == ["a", "b"]


def test_what_passed_twice_while_a_devices_queue_was_made_is_sent_once(hub: Hub) -> None:
    hub.join("anna")
    hub.deliver("a")
    phone = hub.enter("phone")
    hub.reopen(SHARED, 1)
    hub.deliver("a", redelivered=True)
    hub.open_device(phone, new=True)
    assert hub.sent[phone] == ["a"]


def test_what_passed_while_a_devices_queue_was_made_keeps_its_order_over_a_lost_channel(hub: Hub) -> None:
    hub.join("anna")
    hub.deliver("a", "b")
    phone = hub.enter("phone")
    hub.reopen(SHARED, 2)
    hub.deliver("a", redelivered=True)
    hub.open_device(phone, new=True)
    hub.deliver("b", redelivered=True)
    assert hub.sent[phone] == ["a", "b"]


def test_a_new_devices_own_queue_comes_first_where_the_shared_queue_dropped_something(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver("b", "c", to="phone")
    hub.deliver("a", "c")  # the shared copy of b was dropped
    assert hub.sent[phone] == ["a", "b", "c"]


def test_what_excludes_a_new_device_is_not_sent_to_it_by_the_shared_stream(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.deliver(event("a", excluded=phone))
    assert hub.sent[phone] == []


# What a welcome says


def test_a_welcome_counts_what_is_on_its_way_and_what_is_still_in_the_queue(hub: Hub) -> None:
    hub.open(SHARED, 3)
    hub.join("anna")
    hub.deliver("a", event("b", size=WINDOW_BYTES))
    bert = hub.join("bert")
    assert hub.room.queued_for(bert) == 3


def test_a_welcome_counts_a_devices_own_queue(hub: Hub) -> None:
    phone = hub.join_device("phone")
    hub.open("phone", 2)
    hub.open(SHARED, 5)
    assert hub.room.queued_for(phone) == 2


def test_a_new_devices_welcome_counts_the_shared_queue_too(hub: Hub) -> None:
    phone = hub.join_device("phone", new=True)
    hub.open(SHARED, 5)
    assert hub.room.queued_for(phone) == 5


@pytest.mark.parametrize("full", [True, False])
def test_a_welcome_speaks_of_a_gap_when_the_queue_was_full(hub: Hub, full: bool) -> None:
    anna, phone, tablet = hub.join("anna"), hub.join_device("phone"), hub.join_device("tablet", new=True)
    hub.open(SHARED, 100, full=full)
    assert [hub.room.gap_for(member) for member in (anna, phone, tablet)] == [full, False, full]
    hub.open("phone", 100, full=full)
    assert hub.room.gap_for(phone) is full


# Gaps


def test_an_eviction_is_told_to_those_who_lack_the_event(hub: Hub) -> None:
    anna, bert = hub.join("anna"), hub.join("bert")
    phone = hub.join_device("phone")
    assert hub.room.evicted(SHARED, EventId("a")) == [TellGap((anna, bert), 1)]
    assert hub.room.evicted("phone", EventId("a")) == [TellGap((phone,), 1)]
    assert hub.room.gap_for(anna)


def test_the_eviction_of_what_was_sent_is_no_gap(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver("a")
    assert hub.room.evicted(SHARED, EventId("a")) == []
    hub.proves(anna)
    assert hub.room.evicted(SHARED, EventId("a")) == []
    assert not hub.room.gap_for(anna)


def test_an_eviction_from_the_shared_queue_does_not_concern_devices(hub: Hub) -> None:
    hub.join_device("phone")
    assert hub.room.evicted(SHARED, EventId("a")) == []


def test_the_eviction_of_what_only_a_device_has_is_a_gap_for_the_unnamed(hub: Hub) -> None:
    anna, phone = hub.join("anna"), hub.join_device("phone")
    hub.deliver("a", to="phone")
    hub.proves(phone)
    assert hub.room.evicted(SHARED, EventId("a")) == [TellGap((anna,), 1)]


def test_the_eviction_of_a_new_devices_own_copy_is_no_gap_when_the_shared_stream_brought_it(hub: Hub) -> None:
    hub.join_device("phone", new=True)
    hub.deliver("a")
    assert hub.room.evicted("phone", EventId("a")) == []


def test_what_was_delivered_and_waited_for_room_is_a_gap_when_it_is_evicted(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.deliver(event("a", size=WINDOW_BYTES), "b")
    hub.room.lost(SHARED)
    assert hub.room.evicted(SHARED, EventId("b")) == [TellGap((anna,), 1)]


def test_a_queue_that_is_full_when_it_is_opened_again_is_a_gap_of_unknown_size(hub: Hub) -> None:
    anna, phone = hub.join("anna"), hub.join_device("phone")
    assert hub.reopen(SHARED, 100, full=True) == [TellGap((anna,), None)]
    assert hub.reopen("phone", 100, full=True) == [TellGap((phone,), None)]
    assert hub.reopen(SHARED, 99) == []


def test_a_queue_whose_loss_was_not_seen_is_a_gap_once_it_is_open_again(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.join_device("phone")
    hub.room.lost(SHARED)
    assert not hub.room.queue_lost(), "it is about to be opened"
    assert not hub.room.queue_lost(), "said twice"
    while_away = hub.join("while away")
    assert hub.open(SHARED, generation=2) == [TellGap((anna, while_away), None)]
    assert hub.room.gap_for(while_away), "its welcome comes then"
    assert hub.reopen(SHARED) == []


@pytest.mark.parametrize("leading", [True, False])
def test_a_gap_is_over_for_newcomers_once_something_came_through_and_nothing_waits(
    hub: Hub, *, leading: bool
) -> None:
    anna = hub.join("anna")
    hub.reopen(SHARED, 1, full=True)
    assert hub.room.gap_for(hub.join("early"))
    if leading:
        hub.deliver("a")
        assert hub.room.gap_for(hub.join("between"))
        hub.proves(anna)
    else:
        hub.perform(hub.room.relayed(event("a"), Stamp(1, 1)))
    assert not hub.room.gap_for(hub.join("late"))


def test_a_queue_that_was_lost_unseen_while_it_was_open_has_to_be_opened_again(hub: Hub) -> None:
    """Consumers of a quorum queue that is made again at once are not told (RabbitMQ 3.10)."""
    anna = hub.join("anna")
    assert hub.room.queue_lost()
    assert hub.reopen(SHARED) == [TellGap((anna,), None)]


def test_who_sees_that_the_queue_is_gone_is_told_of_it_once(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.room.lost(SHARED)
    hub.room.queue_lost()
    assert hub.open(SHARED, generation=2, full=True) == [TellGap((anna,), None)]


def test_a_queue_that_was_gone_before_anybody_was_here_is_no_gap() -> None:
    """It is the first contact, mostly."""
    room = Room(DiagnosisId(1))
    room.join(Member.of(ConnectionId("anna"), OWNER))
    assert not room.queue_lost()
    assert room.opened(SHARED, 1, 0, full=False) == []


def test_who_hears_nothing_of_other_replicas_may_have_missed_something(hub: Hub) -> None:
    anna = hub.join("anna")
    hub.join_device("phone")
    assert hub.room.deaf() == [TellGap((anna,), None)]
    assert Room(DiagnosisId(1)).deaf() == []


def test_what_nobody_was_sent_yet_is_no_repeat_for_a_member_that_arrives() -> None:
    room = Room(DiagnosisId(1))
    room.acquainted = True
    first, second = (Member.of(ConnectionId(name), OWNER) for name in ("first", "second"))
    room.opened(SHARED, 1, 1, full=False)
    assert room.join(first, ask=True) == []
    assert room.deliver(SHARED, 1, event("waited")) == []

    assert room.arrive(first, ()) == [Send(event("waited"), (first,), repeated=False)]
    room.join(second, ask=True)
    assert room.arrive(second, ()) == [Send(event("waited"), (second,), repeated=True)]
