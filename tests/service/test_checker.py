"""The checker against histories made by hand: it finds what is wrong, and nothing where nothing is."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.service.harness.checker import Audience, Verdict, check
from tests.service.harness.history import Connection, Publication, data_of, kind_of

DIAGNOSIS = 7
WELCOME = {"gap": False}


@dataclass
class Somebody:
    """A client whose history is made by hand."""

    connections: list[Connection] = field(default_factory=list)


def published(count: int) -> list[Publication]:
    """Publications 1 … count, all confirmed."""
    return [
        Publication(DIAGNOSIS, number, f"id-{number}", confirmed=True, attempts=1)
        for number in range(1, count + 1)
    ]


def frame(number: int, **changed: Any) -> dict[str, Any]:
    """An event message as the service sends it."""
    return {
        "type": f"{kind_of(number)}_update",
        "diagnosis_id": DIAGNOSIS,
        "event_id": f"id-{number}",
        "data": data_of(number),
        **changed,
    }


def connection(*frames: int | dict[str, Any], proven: int | None = None, client: str = "one") -> Connection:
    """A connection that got these frames, numbers standing for plain events, and proved all or the first few."""
    made = Connection(client)
    made.hear({"type": "connect", "data": WELCOME})
    for each in frames:
        made.hear(frame(each) if isinstance(each, int) else each)
    made.proven = len(made.events) if proven is None else proven
    return made


def judged(*connections: Connection, first: int = 1) -> Verdict:
    """The verdict on one audience of three events."""
    return check(published(3), [Audience("everybody", [Somebody(list(connections))], first)])


def test_a_history_without_faults_is_found_without_faults() -> None:
    again = frame(2, redelivered=True)
    assert judged(connection(1, 2, proven=1), connection(again, 3)) == Verdict()


def test_an_event_that_nobody_received_is_lost() -> None:
    assert judged(connection(1, 2)).faults == ["everybody: event 3 was lost"]


def test_an_event_that_was_received_and_never_proved_is_lost() -> None:
    assert judged(connection(1, 2, 3, proven=2)).faults == ["everybody: event 3 was lost"]


def test_an_event_that_only_another_audience_received_is_lost() -> None:
    audiences = [
        Audience("one", [Somebody([connection(1, 2, 3)])]),
        Audience("other", [Somebody([connection(2, 3, client="other")])]),
    ]
    assert check(published(3), audiences).faults == ["other: event 1 was lost"]


def test_an_event_that_a_connection_left_out_is_a_fault_although_another_client_got_it() -> None:
    found = judged(connection(1, 3), connection(2, client="other"))
    assert found.faults == ["one: event 2 was left out"]


def test_a_backlog_has_holes_where_others_received_what_was_there() -> None:
    backlog = [frame(1, redelivered=True), frame(3, redelivered=True)]
    assert judged(connection(*backlog), connection(2, client="other")) == Verdict()


def test_what_a_connection_left_out_and_said_so_is_no_fault() -> None:
    gap = {"type": "gap", "data": {"evicted": 1}}
    assert judged(connection(1, gap, 3), connection(2, client="other")) == Verdict()


def test_an_event_that_was_not_confirmed_may_be_missing_and_may_come() -> None:
    publications = published(3)
    publications[1].confirmed = False
    for made in (connection(1, 3), connection(1, 2, 3)):
        assert check(publications, [Audience("everybody", [Somebody([made])])]) == Verdict()


def test_what_a_device_missed_before_its_queue_was_made_is_not_owed() -> None:
    assert judged(connection(3), first=3) == Verdict()
    assert judged(connection(3), first=2).lost


@pytest.mark.parametrize("told", [1, 2, None])
def test_a_loss_that_was_announced_is_no_fault(told: int | None) -> None:
    gap = {"type": "gap", "data": {"evicted": told}}
    found = judged(connection(1, gap, 3))
    assert not found.faults
    assert found.dropped == {"everybody": [2]}


def test_a_loss_that_the_welcome_announced_is_no_fault() -> None:
    made = connection(2, 3)
    made.welcome = {"gap": True}
    assert judged(made).dropped == {"everybody": [1]}


def test_more_losses_than_were_announced_are_faults() -> None:
    gap = {"type": "gap", "data": {"evicted": 1}}
    assert len(judged(connection(gap, 3)).lost) == 2


def test_an_event_that_came_twice_on_one_connection_is_repeated() -> None:
    found = judged(connection(1, 2, frame(2, redelivered=True), 3))
    assert found.faults == ["one: event 2 (id-2) came twice on one connection"]


def test_a_body_that_came_twice_under_two_ids_is_repeated() -> None:
    publications = published(3)
    publications[1].event_id = None  # the service made one
    made = connection(1, frame(2, event_id="a"), frame(2, event_id="b"), 3)
    assert check(publications, [Audience("everybody", [Somebody([made])])]).repeated


def test_an_event_that_came_after_a_later_one_is_reordered() -> None:
    found = judged(connection(1, 3, 2))
    assert found.faults == ["one: event 2 (id-2) came after 3"]


def test_order_holds_on_a_connection_not_between_them() -> None:
    assert judged(connection(2, 3), connection(frame(1, redelivered=True), client="other")) == Verdict()


@pytest.mark.parametrize(
    "changed",
    [
        {"event_id": "id-3"},
        {"diagnosis_id": DIAGNOSIS + 1},
        {"type": "recommendation_update"},
        {"data": data_of(5)},
        {"data": data_of(2) | {"rating": 5}},
        {"data": {}},
    ],
)
def test_an_event_that_was_not_published_like_this_is_foreign(changed: dict[str, Any]) -> None:
    found = judged(connection(1, 2, 3, frame(2, **changed)))
    assert len(found.faults) == len(found.foreign) == 1


def test_an_event_that_comes_again_to_a_client_says_so() -> None:
    found = judged(connection(1, 2, 3, proven=1), connection(2, 3))
    assert len(found.faults) == len(found.unmarked) == 2


def test_what_comes_again_to_a_client_that_had_proved_it_is_named_and_is_no_fault() -> None:
    proved = connection(1, 2, 3, proven=2)
    found = judged(proved, connection(frame(2, redelivered=True), frame(3, redelivered=True)))
    assert found.again == ["one: event 2 came again after its proof"]
    assert not found.faults


def test_what_another_client_had_proved_comes_to_this_one_for_the_first_time() -> None:
    assert judged(connection(1, 2, 3), connection(frame(3, redelivered=True), client="other")) == Verdict()


def test_an_event_that_its_publisher_retried_need_not_say_so() -> None:
    publications = published(3)
    publications[2].attempts = 2
    somebody = Somebody([connection(1, 2, 3, proven=2), connection(3)])
    assert check(publications, [Audience("everybody", [somebody])]) == Verdict()


def test_clients_at_the_same_time_each_get_an_event_for_the_first_time() -> None:
    audience = Audience(
        "both", [Somebody([connection(1, 2, 3)]), Somebody([connection(1, 2, 3, client="two")])]
    )
    assert check(published(3), [audience]) == Verdict()


def test_an_event_before_the_welcome_and_a_second_welcome_are_noticed_at_once() -> None:
    made = Connection("one")
    made.hear(frame(1))
    with pytest.raises(AssertionError, match="before the welcome"):
        made.hear({"type": "connect", "data": WELCOME})
    welcomed = connection()
    with pytest.raises(AssertionError, match="twice"):
        welcomed.hear({"type": "connect", "data": WELCOME})
