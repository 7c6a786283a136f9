"""domain.window: one queue's deliveries between their arrival and their settlement."""

from contracts.ids import DiagnosisId, EventId
from realtime_service.domain.event import Event
from realtime_service.domain.window import WINDOW_BYTES, Record, SessionWindow


def event(name: str, size: int = 2) -> Event:
    return Event(EventId(name), DiagnosisId(1), bytes(size))


def opened(*names: str, ready: int = 0) -> SessionWindow:
    """A window on its first channel, with these events delivered as tags 1, 2, …"""
    window = SessionWindow()
    window.opened(1, ready)
    deliver(window, *names)
    return window


def deliver(window: SessionWindow, *names: str, start: int = 1, redelivered: bool = False) -> list[str]:
    """The ids handed out when these events are delivered, tagged from `start`."""
    handed_out = []
    for tag, name in enumerate(names, start):
        handed_out += ids(window.deliver(tag, event(name), redelivered=redelivered))
    return handed_out


def prove(window: SessionWindow, *names: str) -> None:
    window.prove(map(EventId, names))


def ids(records: list[Record]) -> list[str]:
    return [record.event.id for record in records if record.event]


# Settling


def test_a_delivery_is_handed_out_at_once_and_settled_when_it_is_proven() -> None:
    window = opened()
    assert deliver(window, "a") == ["a"]
    assert window.settle() is None
    prove(window, "a")
    assert window.settle() == 1
    assert window.settle() is None
    assert window.unsettled == 0


def test_only_the_longest_proven_prefix_is_settled() -> None:
    window = opened("a", "b", "c", "d")
    prove(window, "a", "b", "d")
    assert window.settle() == 2
    assert ids(window.unproven()) == ["c"]
    assert window.settle() is None


def test_a_proof_out_of_order_waits_for_those_before_it() -> None:
    window = opened("a", "b")
    prove(window, "b")
    assert window.settle() is None
    prove(window, "a")
    assert window.settle() == 2


def test_a_proof_that_comes_before_the_delivery_settles_it() -> None:
    """A named device has the event from its own queue; the shared copy follows."""
    window = opened()
    prove(window, "a")
    assert deliver(window, "a") == ["a"]
    assert window.settle() == 1


def test_what_was_proven_before_it_was_delivered_is_handed_out_all_the_same() -> None:
    """One device's proof says nothing about the others who are to get the event here."""
    window = opened()
    prove(window, "a")
    assert deliver(window, "a") == ["a"]
    assert deliver(window, "a", start=2) == []


def test_the_proof_of_an_event_that_is_not_here_does_no_harm() -> None:
    window = opened("a")
    prove(window, "elsewhere")
    assert window.settle() is None


# Repeats


def test_an_event_id_is_handed_out_once_however_often_it_is_delivered() -> None:
    assert deliver(opened("a"), "a", "b", "a", start=2) == ["b"]


def test_a_repeat_is_settled_in_its_own_place() -> None:
    window = opened("a", "b", "a")
    prove(window, "a")
    assert window.settle() == 1
    prove(window, "b")
    assert window.settle() == 3


def test_a_repeat_of_what_is_settled_is_settled_at_once() -> None:
    window = opened("a")
    prove(window, "a")
    window.settle()
    assert deliver(window, "a", start=2) == []
    assert window.settle() == 2


# Refused deliveries


def test_a_refused_delivery_holds_its_place_until_it_is_parked() -> None:
    window = opened("a")
    assert window.deliver(2, None) == []
    deliver(window, "b", start=3)
    prove(window, "a", "b")
    assert window.settle() == 1
    window.refused(2)
    assert window.settle() == 3


def test_a_refused_delivery_that_is_parked_while_it_waits_behind_others_is_settled_with_them() -> None:
    window = opened()
    window.hold()
    deliver(window, "a")
    window.deliver(2, None)
    window.refused(2)
    window.resume()
    prove(window, "a")
    assert window.settle() == 2


# The bound on bytes


def test_deliveries_beyond_the_bound_wait_and_are_let_out_in_order() -> None:
    window = opened()
    third = WINDOW_BYTES // 3
    for tag, name in enumerate(("a", "b", "c"), 1):
        assert ids(window.deliver(tag, event(name, third))) == [name]
    assert window.deliver(4, event("d", third)) == []
    assert window.deliver(5, event("e", 1)) == []  # it would fit, but not overtake
    assert window.unsettled == 5
    assert window.to_come == 2
    prove(window, "a")
    assert window.settle() == 1
    assert ids(window.admit()) == ["d", "e"]


def test_bytes_are_free_when_they_are_settled_not_when_they_are_proven() -> None:
    window = opened()
    half = WINDOW_BYTES // 2
    for tag, name in enumerate(("a", "b", "c"), 1):
        window.deliver(tag, event(name, half))
    prove(window, "b")
    assert window.settle() is None
    assert window.admit() == []


def test_an_event_larger_than_the_bound_passes_alone() -> None:
    window = opened("a")
    assert window.deliver(2, event("huge", WINDOW_BYTES + 1)) == []
    assert window.deliver(3, event("b")) == []
    prove(window, "a")
    window.settle()
    assert ids(window.admit()) == ["huge"]
    prove(window, "huge")
    window.settle()
    assert ids(window.admit()) == ["b"]


