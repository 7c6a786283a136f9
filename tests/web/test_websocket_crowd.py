"""A crowd watches one diagnosis: everybody gets every event, a few are asked at once, and in the end everybody is."""

import asyncio

from realtime_service.hub import ASKED_OF_A_CROWD, CROWD
from tests.web.replica import Replica, Visitors


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
