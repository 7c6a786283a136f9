"""domain.receipts: what a PONG proves, what an acknowledgement proves, and when a PING is due."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.ids import EventId
from contracts.messages import ReceiptMode
from realtime_service.domain.receipts import PING_EVERY_BYTES, CrowdLog, Receipts

A, B, C, D = (EventId(name) for name in "abcd")


def sent(mode: ReceiptMode, *events: EventId, size: int = 100) -> Receipts:
    receipts = Receipts(mode)
    for event in events:
        receipts.sent(event, size)
    return receipts


def test_a_pong_proves_everything_written_before_its_ping_in_the_order_sent() -> None:
    receipts = sent("pong", A, B, C)
    assert receipts.pong(receipts.ping()) == [A, B, C]


def test_a_pong_proves_nothing_written_behind_its_ping() -> None:
    receipts = sent("pong", A)
    number = receipts.ping()
    receipts.sent(B, 100)
    assert receipts.pong(number) == [A]
    assert B in receipts


def test_bytes_written_prove_nothing() -> None:
    receipts = sent("pong", A)
    receipts.ping()
    assert receipts.unproven == 1
    assert A in receipts
    assert B not in receipts


def test_a_pong_also_proves_what_earlier_pings_covered() -> None:
    """RFC 6455 §5.5.3: a client may answer only the latest of several PINGs."""
    receipts = sent("pong", A)
    receipts.ping()
    receipts.sent(B, 100)
    assert receipts.pong(receipts.ping()) == [A, B]


def test_the_pong_of_a_ping_that_was_answered_already_proves_nothing() -> None:
    receipts = sent("pong", A)
    number = receipts.ping()
    receipts.pong(number)
    receipts.sent(B, 100)
    assert receipts.pong(number) == []


def test_the_pong_of_a_ping_older_than_one_answered_proves_nothing() -> None:
    receipts = sent("pong", A)
    older = receipts.ping()
    receipts.pong(receipts.ping())
    receipts.sent(B, 100)
    assert receipts.pong(older) == []


@pytest.mark.parametrize("forged", [-1, 0, 2, 10**18])
def test_a_pong_for_a_ping_that_was_never_sent_proves_nothing(forged: int) -> None:
    receipts = sent("pong", A)
    receipts.ping()
    assert receipts.pong(forged) == []
    assert receipts.waiting


def test_no_ping_is_due_while_more_follows_in_the_same_write() -> None:
    assert Receipts("pong").sent(A, 100) is None


def test_a_ping_is_due_at_the_end_of_a_write_when_none_is_outstanding() -> None:
    assert sent("pong", A).ping_due() == 1


def test_no_second_ping_is_due_while_one_is_outstanding() -> None:
    receipts = sent("pong", A)
    receipts.ping_due()
    receipts.sent(B, 100)
    assert receipts.ping_due() is None


def test_what_was_sent_meanwhile_calls_for_a_ping_once_the_pong_came() -> None:
    receipts = sent("pong", A)
    receipts.pong(receipts.ping())
    receipts.sent(B, 100)
    assert receipts.ping_due() == 2


def test_no_ping_is_due_when_all_that_was_sent_is_covered() -> None:
    receipts = sent("pong", A)
    receipts.ping()
    assert receipts.ping_due() is None
    receipts.pong(1)
    assert receipts.ping_due() is None


def test_a_burst_is_pinged_every_16_kib_also_while_pings_are_outstanding() -> None:
    receipts = Receipts("pong")
    due = [receipts.sent(EventId(str(number)), PING_EVERY_BYTES // 2) for number in range(8)]
    assert due == [None, 1, None, 2, None, 3, None, 4]


def test_every_ping_starts_the_count_of_bytes_anew() -> None:
    receipts = sent("pong", A, size=PING_EVERY_BYTES - 1)
    receipts.ping()
    assert receipts.sent(B, PING_EVERY_BYTES - 1) is None
    assert receipts.sent(C, 1) == 2


def test_a_client_owes_until_everything_is_proven() -> None:
    receipts = sent("pong", A)
    assert receipts.waiting
    receipts.pong(receipts.ping())
    assert not receipts.waiting


@pytest.mark.parametrize("mode", ["pong", "ack"])
def test_a_client_owes_the_pong_of_a_heartbeat(mode: ReceiptMode) -> None:
    receipts = Receipts(mode)
    number = receipts.ping()
    assert receipts.waiting
    assert receipts.pong(number) == []
    assert not receipts.waiting


def test_an_acknowledgement_proves_the_event_and_all_before_it() -> None:
    receipts = sent("ack", A, B, C)
    assert receipts.ack(B) == [A, B]
    assert receipts.unproven == 1


def test_the_acknowledgement_of_an_unknown_event_proves_nothing() -> None:
    receipts = sent("ack", A, B)
    assert receipts.ack(C) == []
    assert receipts.unproven == 2


def test_an_event_is_acknowledged_once() -> None:
    receipts = sent("ack", A, B)
    receipts.ack(A)
    assert receipts.ack(A) == []
    assert B in receipts


def test_a_pong_proves_no_event_to_a_server_that_was_asked_for_acknowledgements() -> None:
    receipts = sent("ack", A)
    assert receipts.pong(receipts.ping()) == []
    assert A in receipts


def test_no_ping_is_due_for_the_events_of_a_client_that_acknowledges() -> None:
    receipts = Receipts("ack")
    assert receipts.sent(A, PING_EVERY_BYTES) is None
    assert receipts.ping_due() is None


def test_an_acknowledgement_proves_nothing_to_a_server_that_counts_pongs() -> None:
    assert sent("pong", A).ack(A) == []


def test_where_no_proof_can_be_had_what_was_written_is_taken_as_received() -> None:
    receipts = sent("none", A, B)
    assert receipts.ping_due() is None
    assert receipts.assume() == [A, B]
    assert not receipts.waiting


@given(st.lists(st.sampled_from(["send", "ping", "pong", "skip"]), max_size=60))
def test_events_are_proven_once_in_order_and_never_before_their_ping_was_answered(steps: list[str]) -> None:
    receipts = Receipts("pong")
    written: list[EventId] = []
    proven: list[EventId] = []
    covered: dict[int, int] = {}
    asked: list[int] = []
    for step in steps:
        if step == "send":
            written.append(EventId(str(len(written))))
            receipts.sent(written[-1], 1)
        elif step == "ping":
            asked.append(receipts.ping())
            covered[asked[-1]] = len(written)
        elif asked:
            number = asked.pop(0) if step == "pong" else asked[-1]
            proven += receipts.pong(number)
            assert proven == written[: max(covered[number], len(proven))]
            assert len(proven) >= covered[number]
    assert proven == written[: len(proven)]
    assert receipts.unproven == len(written) - len(proven)


# In step with a crowd


def crowd(size: int, mode: ReceiptMode = "pong") -> tuple[CrowdLog, list[Receipts]]:
    log = CrowdLog()
    members = [Receipts(mode) for _ in range(size)]
    assert all(member.step_in(log) for member in members)
    return log, members


def sent_to_all(log: CrowdLog, *events: EventId) -> None:
    for event in events:
        log.append(event)
    log.written = log.end


def test_what_a_crowd_was_sent_is_owed_by_each_of_it_and_proven_by_the_first() -> None:
    log, (first, second) = crowd(2)
    sent_to_all(log, A, B)
    assert first.owed == second.owed == (A, B)
    assert first.pong(first.ping()) == [A, B]
    assert (first.unproven, second.unproven) == (0, 2)
    sent_to_all(log, C)
    assert second.pong(second.ping()) == [C], "the others were proved before"
    assert second.unproven == 0


def test_what_is_not_written_yet_is_not_covered() -> None:
    log, (member,) = crowd(1)
    sent_to_all(log, A)
    log.append(B)
    assert member.pong(member.ping()) == [A]
    assert B in member


def test_who_came_later_proves_nothing_of_before() -> None:
    log, (old,) = crowd(1)
    sent_to_all(log, A)
    new = Receipts("pong")
    new.step_in(log)
    sent_to_all(log, B)
    assert A not in new
    assert new.pong(new.ping()) == [B]
    assert old.pong(old.ping()) == [A, B]


def test_who_owes_something_of_its_own_cannot_step_in() -> None:
    log, _ = crowd(1)
    member = sent("pong", A)
    assert not member.step_in(log)
    member.pong(member.ping())
    assert member.step_in(log)


def test_what_everybody_has_is_forgotten() -> None:
    log, (member,) = crowd(1)
    sent_to_all(log, A, B)
    member.pong(member.ping())
    sent_to_all(log, C)
    assert member.place == 2
    log.forget(2)
    assert (member.owed, log.end) == ((C,), 3)
    assert member.pong(member.ping()) == [C]


def test_what_a_crowd_is_not_written_yet_is_proved_by_nobody() -> None:
    """Somebody may know its id from elsewhere: who published it does."""
    log, (member,) = crowd(1, "ack")
    sent_to_all(log, A)
    log.append(B)
    assert member.ack(B) == []
    assert member.owed == (A, B)
    log.written = log.end
    assert member.ack(B) == [A, B]


class Twins:
    """A client that steps in and out of a crowd, and one that is sent the same and keeps its own list."""

    def __init__(self, mode: ReceiptMode) -> None:
        self.one, self.other = Receipts(mode), Receipts(mode)
        self.behind: list[EventId] = []  # sent to the crowd, not written yet
        self.pings: list[int] = []

    def write(self) -> None:
        for event in self.behind:
            self.other.sent(event, 1)
        self.behind.clear()


@given(
    st.sampled_from(["pong", "ack"]),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, 3)), max_size=60),
)
def test_in_a_crowd_the_same_is_owed_and_the_same_is_proven(
    mode: ReceiptMode, deeds: list[tuple[int, int, int]]
) -> None:
    log, clients = CrowdLog(), [Twins(mode) for _ in range(3)]
    proven: list[set[EventId]] = [set(), set()]

    def write() -> None:
        log.written = log.end
        for each in clients:
            each.write()

    for number, (deed, whose, which) in enumerate(deeds):
        client, event = clients[whose], EventId(str(number))
        match deed:
            case 0 | 1 | 2:
                log.append(event)
                for each in clients:
                    if each.one.place is None:
                        each.one.sent(event, 1)
                        each.other.sent(event, 1)
                    else:
                        each.behind.append(event)
                if deed:
                    write()
            case 3:
                write()
                client.one.sent(event, 1)
                client.other.sent(event, 1)
            case 4:
                write()
                client.one.step_in(log)
            case 5:
                client.pings.append(client.one.ping())
                assert client.pings[-1] == client.other.ping()
            case 6 if client.pings:
                number = client.pings[min(which, len(client.pings) - 1)]
                proven[0].update(client.one.pong(number))
                proven[1].update(client.other.pong(number))
            case 7 if client.other.owed:
                event = client.other.owed[min(which, client.other.unproven - 1)]
                proven[0].update(client.one.ack(event))
                proven[1].update(client.other.ack(event))
            case 8:
                client.one.step_out()
                client.behind.clear()
            case 9:
                if places := [each.one.place for each in clients if each.one.place is not None]:
                    log.forget(min(places))
        assert [each.one.owed for each in clients] == [(*each.other.owed, *each.behind) for each in clients]
        assert proven[0] == proven[1]
        assert [each.one.uncovered for each in clients if each.one.mode == "pong"] == [
            each.other.uncovered for each in clients if each.one.mode == "pong"
        ]
