"""What waits while nobody is there: the newest hundred, in order, and the truth about the rest."""

import asyncio
from typing import Final

from tests.service.harness.checker import Audience
from tests.service.harness.clients import LocalClient
from tests.service.harness.waiting import until
from tests.service.harness.world import World, verdict

LIMIT: Final = 100
PUBLISHED: Final = 150
BURST: Final = 500
"""More than a window (256) and a queue (100) hold."""


async def assert_gets_the_newest(client: LocalClient, url: str, first: int, *, gap: bool) -> None:
    """The next connection gets the newest hundred, beginning with event `first`, and is told of the gap."""
    connection = await client.connect(url)
    await until(lambda: len(connection.events) >= LIMIT, "the backlog arrives")
    assert connection.welcome
    assert connection.welcome["queued_messages"] == LIMIT
    assert connection.welcome["gap"] is gap
    assert connection.numbers == list(range(first, first + LIMIT))
    await until(lambda: connection.proven == LIMIT, "the backlog is proved")
    await client.leave()


async def test_of_what_was_published_before_anybody_ever_came_the_newest_hundred_wait(world: World) -> None:
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    await recorder.publish(diagnosis, PUBLISHED)
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == LIMIT, "first contact is made")
    client = world.local_client("late")
    await assert_gets_the_newest(client, world.url(diagnosis), PUBLISHED - LIMIT + 1, gap=True)
    found = await verdict(recorder, diagnosis, [Audience("the client", [client])])
    assert not found.faults
    assert found.dropped == {"the client": list(range(1, PUBLISHED - LIMIT + 1))}


async def test_of_what_a_client_missed_the_newest_hundred_wait(world: World) -> None:
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    device, unnamed = world.local_client("device"), world.local_client("unnamed")
    device_url, url = world.url(diagnosis, client_id="phone"), world.url(diagnosis)
    await device.connect(device_url)
    await unnamed.connect(url)
    await until(lambda: device.is_welcome and unnamed.is_welcome, "both are welcome")
    await recorder.publish(diagnosis, 1)
    await until(lambda: device.connections[0].proven and unnamed.connections[0].proven, "both have the first")
    await device.leave()
    await unnamed.leave()

    await recorder.publish(diagnosis, PUBLISHED)
    await assert_gets_the_newest(unnamed, url, PUBLISHED - LIMIT + 2, gap=True)
    await assert_gets_the_newest(device, device_url, PUBLISHED - LIMIT + 2, gap=True)
    audiences = [Audience("the device", [device]), Audience("the unnamed", [unnamed])]
    found = await verdict(recorder, diagnosis, audiences)
    assert not found.faults
    missing = list(range(2, PUBLISHED - LIMIT + 2))
    assert found.dropped == {"the device": missing, "the unnamed": missing}


async def test_a_backlog_below_the_limit_is_whole_and_says_so(world: World) -> None:
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    await recorder.publish(diagnosis, LIMIT - 1)
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == LIMIT - 1, "first contact is made")
    client = world.local_client("late")
    connection = await client.connect(world.url(diagnosis))
    await until(lambda: len(connection.events) >= LIMIT - 1, "the backlog arrives")
    assert connection.welcome
    assert connection.welcome["gap"] is False
    assert connection.numbers == list(range(1, LIMIT))


async def test_a_burst_that_overruns_a_slow_client_is_announced_by_the_number_of_the_lost(
    world: World,
) -> None:
    await world.start_replica(receipt_timeout_seconds=20)  # slow is not dead
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    client = world.local_client("slow", ack=True)
    connection = await client.connect(world.url(diagnosis, receipts="ack"))
    await until(lambda: client.is_welcome, "it is welcome")
    client.answers = False

    async def acknowledge(number: int) -> None:
        await until(lambda: len(connection.events) >= number, "the event arrives")
        await client.say(type="ack", event_id=connection.events[number - 1].event_id)
        connection.proven = number

    async with asyncio.TaskGroup() as group:
        group.create_task(recorder.publish(diagnosis, BURST))
        for number in range(1, 6):
            await asyncio.sleep(0.2)
            await acknowledge(number)
    client.answers = True
    await acknowledge(len(connection.events))

    await until(lambda: BURST in connection.numbers, "the newest arrives")
    found = await verdict(recorder, diagnosis, [Audience("the client", [client])])
    assert not found.faults
    assert len(found.dropped["the client"]) == sum(gap or 0 for gap in connection.gaps)
    assert None not in connection.gaps
    assert connection.is_open
