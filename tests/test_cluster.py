"""Replicas that count together, on an exchange in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from contracts.ids import DiagnosisId
from contracts.replicas import MESSAGES, Census, CensusAsk, Presence, ReplicaMessage
from realtime_service import cluster
from realtime_service.cluster import Cluster, Counted
from realtime_service.domain.errors import PublishError
from tests.service.harness.waiting import until

ONE, TWO = DiagnosisId(1), DiagnosisId(2)


class Exchange:
    """`realtime.nodes`: brings what one says to those who listen, as JSON."""

    def __init__(self) -> None:
        self.listeners: dict[str, Cluster] = {}
        self.available = True
        self.presences = 0

    def bring(self, node: str, message: ReplicaMessage) -> None:
        if not self.available:
            raise PublishError("the broker is away")
        if listener := self.listeners.get(node):
            kind = MESSAGES[message.kind]
            copy = kind.model_validate_json(message.model_dump_json())
            assert isinstance(copy, Presence | CensusAsk | Census)
            asyncio.get_running_loop().call_soon(listener.heard, copy)


class Voice:
    """A `domain.sessions.Replicas`."""

    def __init__(self, exchange: Exchange, name: str) -> None:
        self._exchange = exchange
        self.name = name

    async def tell_room(self, diagnosis: DiagnosisId, message: ReplicaMessage) -> None:
        raise AssertionError("a census is no room's business")

    async def tell(self, node: str, message: ReplicaMessage) -> None:
        self._exchange.bring(node, message)

    async def tell_all(self, message: ReplicaMessage) -> None:
        self._exchange.presences += isinstance(message, Presence)
        for node in list(self._exchange.listeners):
            self._exchange.bring(node, message)


@asynccontextmanager
async def replica(
    exchange: Exchange, name: str, connections: dict[DiagnosisId, int], unsettled: dict[DiagnosisId, int]
) -> AsyncIterator[Cluster]:
    """A replica that has this; it does not say good-bye."""
    node = f"node of {name}"
    one = Cluster(Voice(exchange, node), name, lambda: connections, lambda: unsettled)
    exchange.listeners[node] = one
    running = asyncio.create_task(one.run())
    yield one
    running.cancel()
    exchange.listeners.pop(node, None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes faster."""
    monkeypatch.setattr(cluster, "PRESENCE_SECONDS", 0.02)
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)


async def counts(one: Cluster, connections: dict[DiagnosisId, int], silent: list[str]) -> None:
    """Wait until a census says this."""
    for _ in range(200):
        counted = await one.census()
        if (counted.connections, counted.silent) == (connections, silent):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(await one.census())


async def test_all_replicas_are_counted_together(quick: None) -> None:
    exchange = Exchange()
    async with (
        replica(exchange, "a", {ONE: 1}, {ONE: 3}) as a,
        replica(exchange, "b", {ONE: 2, TWO: 5}, {}) as b,
        replica(exchange, "c", {}, {TWO: 4}) as c,
    ):
        for each in (a, b, c):
            await counts(each, {ONE: 3, TWO: 5}, [])
            assert (await each.census()).unsettled == {ONE: 3, TWO: 4}


async def test_a_newcomer_knows_the_others_before_they_speak_by_themselves(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PRESENCE_SECONDS", 3600.0)
    exchange = Exchange()
    async with replica(exchange, "a", {ONE: 1}, {}):
        await until(lambda: exchange.presences == 2, "it has heard itself, and the hour has begun")
        async with replica(exchange, "b", {TWO: 1}, {}) as b:
            await counts(b, {ONE: 1, TWO: 1}, [])


async def test_a_replica_that_is_silent_is_named_and_forgotten_in_the_end(quick: None) -> None:
    exchange = Exchange()
    async with replica(exchange, "a", {ONE: 1}, {}) as a, replica(exchange, "b", {TWO: 1}, {}):
        await counts(a, {ONE: 1, TWO: 1}, [])
        del exchange.listeners["node of b"]  # it speaks, and hears nothing
        since = asyncio.get_running_loop().time()
        counted = await a.census()
        assert asyncio.get_running_loop().time() - since < 1
        assert (counted.connections, counted.silent) == ({ONE: 1}, ["b"])
    async with replica(exchange, "a", {ONE: 1}, {}) as a:
        async with replica(exchange, "b", {TWO: 1}, {}):
            await counts(a, {ONE: 1, TWO: 1}, [])
        await counts(a, {ONE: 1}, [])


async def test_a_replica_that_leaves_is_not_waited_for(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange()
    async with replica(exchange, "a", {ONE: 1}, {}) as a, replica(exchange, "b", {TWO: 1}, {}) as b:
        await counts(a, {ONE: 1, TWO: 1}, [])
        monkeypatch.setattr(cluster, "ANSWER_SECONDS", 30.0)
        await b.leave()
        async with asyncio.timeout(5):
            assert await a.census() == Counted({ONE: 1}, {}, [], {"a": {ONE: 1}})


async def test_while_the_broker_is_away_nobody_is_forgotten_and_the_own_numbers_are_told(quick: None) -> None:
    exchange = Exchange()
    async with replica(exchange, "a", {ONE: 1}, {ONE: 2}) as a, replica(exchange, "b", {TWO: 1}, {}):
        await counts(a, {ONE: 1, TWO: 1}, [])
        exchange.available = False
        for _ in range(20):
            await asyncio.sleep(cluster.PRESENCE_SECONDS)
            assert await a.census() == Counted({ONE: 1}, {ONE: 2}, ["b"], {"a": {ONE: 1}})
        exchange.available = True
        await counts(a, {ONE: 1, TWO: 1}, [])


@pytest.mark.usefixtures("quick")
async def test_a_replica_names_the_others_once_they_have_had_the_time_to_say_that_they_are_there() -> None:
    exchange = Exchange()
    async with replica(exchange, "one", {}, {}) as one:
        assert one.others() is None
        async with replica(exchange, "two", {}, {}) as two:
            assert two.others() is None
            await until(lambda: two.others() is not None, "the others had their time")
            assert two.others() == frozenset({"node of one"})
            assert one.others() == frozenset({"node of two"})
            await two.leave()
        await until(lambda: one.others() == frozenset(), "it is alone")


@pytest.mark.usefixtures("quick")
async def test_after_a_loss_a_replica_may_be_away_until_it_answers_whatever_it_had_said_before() -> None:
    exchange = Exchange()
    async with replica(exchange, "a", {ONE: 1}, {}) as a, replica(exchange, "b", {TWO: 1}, {}) as b:
        await counts(a, {ONE: 1, TWO: 1}, [])
        assert not a.some_may_be_away()
        del exchange.listeners["node of b"]
        a.returned()
        said = exchange.presences
        await until(lambda: exchange.presences > said + 4, "both said again that they are there")
        assert a.some_may_be_away()
        exchange.listeners["node of b"] = b
        await until(lambda: not a.some_may_be_away(), "it is back, and was asked again")
    a.returned()
    assert a.some_may_be_away()
    a.heard(Presence(sender="node of b", replica="b", leaving=True))
    assert not a.some_may_be_away()
