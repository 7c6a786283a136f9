"""web.rests: whose proofs decide nothing is read less often, and nothing it says is lost."""

import asyncio
from collections.abc import Iterator

import pytest

from contracts.ids import DiagnosisId, EventId
from realtime_service.crowd import CROWD, Crowd
from realtime_service.hub import Connection, Hub
from realtime_service.web.connection import ClientConnection
from realtime_service.web.rests import REST_SECONDS, Rests
from realtime_service.web.websocket import _Conversation
from tests.service.harness.waiting import until
from tests.web.clients import Client, frame
from tests.web.replica import Replica, Visitors

EVENTS = 20


class Reading:
    """Notes whether it is read."""

    def __init__(self) -> None:
        self.read = True

    def pause_reading(self) -> None:
        self.read = False

    def resume_reading(self) -> None:
        self.read = True


async def test_everybody_who_rests_is_read_again_at_the_next_tick() -> None:
    rests, those = Rests(REST_SECONDS), [Reading() for _ in range(3)]
    for _ in range(2):
        for reading in those:
            rests.rest(reading)
        assert not any(reading.read for reading in those)
        await until(lambda: all(reading.read for reading in those), "they are read")


class Acknowledged(dict[str, int]):
    """How often the hub was told of a connection's acknowledgements."""

    def __init__(self, hub: Hub, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._tell = hub.ack
        patch.setattr(hub, "ack", self._ack)

    def _ack(self, connection: Connection, event: EventId) -> bool:
        name = connection.member.id
        self[name] = self.get(name, 0) + 1
        return self._tell(connection, event)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Rests]]:
    """Whose tick has come; nobody is woken by it before the test is over."""
    came: list[Rests] = []
    wake = Rests._wake
    monkeypatch.setattr(Rests, "_wake", lambda rests: came.append(rests))
    yield came
    for rests in came:
        wake(rests)


async def crowd_of(replica: Replica, visitors: Visitors, diagnosis: int) -> list[Client]:
    """Clients that acknowledge by themselves, and have been welcomed."""
    return [await visitors.welcomed(diagnosis, receipts="ack") for _ in range(CROWD + 8)]


async def test_what_one_of_a_crowd_acknowledges_while_it_rests_comes_at_once(
    replica: Replica, visitors: Visitors, ticks: list[Rests], monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnosis = replica.diagnoses.add()
    crowd = await crowd_of(replica, visitors, diagnosis)
    await replica.feedback(diagnosis, *range(EVENTS))
    had = [await client.events(EVENTS) for client in crowd]
    await acknowledge(crowd[0], had[0])
    await replica.nothing_waits(diagnosis)
    told = Acknowledged(replica.service.manager._hub, monkeypatch)
    for event in had[-1]:
        await acknowledge(crowd[-1], [event])
        await until(lambda: told, "the first is read, and no other")
    await until(lambda: ticks, "the tick has come")
    assert list(told.values()) == [1]
    ticks[0]._resting, resting = [], ticks[0]._resting
    for each in resting:
        each.resume_reading()
    await until(lambda: list(told.values()) == [2], "the others come together")
    for client, events in list(zip(crowd, had, strict=True))[1:-1]:
        await acknowledge(client, events[-1:])
    await replica.settled(diagnosis)


async def test_some_that_rest_are_read_when_an_event_is_sent(
    replica: Replica, visitors: Visitors, ticks: list[Rests]
) -> None:
    """So it is settled before the next tick, though the one client that does not rest says nothing."""
    diagnosis = replica.diagnoses.add()
    crowd = await crowd_of(replica, visitors, diagnosis)
    for silent in (False, True):
        await replica.feedback(diagnosis, 1)
        had = [await client.events(1) for client in crowd]
        for client, events in list(zip(crowd, had, strict=True))[silent:]:
            await acknowledge(client, events)
        await replica.nothing_waits(diagnosis)
    await until(lambda: ticks, "a tick has come")


async def test_one_that_aiohttp_does_not_read_is_not_read_for_a_crowd(
    replica: Replica, visitors: Visitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends more than is handled."""
    hanging = asyncio.Event()

    async def hang(*_: object) -> None:
        await hanging.wait()

    diagnosis = replica.diagnoses.add()
    await crowd_of(replica, visitors, diagnosis)
    known = set(replica.service.manager._hub.connections_of(DiagnosisId(diagnosis)))
    flood = await visitors.raw(diagnosis, receipts="ack")
    await flood.message()
    await replica.feedback(diagnosis, 0)
    (connection,) = set(replica.service.manager._hub.connections_of(DiagnosisId(diagnosis))) - known
    assert isinstance(connection, ClientConnection)
    monkeypatch.setattr(_Conversation, "hear", hang)
    transport = connection._socket._transport
    many = asyncio.create_task(flood.write(frame(1, b'{"type":"ping"}' + b" " * 3000) * 5000))
    await until(lambda: not transport.is_reading(), "aiohttp has enough")
    for number in range(CROWD):  # each of them is asked for one of these
        await replica.feedback(diagnosis, number)
        await until(lambda: connection.member.receipts.unproven > number, "it is sent")  # noqa: B023
        assert not transport.is_reading()
    many.cancel()
    await flood.abort()
    hanging.set()


async def test_of_a_crowd_that_is_cut_off_while_it_is_sent_events_nobody_else_suffers(
    replica: Replica, visitors: Visitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[Exception] = []
    flush = Crowd.flush

    def noted(crowd: Crowd) -> None:
        try:
            flush(crowd)
        except Exception as error:
            failed.append(error)

    monkeypatch.setattr(Crowd, "flush", noted)
    diagnosis = replica.diagnoses.add()
    stays = await visitors.welcomed(diagnosis)
    cut = [await visitors.raw(diagnosis, receipts="ack") for _ in range(4 * CROWD)]
    for each in cut:
        await each.message()
    sending = asyncio.create_task(replica.feedback(diagnosis, *range(EVENTS)))
    await stays.numbers(1)
    for each in cut:
        await each.abort()
    await sending
    await stays.numbers(EVENTS - 1)
    await replica.settled(diagnosis)
    assert not failed


async def acknowledge(client: Client, events: list[dict[str, object]]) -> None:
    """One frame for each."""
    for event in events:
        await client.send({"type": "ack", "event_id": event["event_id"]})
