"""A crowd is written to in passes: what comes while it rests leaves together, and nothing is lost or sent again."""

import asyncio
from collections.abc import Callable

import pytest

from contracts.ids import ConnectionId, EventId, UserId
from realtime_service import crowd as crowds
from realtime_service.crowd import CROWD, JOINED_BYTES, JOINED_EVENTS, TOGETHER_SECONDS, Crowd
from realtime_service.domain.receipts import CrowdLog
from realtime_service.domain.room import Member
from tests.service.harness.waiting import until

SIZE = CROWD + 1


class Client:
    """A connection whose socket takes everything, and tells what one write held."""

    def __init__(self, number: int) -> None:
        self.member = Member.of(ConnectionId(str(number)), UserId(1), "ack")
        self.writes: list[bytes] = []

    def send(self, event: EventId, frame: bytes) -> None:
        self.member.receipts.sent(event, len(frame))
        self.writes.append(frame)

    def ask(self) -> None: ...

    def step_in(self, log: CrowdLog) -> bool:
        return self.member.receipts.step_in(log)

    def writer(self) -> Callable[[bytes], object]:
        return self.writes.append

    def ask_now(self) -> None: ...

    def owes(self) -> None: ...

    def end_if_slow(self) -> None: ...


class Clients:
    """Those of one diagnosis, and their crowd."""

    def __init__(self) -> None:
        self.crowd = Crowd()
        self.all = [Client(number) for number in range(SIZE)]

    def send(self, *events: str, without: Client | None = None) -> None:
        to = {client.member.id: client for client in self.all if client is not without}
        members = tuple(client.member for client in to.values())
        for event in events:
            self.crowd.send(EventId(event), event.encode(), members, to)

    async def written(self, *expected: bytes) -> None:
        await until(
            lambda: all(client.writes == list(expected) for client in self.all),
            f"everybody was written {expected}",
        )


@pytest.fixture
def long_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that waits for the crowd to have rested is written during a test."""
    monkeypatch.setattr(crowds, "REST_PER_CLIENT_SECONDS", 60)
    monkeypatch.setattr(crowds, "LONGEST_REST_SECONDS", 60)


@pytest.fixture
async def clients() -> Clients:
    return Clients()


@pytest.mark.usefixtures("long_rest")
async def test_an_event_that_comes_alone_is_written_at_once(clients: Clients) -> None:
    clients.send("a")
    await clients.written(b"a")


@pytest.mark.usefixtures("long_rest")
async def test_what_comes_in_one_turn_of_the_loop_leaves_in_one_write(clients: Clients) -> None:
    clients.send("a", "b")
    await clients.written(b"ab")


@pytest.mark.parametrize(
    ("per_client", "longest", "together"),
    [(0.5 / SIZE, 0.5, TOGETHER_SECONDS), (0.0, 60.0, 0.5)],
    ids=["while the crowd rests", "as another crowd was written it"],
)
async def test_what_comes_one_by_one_leaves_in_one_write(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, per_client: float, longest: float, together: float
) -> None:
    """What another replica relays after its crowd's rest does not begin a rest of its own with the first of it."""
    monkeypatch.setattr(crowds, "REST_PER_CLIENT_SECONDS", per_client)
    monkeypatch.setattr(crowds, "LONGEST_REST_SECONDS", longest)
    monkeypatch.setattr(crowds, "TOGETHER_SECONDS", together)
    clients.send("a")
    await clients.written(b"a")
    for event in "bcd":
        clients.send(event)
        await asyncio.sleep(0)
    await clients.written(b"a", b"bcd")


@pytest.mark.usefixtures("long_rest")
async def test_a_crowd_that_rests_is_written_to_when_much_is_gathered(clients: Clients) -> None:
    clients.send("a")
    await clients.written(b"a")
    much = "x" * (JOINED_BYTES // 2)
    clients.send("b", much)
    await asyncio.sleep(0)
    clients.send(much)
    await clients.written(b"a", b"b" + 2 * much.encode())


@pytest.mark.usefixtures("long_rest")
async def test_a_crowd_that_rests_is_written_to_when_many_events_are_gathered(clients: Clients) -> None:
    clients.send("a")
    await clients.written(b"a")
    clients.send(*"x" * (JOINED_EVENTS - 1))
    await asyncio.sleep(0)
    clients.send("y")
    await clients.written(b"a", b"x" * (JOINED_EVENTS - 1) + b"y")


@pytest.mark.usefixtures("long_rest")
async def test_whoever_steps_in_is_not_sent_again_what_the_crowd_still_waits_for(clients: Clients) -> None:
    lone = clients.all[0]
    lone.send(EventId("own"), b"own")
    clients.send("a")
    await until(lambda: lone.writes == [b"own", b"a"] and clients.all[1].writes == [b"a"], "a is written")
    clients.send("b")
    assert lone.writes == [b"own", b"a", b"b"]
    assert clients.all[1].writes == [b"a"]
    lone.member.receipts.ack(EventId("b"))  # nothing sets it apart any more
    clients.send("c")
    assert b"".join(lone.writes) == b"ownabc"
    lone.member.receipts.ack(EventId("c"))
    clients.crowd.flush()
    assert clients.all[1].writes == [b"a", b"bc"]
    assert lone.member.receipts.place is not None
    clients.send("d")
    clients.crowd.flush()
    assert b"".join(lone.writes) == b"ownabcd"
    assert lone.member.receipts.owed == (EventId("d"),)


@pytest.mark.usefixtures("long_rest")
async def test_whom_an_event_leaves_out_gets_what_was_sent_before(clients: Clients) -> None:
    clients.send("a")
    await clients.written(b"a")
    clients.send("b")
    out = clients.all[3]
    clients.send("c", without=out)
    assert out.writes == [b"a", b"b"]
    assert out.member.receipts.owed == (EventId("a"), EventId("b"))
    clients.send("d")
    clients.crowd.flush()
    assert b"".join(out.writes) == b"abd"
    assert b"".join(clients.all[0].writes) == b"abcd"


@pytest.mark.usefixtures("long_rest")
async def test_whoever_leaves_while_the_crowd_rests_does_not_owe_what_it_was_not_written(
    clients: Clients,
) -> None:
    clients.send("a")
    await clients.written(b"a")
    clients.send("b")
    gone = clients.all.pop()
    gone.member.receipts.step_out()
    clients.crowd.left(gone)
    assert gone.member.receipts.owed == (EventId("a"),)
    clients.crowd.flush()
    assert gone.writes == [b"a"]
    await clients.written(b"a", b"b")


@pytest.mark.usefixtures("long_rest")
async def test_what_is_to_be_done_once_all_is_written_is_done_then_and_in_order(clients: Clients) -> None:
    done: list[str] = []
    clients.crowd.once_written(lambda: done.append("nothing waits"))
    assert done == ["nothing waits"]
    clients.send("a")
    clients.crowd.once_written(lambda: done.append("a"))
    assert done == ["nothing waits"]
    await clients.written(b"a")
    assert done == ["nothing waits", "a"]
    clients.send("b")
    clients.crowd.once_written(lambda: done.append("b"))
    clients.send("c")
    clients.crowd.once_written(lambda: done.append("c"))
    clients.crowd.flush()
    assert done == ["nothing waits", "a", "b", "c"]
