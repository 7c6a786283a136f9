"""A client that names itself has its own queue: what this device missed, it gets, and nobody else's proof counts."""

import asyncio

import pytest

from contracts.close_codes import REASONS, CloseCode
from tests.web.clients import Client
from tests.web.conftest import StartReplica
from tests.web.replica import Replica, Visitors, device_queue, token

REPLACED = (4409, REASONS[CloseCode.REPLACED])


async def returns(
    visitors: Visitors, diagnosis: int, name: str, *, receipts: str = "pong"
) -> tuple[Client, int]:
    """A device that was here before, and how many events it missed."""
    client = await visitors.connect(diagnosis, client_id=name, receipts=receipts)
    welcome = await client.welcome()
    assert welcome["resumed"] is True
    return client, welcome["queued_messages"]


async def test_a_new_device_has_no_past_and_a_known_one_resumes(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    for resumed in (False, True, True):
        client = await visitors.connect(diagnosis, client_id="phone")
        welcome = await client.welcome()
        assert (welcome["resumed"], welcome["queued_messages"], welcome["gap"]) == (resumed, 0, False)
        await client.leave()


async def test_a_device_gets_what_it_missed_although_others_had_it(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    phone = await visitors.welcomed(diagnosis, client_id="phone")
    tablet = await visitors.welcomed(diagnosis, client_id="tablet")
    browser = await visitors.welcomed(diagnosis)
    await replica.feedback(diagnosis, 1)
    assert [await client.numbers(1) for client in (phone, tablet, browser)] == [[1]] * 3
    await replica.settled(diagnosis)
    await phone.leave()
    await replica.feedback(diagnosis, *range(2, 7))
    assert await tablet.numbers(5) == await browser.numbers(5) == [2, 3, 4, 5, 6]
    await replica.nothing_waits(diagnosis)
    phone, missed = await returns(visitors, diagnosis, "phone")
    await replica.feedback(diagnosis, 7)
    assert missed == 5
    assert await phone.numbers(6) == [2, 3, 4, 5, 6, 7]
    assert await tablet.numbers(1) == [7]


async def test_on_named_devices_alone_the_shared_queue_stays_empty(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    phone = await visitors.welcomed(diagnosis, client_id="phone")
    tablet = await visitors.welcomed(diagnosis, client_id="tablet", receipts="ack")
    await replica.feedback(diagnosis, *range(20))
    assert await phone.numbers(20) == await tablet.numbers(20) == list(range(20))
    await replica.nothing_waits(diagnosis)
    await phone.leave()
    await tablet.leave()
    await replica.amqp.has_depth(f"diagnosis.{diagnosis}", 0)
    await replica.amqp.has_depth(device_queue(diagnosis, "phone"), 0)
    await replica.amqp.has_depth(device_queue(diagnosis, "tablet"), 20)
    _, missed = await returns(visitors, diagnosis, "tablet", receipts="ack")
    assert missed == 20


async def test_a_new_device_gets_what_the_shared_queue_holds_and_thereby_settles_it(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    queue = f"diagnosis.{diagnosis}"
    await replica.feedback(diagnosis, *range(10))
    await replica.amqp.has_depth(queue, 10)
    phone = await visitors.connect(diagnosis, client_id="phone")
    welcome = await phone.welcome()
    await replica.feedback(diagnosis, *range(10, 20))
    assert await phone.numbers(20) == list(range(20))
    assert not welcome["resumed"]
    assert welcome["queued_messages"] == 10
    await replica.nothing_waits(diagnosis)
    await replica.settled(diagnosis)
    await phone.leave()
    _, missed = await returns(visitors, diagnosis, "phone")
    assert missed == 0


async def test_a_new_device_gets_what_others_were_sent_and_did_not_prove(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    deaf = await visitors.raw(diagnosis)
    await deaf.message()
    await replica.feedback(diagnosis, 1, 2, 3)
    for _ in range(3):
        await deaf.message()
    phone = await visitors.welcomed(diagnosis, client_id="phone")
    await replica.feedback(diagnosis, 4)
    assert await phone.numbers(4) == [1, 2, 3, 4]
    await replica.nothing_waits(diagnosis)


async def test_a_new_device_does_not_get_what_others_had(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    browser = await visitors.welcomed(diagnosis)
    await replica.feedback(diagnosis, 1)
    assert await browser.numbers(1) == [1]
    await replica.nothing_waits(diagnosis)
    phone = await visitors.connect(diagnosis, client_id="phone")
    assert (await phone.welcome())["queued_messages"] == 0
    await replica.feedback(diagnosis, 2)
    assert await phone.numbers(1) == [2]


@pytest.mark.parametrize("waiting", [0, 50])
async def test_devices_that_come_amid_a_stream_miss_nothing_and_get_nothing_twice(
    replica: Replica, visitors: Visitors, waiting: int
) -> None:
    diagnosis = replica.diagnoses.add()
    queue = f"diagnosis.{diagnosis}"
    await (await visitors.welcomed(diagnosis)).leave()
    await replica.feedback(diagnosis, *range(waiting))
    await replica.amqp.has_depth(queue, waiting)
    last = waiting + 150

    async def stream() -> None:
        for number in range(waiting, last):
            await replica.feedback(diagnosis, number)

    async def watch(client: Client) -> list[int]:
        numbers = await client.numbers(1)
        while numbers[-1] < last - 1:
            numbers += await client.numbers(1)
        return numbers

    async def come_and_watch(name: str) -> list[int]:
        return await watch(await visitors.welcomed(diagnosis, client_id=name))

    streaming = asyncio.create_task(stream())
    first = asyncio.create_task(watch(await visitors.welcomed(diagnosis, client_id="phone")))
    others = [await visitors.welcomed(diagnosis)]
    late = [asyncio.create_task(come_and_watch(name)) for name in ("tablet", "desk", "watch")]
    await streaming
    assert await first == list(range(last)), "alone, the first device gets all"
    for numbers in await asyncio.gather(*late):
        assert numbers == list(range(numbers[0], last))
    await replica.nothing_waits(diagnosis)
    for client in others:
        await client.leave()


async def test_a_devices_backlog_keeps_the_newest_100_and_says_so(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    await (await visitors.welcomed(diagnosis, client_id="phone")).leave()
    browser = await visitors.welcomed(diagnosis)
    await replica.feedback(diagnosis, *range(150))
    assert await browser.numbers(150) == list(range(150))
    await replica.amqp.has_depth(device_queue(diagnosis, "phone"), 100)
    phone = await visitors.connect(diagnosis, client_id="phone")
    welcome = await phone.welcome()
    assert (welcome["resumed"], welcome["gap"], welcome["queued_messages"]) == (True, True, 100)
    assert await phone.numbers(100) == list(range(50, 150))


async def test_what_a_device_did_not_prove_comes_again_to_it(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    browser = await visitors.welcomed(diagnosis)
    phone = await visitors.welcomed(diagnosis, client_id="phone", receipts="ack")
    await replica.feedback(diagnosis, 1, 2, 3)
    events = await phone.events(3)
    await phone.send({"type": "ack", "event_id": events[0]["event_id"]})
    await phone.ping()
    await phone.leave()
    assert await browser.numbers(3) == [1, 2, 3]
    phone, missed = await returns(visitors, diagnosis, "phone")
    again = await phone.events(2)
    assert missed == 2
    assert [event["data"]["feedback_id"] for event in again] == [2, 3]
    assert all(event["redelivered"] for event in again)


async def test_the_same_device_again_replaces_the_older_connection(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    old = await visitors.welcomed(diagnosis, client_id="phone", receipts="ack")
    await replica.feedback(diagnosis, 1, 2)
    assert await old.numbers(2) == [1, 2]
    new, missed = await returns(visitors, diagnosis, "phone")
    assert await old.closed() == REPLACED
    await replica.feedback(diagnosis, 3)
    assert missed == 2
    assert await new.numbers(3) == [1, 2, 3]
    await replica.nothing_waits(diagnosis)


async def test_a_connection_that_was_opened_before_replaces_none_however_late_it_is_admitted(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    old = await visitors.open(replica.url(diagnosis, client_id="phone"))
    new = await visitors.welcomed(diagnosis, client_id="phone")
    await old.send({"type": "auth", "token": token()})
    assert await old.closed() == REPLACED
    await replica.feedback(diagnosis, 1)
    assert await new.numbers(1) == [1]


async def test_of_many_that_come_at_once_under_one_name_one_stays(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    await (await visitors.welcomed(diagnosis, client_id="phone")).leave()
    clients = await asyncio.gather(*(visitors.connect(diagnosis, client_id="phone") for _ in range(8)))
    endings = [asyncio.create_task(client.closed()) for client in clients]
    async with asyncio.timeout(20):
        while sum(ending.done() for ending in endings) < 7:
            await asyncio.wait([e for e in endings if not e.done()], return_when=asyncio.FIRST_COMPLETED)
    assert [ending.result() for ending in endings if ending.done()] == [REPLACED] * 7
    assert replica.service.manager.get_connection_count(diagnosis) == 1
    [survivor] = [ending for ending in endings if not ending.done()]
    survivor.cancel()
    new, _ = await returns(visitors, diagnosis, "phone")
    await replica.feedback(diagnosis, 1)
    assert await new.numbers(1) == [1]


async def test_a_name_is_a_devices_in_one_diagnosis(replica: Replica, visitors: Visitors) -> None:
    first, second = replica.diagnoses.add(), replica.diagnoses.add()
    clients = [await visitors.welcomed(diagnosis, client_id="phone") for diagnosis in (first, second)]
    await replica.feedback(first, 1)
    await replica.feedback(second, 2)
    assert [await client.numbers(1) for client in clients] == [[1], [2]]


async def test_too_many_new_devices_come_back_another_day_and_known_ones_at_any_time(
    start_replica: StartReplica,
) -> None:
    async with start_replica(new_devices_per_day=3) as replica, Visitors(replica) as visitors:
        diagnosis, other = replica.diagnoses.add(), replica.diagnoses.add()
        for name in "abc":
            await (await visitors.welcomed(diagnosis, client_id=name)).leave()
        for wanted in (diagnosis, other):
            refused = await visitors.connect(wanted, client_id="d")
            assert await refused.closed() == (1013, REASONS[CloseCode.TRY_LATER])
        await replica.feedback(diagnosis, 1)
        client, missed = await returns(visitors, diagnosis, "a")
        assert missed == 1
        assert await client.numbers(1) == [1]
        unnamed = await visitors.welcomed(other)
        await replica.feedback(other, 2)
        assert await unnamed.numbers(1) == [2]
