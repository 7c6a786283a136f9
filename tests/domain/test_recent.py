"""domain.recent: a bounded memory of event ids."""

from contracts.ids import EventId
from realtime_service.domain.recent import RECENT_IDS, RecentIds

A, B, C = EventId("a"), EventId("b"), EventId("c")


def test_what_was_added_is_known_and_nothing_else() -> None:
    recent = RecentIds()
    recent.add(A)
    assert A in recent
    assert B not in recent


def test_the_oldest_is_forgotten_first() -> None:
    recent = RecentIds(limit=2)
    for event in (A, B, C):
        recent.add(event)
    assert [event in recent for event in (A, B, C)] == [False, True, True]


def test_what_is_added_again_counts_as_new() -> None:
    recent = RecentIds(limit=2)
    for event in (A, B, A, C):
        recent.add(event)
    assert [event in recent for event in (A, B, C)] == [True, False, True]


def test_it_remembers_more_than_a_window_and_a_backlog_hold() -> None:
    recent = RecentIds()
    ids = [EventId(str(number)) for number in range(RECENT_IDS + 1)]
    for event in ids:
        recent.add(event)
    assert ids[0] not in recent
    assert all(event in recent for event in ids[-(256 + 100) :])
