"""Events of diagnoses that no queue knows yet, and of such as the database does not know yet."""

import asyncio
from typing import Final

from tests.service.harness.checker import Audience
from tests.service.harness.waiting import until
from tests.service.harness.world import World, verdict

DIAGNOSES: Final = 20
EACH: Final = 10
LATE_SECONDS: Final = 3.0


async def test_a_burst_to_unknown_queues_arrives_in_order_at_clients_that_come_meanwhile(
    world: World,
) -> None:
    diagnoses = [world.diagnosis() for _ in range(DIAGNOSES)]
    recorder = await world.recorder()
    clients = {diagnosis: world.local_client(f"client of {diagnosis}") for diagnosis in diagnoses}

    async def come(diagnosis: int) -> None:
        # With the first event on its way the queue is not bound under the publisher's feet, the one stated exception.
        await until(lambda: recorder.confirmed(diagnosis), "its first event is published")
        await clients[diagnosis].connect(world.url(diagnosis))
        await until(lambda: clients[diagnosis].is_welcome, "the client is welcome")

    async with asyncio.TaskGroup() as group:
        for diagnosis in diagnoses:
            group.create_task(come(diagnosis))
        for _ in range(EACH):
            for diagnosis in diagnoses:
                await recorder.publish(diagnosis, 1)

    for diagnosis, client in clients.items():
        found = await verdict(recorder, diagnosis, [Audience(client.name, [client])])
        assert not found.faults
        assert not found.dropped
        assert client.connections[0].numbers == list(range(1, EACH + 1))


async def test_an_event_of_a_diagnosis_that_the_database_learns_of_later_arrives(world: World) -> None:
    known, late, never = world.diagnosis(), world.new_id(), world.new_id()
    recorder = await world.recorder()
    await recorder.publish(never, 1)
    await recorder.publish(late, 2)
    await recorder.publish(known, 2)
    others = world.local_client("somebody else")
    await others.connect(world.url(known))
    await until(lambda: others.connections[0].numbers == [1, 2], "the others are not held up", seconds=3)

    await asyncio.sleep(LATE_SECONDS)
    world.database.add(late)
    await recorder.publish(late, 1)
    client = world.local_client("late")
    connection = await client.connect(world.url(late))
    await until(lambda: len(connection.events) == 3, "the early events arrive")
    assert connection.numbers == [1, 2, 3]


async def test_a_client_of_a_diagnosis_that_does_not_exist_learns_nothing_and_makes_no_queue(
    world: World,
) -> None:
    client = world.local_client("stranger")
    connection = await client.connect(world.url(world.new_id()))
    await until(lambda: connection.code is not None, "it is refused")
    assert connection.code == 1008
    assert connection.welcome is None
