"""What a connection was made of is free once it is closed: nothing of it waits for the garbage collector.

Thousands come and go; a collector that has to find what they left stops everybody meanwhile.
"""

import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.harness.waiting import until
from tests.web.replica import STRANGER, Replica, Visitors

ROUNDS = 5


class Garbage(Counter[str]):
    """What would have waited for the collector since it was asked last: objects of this service and of aiohttp."""

    def collect(self) -> None:
        self.clear()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
        finally:
            gc.set_debug(0)
        modules = (type(each).__module__ for each in gc.garbage)
        self.update(
            name for name in modules if name.startswith(("realtime_service", "aiohttp", "sqlalchemy"))
        )
        gc.garbage.clear()


@pytest.fixture
def garbage() -> Iterator[Garbage]:
    gc.collect()
    gc.disable()
    yield Garbage()
    gc.enable()


async def come_and_go(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    """In each of the ways: with a word, without, and not let in."""
    ways: tuple[dict[str, Any], ...] = ({}, {"receipts": "ack"}, {"client_id": "phone"})
    for query in ways:
        client = await visitors.connect(diagnosis, **query)
        await client.welcome()
        await replica.feedback(diagnosis, 1)
        (event,) = await client.events(1)
        await client.send({"type": "ack", "event_id": event["event_id"]})
        await client.ping()
        await client.leave()
    two = [await visitors.raw(diagnosis) for _ in range(2)]
    for each in two:
        await each.message()
    for each in two:
        await each.abort()
    refused = await visitors.connect(diagnosis, user=STRANGER)
    await refused.closed()
    await replica.gone(diagnosis)


async def test_who_came_and_went_leaves_nothing_to_collect(
    replica: Replica, visitors: Visitors, garbage: Garbage
) -> None:
    diagnoses = [replica.diagnoses.add() for _ in range(ROUNDS)]
    for diagnosis in diagnoses:
        await come_and_go(replica, visitors, diagnosis)
    places = replica.service.manager._hub._places
    await until(lambda: not places, "all rooms are closed")
    garbage.collect()
    for diagnosis in diagnoses:
        await come_and_go(replica, visitors, diagnosis)
    await until(lambda: not places, "all rooms are closed")
    garbage.collect()
    assert all(count < ROUNDS for count in garbage.values()), garbage
