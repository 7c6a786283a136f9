"""A crowd watches one diagnosis: everybody gets every event, a few are asked at once, and in the end everybody is."""

import asyncio
from collections.abc import Callable

import pytest

from contracts.close_codes import CloseCode
from contracts.ids import DiagnosisId
from realtime_service import crowd as crowds
from realtime_service.crowd import ASKED_OF_A_CROWD, CROWD
from realtime_service.hub import Connection
from tests.service.harness.waiting import until
from tests.web.clients import Client
from tests.web.replica import Replica, Visitors

EVENTS = 120


async def test_of_a_crowd_a_few_are_asked_for_each_event_and_everybody_in_time(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    crowd = await asyncio.gather(*(visitors.raw(diagnosis) for _ in range(CROWD + 8)))
    for client in crowd:
        await client.message()
        while not client.pings:
            await client.ping()
        await client.pong(client.pings.pop())
    await replica.feedback(diagnosis, 1, 2, 3)
    for client in crowd:
        assert [(await client.message())["data"]["feedback_id"] for _ in range(3)] == [1, 2, 3]
    asked = [client for client in crowd if client.pings]
    assert len(asked) <= 3 * ASKED_OF_A_CROWD
    for client in crowd:
        await client.pong(client.pings.pop() if client.pings else await client.ping())


async def test_one_of_a_crowd_that_never_answers_is_found_out(quick: Replica, hurried: Visitors) -> None:
    diagnosis = quick.diagnoses.add()
    await asyncio.gather(*(hurried.welcomed(diagnosis) for _ in range(CROWD)))
    deaf = await hurried.raw(diagnosis)
    await deaf.message()
    await quick.feedback(diagnosis, 1)
    assert (await deaf.message())["data"]["feedback_id"] == 1
    assert (await deaf.closed())[0] == 4408


async def test_whom_something_of_its_own_sets_apart_gets_all_and_once_and_in_order(
    replica: Replica, visitors: Visitors
) -> None:
    """Events that leave one of a crowd out, newcomers and acknowledgements amid a stream."""
    diagnosis = replica.diagnoses.add()
    modes = ["pong", "ack"] * (CROWD // 2 + 3)
    crowd = [await visitors.connect(diagnosis, receipts=mode) for mode in modes]
    names = [(await client.welcome())["connection_id"] for client in crowd]
    expected: list[list[int]] = [[] for _ in crowd]
    reading = [asyncio.create_task(proves(*each)) for each in zip(crowd, modes, strict=True)]
    for number in range(EVENTS):
        left_out = number % len(crowd) if number % 7 == 3 else None
        options = {} if left_out is None else {"exclude_connection_id": names[left_out]}
        await replica.feedback(diagnosis, number, **options)
        for client, numbers in enumerate(expected):
            if client != left_out:
                numbers.append(number)
        if number % 40 == 20:
            late = await visitors.welcomed(diagnosis)
            await replica.feedback(diagnosis, EVENTS + number)
            for numbers in expected:
                numbers.append(EVENTS + number)
            while (await late.numbers(1)) != [EVENTS + number]:
                pass
            await late.leave()
    assert await asyncio.gather(*reading) == expected
    await replica.settled(diagnosis)
    await replica.nothing_waits(diagnosis)


async def proves(client: Client, mode: str) -> list[int]:
    """Read until the last event; prove each, where that is not done by PONGs."""
    numbers: list[int] = []
    while numbers[-1:] != [EVENTS - 1]:
        (event,) = await client.events(1)
        numbers.append(event["data"]["feedback_id"])
        if mode == "ack":
            await client.send({"type": "ack", "event_id": event["event_id"]})
    return numbers


async def test_who_leaves_a_crowd_with_events_unproven_leaves_them_to_the_others(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    deaf = [await visitors.raw(diagnosis) for _ in range(CROWD + 2)]
    for client in deaf:
        await client.message()
        await client.pong(client.pings.pop() if client.pings else await client.ping())
    await replica.feedback(diagnosis, 1, 2, 3)
    for client in deaf:
        assert [(await client.message())["data"]["feedback_id"] for _ in range(3)] == [1, 2, 3]
    for client in deaf:
        await client.abort()
    await replica.gone(diagnosis)
    assert await (await visitors.welcomed(diagnosis)).numbers(3) == [1, 2, 3]


async def test_one_of_a_crowd_that_reads_nothing_is_told_to_come_back(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    crowd = [await visitors.welcomed(diagnosis) for _ in range(CROWD)]
    slow = await visitors.raw(diagnosis, receive_buffer=4096)
    await slow.message()
    await slow.pong(slow.pings.pop() if slow.pings else await slow.ping())
    comment = "x" * 30_000
    for _ in range(5):
        await asyncio.gather(
            *(replica.events.broadcast_recommendation_update(diagnosis, {}, {}, comment) for _ in range(40))
        )
        await asyncio.gather(*(client.events(40) for client in crowd))
    await until(
        lambda: replica.service.manager.get_connection_count(DiagnosisId(diagnosis)) == len(crowd),
        "the slow one is gone",
    )


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda connection, code: connection.end(code), CloseCode.TOKEN_EXPIRED),
        (lambda connection, code: connection.end_when_proven(code), CloseCode.RESTARTING),
    ],
    ids=["at once", "once it proved all"],
)
async def test_who_is_sent_away_while_the_crowd_rests_is_sent_before_what_came_until_then(
    replica: Replica,
    visitors: Visitors,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[Connection, CloseCode], None],
    code: CloseCode,
) -> None:
    """The others prove it, and it would not come again."""
    monkeypatch.setattr(crowds, "REST_PER_CLIENT_SECONDS", 60.0)
    monkeypatch.setattr(crowds, "LONGEST_REST_SECONDS", 60.0)
    diagnosis = replica.diagnoses.add()
    crowd = [await visitors.welcomed(diagnosis) for _ in range(CROWD + 1)]
    hub = replica.service.manager._hub
    first = hub.connections_of(DiagnosisId(diagnosis))[0]
    await replica.feedback(diagnosis, 1)
    for client in crowd:
        assert await client.numbers(1) == [1]
    await replica.feedback(diagnosis, 2)
    await until(lambda: hub.pending_by_diagnosis().get(DiagnosisId(diagnosis)), "it is handed out")
    end(first, code)
    for client in crowd:
        assert await client.numbers(1) == [2]
    assert (await crowd[0].closed())[0] == code
