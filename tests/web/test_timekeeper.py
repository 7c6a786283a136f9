"""Deadlines: what is due is told, and a stall of this process is nobody else's fault."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from realtime_service.web.timekeeper import TICK_SECONDS, Timekeeper

RECEIPT_SECONDS = 2 * TICK_SECONDS
LIMIT_SECONDS = 10.0


class Client:
    """A connection that notes what it is told."""

    def __init__(self) -> None:
        self.overdue = asyncio.Event()
        self.asked = asyncio.Event()

    def receipt_overdue(self) -> None:
        self.overdue.set()

    def ask_due(self) -> None:
        self.asked.set()

    def heartbeat_due(self) -> None:
        raise AssertionError("it was not quiet for that long")

    def token_expired(self, expires_at: float) -> None:
        raise AssertionError("it has no token")


@pytest.fixture
async def timekeeper() -> AsyncIterator[Timekeeper]:
    """A timekeeper that runs."""
    made = Timekeeper(receipt_timeout_seconds=RECEIPT_SECONDS, heartbeat_seconds=LIMIT_SECONDS)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


def stand_still() -> None:
    """As a process that its machine freezes for a while."""
    time.sleep(RECEIPT_SECONDS + 3 * TICK_SECONDS)


async def test_a_client_that_proves_nothing_in_time_is_overdue(timekeeper: Timekeeper) -> None:
    client = Client()
    timekeeper.owes(client)
    async with asyncio.timeout(LIMIT_SECONDS):
        await client.overdue.wait()


async def test_after_a_stall_a_proof_that_came_meanwhile_is_heard_first(timekeeper: Timekeeper) -> None:
    client = Client()
    timekeeper.owes(client)
    await asyncio.sleep(0)
    stand_still()
    for _ in range(10):  # what lies in the socket takes some turns of the loop
        await asyncio.sleep(0)
    timekeeper.owes_nothing(client)
    assert not client.overdue.is_set()


async def test_after_a_stall_a_client_that_proved_nothing_is_overdue_all_the_same(
    timekeeper: Timekeeper,
) -> None:
    client = Client()
    timekeeper.owes(client)
    await asyncio.sleep(0)
    stand_still()
    async with asyncio.timeout(LIMIT_SECONDS):
        await client.overdue.wait()


async def test_a_client_that_is_asked_later_is_asked_once_and_in_time(timekeeper: Timekeeper) -> None:
    client = Client()
    timekeeper.owes(client)
    timekeeper.asks_later(client)
    timekeeper.asks_later(client)
    async with asyncio.timeout(LIMIT_SECONDS):
        await client.asked.wait()
    assert not client.overdue.is_set(), "it must have the time to answer"
    client.asked.clear()
    timekeeper.look(time.monotonic(), time.time())
    assert not client.asked.is_set()
