"""web.rests: whose proofs decide nothing is read less often, and nothing it says is lost."""

import pytest

from contracts.ids import EventId
from realtime_service.crowd import CROWD
from realtime_service.hub import Connection, Hub
from realtime_service.web.rests import Rests
from tests.service.harness.waiting import until
from tests.web.clients import Client
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
    rests, those = Rests(), [Reading() for _ in range(3)]
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


async def test_what_one_of_a_crowd_acknowledges_while_it_rests_comes_at_once(
    replica: Replica, visitors: Visitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnosis = replica.diagnoses.add()
    crowd = [await visitors.connect(diagnosis, receipts="ack") for _ in range(CROWD + 8)]
    names = [(await client.welcome())["connection_id"] for client in crowd]
    told = Acknowledged(replica.service.manager._hub, monkeypatch)
    await replica.feedback(diagnosis, *range(EVENTS))
    had = [await client.events(EVENTS) for client in crowd]
    await acknowledge(crowd[0], had[0])
    await replica.nothing_waits(diagnosis)
    await acknowledge(crowd[-1], had[-1])
    await crowd[-1].ping()
    assert told[names[-1]] < EVENTS
    for client, events in list(zip(crowd, had, strict=True))[1:-1]:
        await acknowledge(client, events)
    await replica.settled(diagnosis)


async def test_some_that_rest_are_read_when_an_event_is_sent(
    replica: Replica, visitors: Visitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is settled before the next tick, though the one client that does not rest says nothing."""
    ticks: list[Rests] = []
    monkeypatch.setattr(Rests, "_wake", lambda rests: ticks.append(rests))
    diagnosis = replica.diagnoses.add()
    crowd = [await visitors.connect(diagnosis, receipts="ack") for _ in range(CROWD + 8)]
    for client in crowd:
        await client.welcome()
    for silent in (False, True):
        await replica.feedback(diagnosis, 1)
        had = [await client.events(1) for client in crowd]
        for client, events in list(zip(crowd, had, strict=True))[silent:]:
            await acknowledge(client, events)
        await replica.nothing_waits(diagnosis)
    await until(lambda: ticks, "a tick has come")
    monkeypatch.undo()
    ticks[0]._wake()


async def acknowledge(client: Client, events: list[dict[str, object]]) -> None:
    """One frame for each."""
    for event in events:
        await client.send({"type": "ack", "event_id": event["event_id"]})
