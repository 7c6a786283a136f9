"""web.draining, on a clock that jumps to whatever is due next."""

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine, Iterator

import pytest

from contracts.close_codes import CloseCode
from realtime_service.web.draining import send_away

SECONDS = 10.0


class Jumping(asyncio.SelectorEventLoop):
    """An event loop that never waits."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class Replica:
    """Connections, and when they ended."""

    def __init__(self, loop: Jumping) -> None:
        self.loop = loop
        self.open: list[Client] = []

    def clients(self, count: int, *, proves_at: float = 0.0) -> "list[Client]":
        """So many more, which owe a proof until then."""
        made = [Client(self, proves_at) for _ in range(count)]
        self.open += made
        return made

    def leaves(self, seconds: float = SECONDS) -> Coroutine[None, None, None]:
        return send_away(lambda: list(self.open), seconds)


class Client:
    """A connection."""

    def __init__(self, replica: Replica, proves_at: float) -> None:
        self.ended_at: float | None = None
        self._replica = replica
        self._proves_at = proves_at

    def end(self, code: CloseCode) -> None:
        assert code is CloseCode.RESTARTING
        if self.ended_at is None:
            self.ended_at = self._replica.loop.time()
            self._replica.open.remove(self)

    def end_when_proven(self, code: CloseCode) -> None:
        if self._proves_at == math.inf:
            return
        self._replica.loop.call_at(max(self._proves_at, self._replica.loop.time()), self.end, code)


@pytest.fixture
def replica() -> Iterator[Replica]:
    loop = Jumping()
    yield Replica(loop)
    loop.close()


def test_balancers_notice_first_and_then_the_clients_leave_in_batches_before_the_time_is_up(
    replica: Replica,
) -> None:
    clients = replica.clients(600)
    replica.loop.run_until_complete(replica.leaves())
    batches = Counter(client.ended_at for client in clients)
    assert len(batches) == 60
    assert set(batches.values()) == {10}
    assert min(at or 0 for at in batches) == 3.0
    assert max(at or 0 for at in batches) < 9.0


def test_a_few_clients_leave_one_by_one_and_the_replica_with_the_last(replica: Replica) -> None:
    clients = replica.clients(3)
    replica.loop.run_until_complete(replica.leaves())
    assert [client.ended_at for client in clients] == pytest.approx([3.0, 3.1, 3.2])
    assert replica.loop.time() < 3.5


def test_who_owes_a_proof_leaves_with_it_and_holds_up_nobody(replica: Replica) -> None:
    (slow,) = replica.clients(1, proves_at=7.0)
    others = replica.clients(2)
    replica.loop.run_until_complete(replica.leaves())
    assert slow.ended_at == pytest.approx(7.0)
    assert max(client.ended_at or 0 for client in others) < 4.0


def test_who_proves_nothing_leaves_when_the_time_is_up(replica: Replica) -> None:
    (dead,) = replica.clients(1, proves_at=math.inf)
    replica.loop.run_until_complete(replica.leaves())
    assert dead.ended_at == pytest.approx(SECONDS)


def test_who_came_in_after_the_drain_began_leaves_too(replica: Replica) -> None:
    replica.clients(1)
    replica.loop.call_at(3.05, lambda: late.extend(replica.clients(1, proves_at=math.inf)))
    late: list[Client] = []
    replica.loop.run_until_complete(replica.leaves())
    assert late[0].ended_at is not None
    assert late[0].ended_at <= SECONDS


def test_without_clients_a_replica_leaves_at_once(replica: Replica) -> None:
    replica.loop.run_until_complete(replica.leaves())
    assert replica.loop.time() == 0.0


def test_without_time_everybody_leaves_at_once_proof_or_not(replica: Replica) -> None:
    clients = [*replica.clients(100), *replica.clients(1, proves_at=math.inf)]
    replica.loop.run_until_complete(replica.leaves(0))
    assert {client.ended_at for client in clients} == {0.0}


def test_a_drain_that_is_cut_short_sends_the_rest_away_at_once(replica: Replica) -> None:
    clients = replica.clients(600)
    drain = replica.loop.create_task(replica.leaves())
    replica.loop.call_at(4.05, drain.cancel)
    with pytest.raises(asyncio.CancelledError):
        replica.loop.run_until_complete(drain)
    batches = Counter(client.ended_at for client in clients)
    assert batches.pop(4.05) == 600 - 11 * 10
    assert set(batches.values()) == {10}
