"""An event is gone from the queue when a client proved it, and not before; who proves nothing is found out in time."""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from wsproto.frame_protocol import Opcode

from contracts.close_codes import REASONS, CloseCode
from contracts.ids import DiagnosisId
from realtime_service.domain.window import WINDOW_EVENTS
from tests.web.clients import Client, frame
from tests.web.replica import Replica, Visitors, device_queue

NO_RECEIPT = (4408, REASONS[CloseCode.NO_RECEIPT])


async def ack(client: Client, event_id: str) -> None:
    await client.send({"type": "ack", "event_id": event_id})


# PONGs


async def test_a_pong_proves_what_was_sent_before_its_ping(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.raw(diagnosis)
    await client.message()
    await client.pong(client.pings.pop())
    await replica.feedback(diagnosis, 1)
    await client.message()
    proof = await client.ping()
    await replica.feedback(diagnosis, 2)
    await client.message()
    await client.pong(proof)
    await client.ping()
    await client.abort()
    heir = await visitors.welcomed(diagnosis)
    assert await heir.numbers(1) == [2]


async def test_a_pong_that_nobody_asked_for_proves_nothing(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.raw(diagnosis)
    await client.message()
    welcoming = client.pings.pop()
    await replica.feedback(diagnosis, 1)
    await client.message()
    nonce, _, number = welcoming.partition(b".")
    for guess in (
        b"",
        b"1",
        b"x.2",
        nonce,
        nonce + b".",
        nonce + b".99",
        nonce + b".-1",
        nonce + b".\xc2\xb2",
    ):
        await client.pong(guess)
    assert number == b"1"
    await client.send(Opcode.TEXT, b"ping")
    assert (await client.message())["type"] == "pong"
    await client.abort()
    heir = await visitors.welcomed(diagnosis)
    assert await heir.numbers(1) == [1]


async def test_a_client_that_never_answers_is_closed_and_the_next_gets_its_events_in_order(
    quick: Replica, hurried: Visitors
) -> None:
    diagnosis = quick.diagnoses.add()
    deaf = await hurried.raw(diagnosis)
    await deaf.message()
    await quick.feedback(diagnosis, *range(20))
    assert await deaf.closed() == NO_RECEIPT
    heir = await hurried.connect(diagnosis)
    assert (await heir.welcome())["queued_messages"] == 20
    events = await heir.events(20)
    assert [event["data"]["feedback_id"] for event in events] == list(range(20))
    assert all(event["redelivered"] for event in events)


async def test_a_client_that_answers_nothing_is_closed_without_any_event(
    quick: Replica, hurried: Visitors
) -> None:
    """A gateway that swallows PINGs is found out by the first one."""
    client = await hurried.raw(quick.diagnoses.add())
    assert await client.closed() == NO_RECEIPT


async def test_a_slow_client_that_makes_progress_is_not_closed(quick: Replica, hurried: Visitors) -> None:
    diagnosis = quick.diagnoses.add()
    slow = await hurried.raw(diagnosis)
    await slow.message()
    await slow.pong(slow.pings.pop())
    started = time.monotonic()
    sent = 0
    while time.monotonic() - started < 2:
        await quick.feedback(diagnosis, sent, sent + 1)
        sent += 2
        proof = await slow.ping()
        await asyncio.sleep(0.3)  # a link that takes so long
        await slow.pong(proof)
    await slow.send(Opcode.TEXT, b"ping")
    while (await slow.message())["type"] != "pong":
        pass


async def test_a_large_burst_is_proved_in_parts(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.raw(diagnosis)
    await client.message()
    await client.pong(client.pings.pop())
    await asyncio.gather(
        *(
            replica.events.broadcast_recommendation_update(diagnosis, {}, {"text": "x" * 4000}, "large")
            for _ in range(40)
        )
    )
    for _ in range(40):
        await client.message()
    assert len(client.pings) > 5
    await client.pong(client.pings[2])
    await client.abort()
    heir = await visitors.connect(diagnosis)
    left = (await heir.welcome())["queued_messages"]
    assert 0 < left < 40
    await heir.events(left)


# Acknowledgements


async def test_an_ack_settles_the_event_and_all_before_it(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.connect(diagnosis, receipts="ack")
    assert (await client.welcome())["receipts"] == "ack"
    await replica.feedback(diagnosis, *range(10))
    events = await client.events(10)
    await ack(client, events[5]["event_id"])
    await ack(client, events[2]["event_id"])
    await ack(client, "never heard of")
    await client.ping()
    await client.leave()

    again = await visitors.connect(diagnosis, receipts="ack")
    assert (await again.welcome())["queued_messages"] == 4
    returned = await again.events(4)
    assert [event["event_id"] for event in returned] == [event["event_id"] for event in events[6:]]
    assert all(event["redelivered"] is True for event in returned)
    assert not any("redelivered" in event for event in events)
    await ack(again, returned[-1]["event_id"])
    await replica.nothing_waits(diagnosis)


async def test_pongs_prove_nothing_where_acks_are_asked_for(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis, receipts="ack")
    await replica.feedback(diagnosis, 1)
    await client.events(1)
    await (await client.socket.ping())
    await client.leave()
    assert (await (await visitors.connect(diagnosis)).welcome())["queued_messages"] == 1


async def test_acks_prove_nothing_where_pongs_are_asked_for(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.raw(diagnosis)
    await client.message()
    await replica.feedback(diagnosis, 1, event_id=f"unproven {diagnosis}")
    await client.message()
    await client.send(Opcode.TEXT, f'{{"type":"ack","event_id":"unproven {diagnosis}"}}'.encode())
    await client.send(Opcode.TEXT, b"ping")
    assert (await client.message())["type"] == "pong"
    await client.abort()
    assert (await (await visitors.connect(diagnosis)).welcome())["queued_messages"] == 1


async def test_one_clients_proof_is_enough_for_the_unnamed(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    forgetful = await visitors.welcomed(diagnosis, receipts="ack")
    careful = await visitors.welcomed(diagnosis, receipts="ack")
    await replica.feedback(diagnosis, 1)
    await forgetful.events(1)
    [event] = await careful.events(1)
    await ack(careful, event["event_id"])
    await replica.nothing_waits(diagnosis)


async def test_a_client_that_acknowledges_nothing_is_closed(quick: Replica, hurried: Visitors) -> None:
    diagnosis = quick.diagnoses.add()
    client = await hurried.welcomed(diagnosis, receipts="ack")
    await quick.feedback(diagnosis, 1, 2)
    assert await client.closed() == NO_RECEIPT
    heir = await hurried.welcomed(diagnosis)
    assert await heir.numbers(2) == [1, 2]


@pytest.mark.parametrize("noise", ["ping", '{"type":"ack","event_id":"unknown"}'])
async def test_talking_without_proving_does_not_stop_the_clock(
    quick: Replica, hurried: Visitors, noise: str
) -> None:
    diagnosis = quick.diagnoses.add()
    client = await hurried.welcomed(diagnosis, receipts="ack")
    await quick.feedback(diagnosis, 1)
    closed = asyncio.create_task(client.closed())
    started = time.monotonic()
    while not closed.done() and time.monotonic() - started < 4:
        with suppress(ConnectionClosed):  # it may come across the end
            await client.socket.send(noise)
        await asyncio.wait([closed], timeout=0.1)
    assert await closed == NO_RECEIPT


async def test_an_old_pong_again_and_again_does_not_stop_the_clock(quick: Replica, hurried: Visitors) -> None:
    diagnosis = quick.diagnoses.add()
    client = await hurried.raw(diagnosis)
    await client.message()
    old = client.pings.pop()
    await client.pong(old)
    await quick.feedback(diagnosis, 1)
    closed = asyncio.create_task(client.closed())
    started = time.monotonic()
    while not closed.done() and time.monotonic() - started < 4:
        await client.pong(old)
        await asyncio.wait([closed], timeout=0.1)
    assert await closed == NO_RECEIPT


async def test_evictions_behind_a_client_that_proves_nothing_are_told_by_number(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis, receipts="ack")
    await replica.feedback(diagnosis, *range(WINDOW_EVENTS + 100 + 30))
    events: list[Any] = []
    evicted = 0
    while evicted < 30 or len(events) < WINDOW_EVENTS:
        frame = await client.frame()
        if frame["type"] == "gap":
            evicted += frame["data"]["evicted"]
        else:
            events.append(frame)
    assert evicted == 30
    assert [event["data"]["feedback_id"] for event in events] == list(range(WINDOW_EVENTS))
    await ack(client, events[-1]["event_id"])
    assert await client.numbers(100) == list(range(WINDOW_EVENTS + 30, WINDOW_EVENTS + 130))


# Leaving


async def test_who_is_to_leave_gets_nothing_more_and_leaves_with_its_proof(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    leaves = await visitors.welcomed(diagnosis, client_id="phone", receipts="ack")
    (connection,) = replica.service.manager._hub.connections_of(DiagnosisId(diagnosis))
    stays = await visitors.welcomed(diagnosis)
    await replica.feedback(diagnosis, 1)
    (event,) = await leaves.events(1)
    connection.end_when_proven(CloseCode.RESTARTING)
    await replica.feedback(diagnosis, 2)
    assert await stays.numbers(2) == [1, 2]
    await ack(leaves, event["event_id"])
    with pytest.raises(ConnectionClosed) as ending:
        await leaves.frame()
    assert ending.value.rcvd is not None
    assert ending.value.rcvd.code == CloseCode.RESTARTING
    await replica.amqp.has_depth(device_queue(diagnosis, "phone"), 1)
    assert await (await visitors.welcomed(diagnosis, client_id="phone")).numbers(1) == [2]


async def test_acknowledgements_in_another_order_that_come_in_one_piece_prove_all_they_say(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.raw(diagnosis, receipts="ack")
    await client.message()
    await replica.feedback(diagnosis, 1, 2, 3)
    events = [(await client.message())["event_id"] for _ in range(3)]
    acks = [frame(1, json.dumps({"type": "ack", "event_id": event}).encode()) for event in events]
    await client.write(acks[2] + acks[0])
    await replica.settled(diagnosis)
