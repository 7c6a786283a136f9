"""Clients that are quiet, that cannot prove anything, and that do not read: none of them is kept for ever."""

import asyncio

import pytest
from wsproto.frame_protocol import Opcode

from contracts.close_codes import REASONS, CloseCode
from tests.service.harness.waiting import until
from tests.web.conftest import StartReplica
from tests.web.replica import Replica, Visitors

NO_RECEIPT = (4408, REASONS[CloseCode.NO_RECEIPT])


async def test_a_quiet_client_is_pinged_and_lives_as_long_as_it_answers(
    quick: Replica, hurried: Visitors
) -> None:
    diagnosis = quick.diagnoses.add()
    client = await hurried.raw(diagnosis)
    await client.message()
    await client.pong(client.pings.pop())
    await client.pong(await client.ping())
    await client.ping()
    assert await client.closed() == NO_RECEIPT
    assert len(client.pings) == len(set(client.pings)) == 2


@pytest.mark.parametrize("receipts", ["pong", "ack"])
async def test_a_library_client_stays_connected_by_itself(
    quick: Replica, hurried: Visitors, receipts: str
) -> None:
    diagnosis = quick.diagnoses.add()
    client = await hurried.welcomed(diagnosis, receipts=receipts)
    watching = await hurried.raw(diagnosis)
    await watching.message()
    await watching.pong(watching.pings.pop())
    for _ in range(2):  # heartbeats, more than the time for a proof apart
        await watching.pong(await watching.ping())
    await client.ping()


# No receipts to be had


async def test_where_receipts_are_not_required_a_client_that_swallows_pings_is_served(
    start_replica: StartReplica,
) -> None:
    async with (
        start_replica(require_receipts=False, receipt_timeout_seconds=0.3, heartbeat_seconds=1) as replica,
        Visitors(replica) as visitors,
    ):
        diagnosis = replica.diagnoses.add()
        await replica.feedback(diagnosis, 1)
        deaf = await visitors.raw(diagnosis)
        assert (await deaf.message())["data"]["receipts"] == "none"
        await replica.feedback(diagnosis, 2)
        assert [(await deaf.message())["data"]["feedback_id"] for _ in range(2)] == [1, 2]
        await replica.nothing_waits(diagnosis)
        sound = await visitors.connect(diagnosis)
        assert (await sound.welcome())["receipts"] == "pong"
        await deaf.send(Opcode.TEXT, b"ping")
        assert (await deaf.message())["type"] == "pong"


async def test_what_a_client_says_while_it_is_tried_out_is_heard(start_replica: StartReplica) -> None:
    async with (
        start_replica(require_receipts=False, receipt_timeout_seconds=0.5) as replica,
        Visitors(replica) as visitors,
    ):
        client = await visitors.raw(replica.diagnoses.add())
        await client.send(Opcode.TEXT, b"ping")
        assert (await client.message())["type"] == "connect"
        assert (await client.message())["type"] == "pong"


# Clients that do not read


async def test_a_client_that_does_not_read_is_ended_and_harms_nobody(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    slow = await visitors.raw(diagnosis, receive_buffer=4096)
    await slow.message()
    await slow.pong(slow.pings.pop())
    sound = await visitors.welcomed(diagnosis)
    payload = {"text": "x" * 60_000}
    sent = 0
    while replica.service.manager.get_connection_count(diagnosis) == 2:
        assert sent < 32 * 1024 * 1024, "what is unsent is bounded"
        await asyncio.gather(
            *(
                replica.events.broadcast_recommendation_update(diagnosis, {}, payload, "large")
                for _ in range(10)
            )
        )
        assert len(await sound.events(10)) == 10
        sent += 600_000
    await replica.feedback(diagnosis, 1)
    assert await sound.numbers(1) == [1]


async def test_alone_a_client_that_does_not_read_is_ended_too(quick: Replica, hurried: Visitors) -> None:
    diagnosis = quick.diagnoses.add()
    slow = await hurried.raw(diagnosis, receive_buffer=4096)
    await slow.message()
    await slow.pong(slow.pings.pop())
    payload = {"text": "x" * 60_000}
    await asyncio.gather(
        *(quick.events.broadcast_recommendation_update(diagnosis, {}, payload, "large") for _ in range(60))
    )
    await until(lambda: not quick.service.manager.get_connection_count(diagnosis), "the slow client is ended")
    heir = await hurried.welcomed(diagnosis)
    assert len(await heir.events(60)) == 60