def test_a_repeat_needs_no_room() -> None:
    window = opened()
    window.deliver(1, event("huge", WINDOW_BYTES + 1))
    window.deliver(2, event("huge", WINDOW_BYTES + 1))
    prove(window, "huge")
    assert window.settle() == 2


def test_what_is_proven_while_it_waits_is_handed_out_and_settled() -> None:
    window = opened()
    window.deliver(1, event("huge", WINDOW_BYTES + 1))
    window.deliver(2, event("a"))
    prove(window, "a", "huge")
    assert window.settle() == 1
    assert ids(window.admit()) == ["a"]
    assert window.settle() == 2


# A lost channel


def test_what_a_lost_channel_returns_is_marked_for_those_who_were_sent_it() -> None:
    window = opened("a")
    window.lost()
    window.opened(2, 2)
    again = window.deliver(1, event("a"), redelivered=True)
    assert [(record.event and record.event.id, record.redelivered) for record in again] == [("a", True)]
    assert [record.redelivered for record in window.deliver(2, event("b"))] == [False]


def test_what_the_broker_says_was_delivered_before_is_marked() -> None:
    assert [record.redelivered for record in opened().deliver(1, event("a"), redelivered=True)] == [True]


def test_what_was_proven_and_not_settled_is_settled_when_it_comes_again() -> None:
    window = opened("a", "b")
    prove(window, "b")
    window.lost()
    window.opened(2, 2)
    deliver(window, "a", redelivered=True)
    assert deliver(window, "b", start=2, redelivered=True) == []
    prove(window, "a")
    assert window.settle() == 2


def test_a_proof_that_comes_while_there_is_no_channel_counts() -> None:
    window = opened("a")
    window.lost()
    prove(window, "a")
    assert window.settle() is None  # the tag died with its channel
    window.opened(2, 1)
    assert deliver(window, "a", redelivered=True) == []
    assert window.settle() == 1


def test_tags_of_a_lost_channel_are_never_settled() -> None:
    window = opened("a", "b")
    window.lost()
    window.opened(2, 2)
    deliver(window, "a", redelivered=True)
    prove(window, "a", "b")
    assert window.settle() == 1


def test_what_does_not_come_again_is_given_up() -> None:
    """It was dropped meanwhile, or settled by another replica; nothing waits for it."""
    window = opened()
    window.deliver(1, event("missing", WINDOW_BYTES))
    window.lost()
    window.opened(2, 1)
    assert deliver(window, "b") == ["b"]
    assert ids(window.unproven()) == ["b"]
    prove(window, "b")
    assert window.settle() == 1


def test_what_a_lost_channel_returns_needs_no_more_room_than_before() -> None:
    window = opened()
    half = WINDOW_BYTES // 2
    for generation in (2, 3):
        for tag, name in enumerate(("a", "b"), 1):
            assert ids(window.deliver(tag, event(name, half))) == [name]
        assert window.deliver(3, event("c", half)) == []
        window.opened(generation, 3)


def test_what_waited_when_the_channel_was_lost_waits_no_more() -> None:
    window = opened()
    window.hold()
    deliver(window, "a")
    window.lost()
    assert not window.holds_back(EventId("a"))
    assert window.resume() == []


# Holding back


def test_deliveries_are_held_back_until_the_window_resumes() -> None:
    window = opened()
    window.hold()
    assert deliver(window, "a", "b") == []
    assert window.holds_back(EventId("a"))
    assert not window.knows(EventId("a"))
    assert ids(window.resume()) == ["a", "b"]
    assert not window.holds_back(EventId("a"))
    assert window.knows(EventId("a"))


def test_what_its_audience_had_another_way_is_marked_when_it_is_handed_out() -> None:
    window = opened()
    window.had(EventId("a"))
    assert [record.redelivered for record in window.deliver(1, event("a"))] == [True]


# Counting


def test_events_still_in_the_queue_are_counted_down_by_deliveries() -> None:
    window = opened(ready=3)
    assert window.to_come == 3
    deliver(window, "a", "b")
    assert (window.to_come, window.pending, window.unsettled) == (1, 3, 2)
    deliver(window, "c", "d", start=3)
    assert (window.to_come, window.pending) == (0, 4)


def test_what_is_proven_is_not_pending_also_while_it_is_unsettled() -> None:
    window = opened("a", "b")
    prove(window, "b")
    assert window.pending == 1


def test_the_head_is_the_oldest_unsettled_delivery_of_this_channel() -> None:
    assert opened().head is None
    window = opened("a", "b")
    assert window.head == (1, 1)
    prove(window, "a")
    window.settle()
    assert window.head == (1, 2)


def test_a_full_queue_may_have_dropped_events_until_what_waited_in_it_is_proven() -> None:
    window = SessionWindow()
    window.opened(1, 2, full=True)
    deliver(window, "a", "b")
    prove(window, "a")
    window.settle()
    assert window.overflowed
    prove(window, "b")
    window.settle()
    assert not window.overflowed


def test_a_lost_channel_does_not_mend_a_gap() -> None:
    window = SessionWindow()
    window.opened(1, 1, full=True)
    deliver(window, "a")
    window.lost()
    prove(window, "a")
    window.settle()
    window.opened(2, 1)
    assert window.overflowed
