"""A named device keeps the shared queue's ledger on one replica; whoever needs its events sits on another."""

import pika

from contracts import topology
from contracts.ids import ClientId, DiagnosisId, UserId
from tests.service.harness.waiting import until
from tests.service.harness.world import PATIENT, World

MORE_THAN_A_WINDOW = 300
MISSED = 5


def purge(amqp_url: str, queue: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        purged = connection.channel().queue_purge(queue)
    return int(purged.method.message_count)


async def test_what_an_unnamed_client_proves_is_settled_by_the_replica_that_consumed_it(
    world: World,
) -> None:
    first, second = await world.start_replica(), await world.start_replica()
    diagnosis = world.diagnosis()
    phone = world.local_client("phone")
    await phone.connect(world.url(diagnosis, address=first.address, client_id="phone"))
    await until(lambda: phone.is_welcome, "the device has a queue")
    await phone.leave()
    recorder = await world.recorder()
    await recorder.publish(diagnosis, MISSED)
    key = topology.device_key(UserId(PATIENT), ClientId("phone"))
    await until(
        lambda: purge(world.amqp_url, topology.device_queue(DiagnosisId(diagnosis), key)) == MISSED,
        "these events are in the shared queue alone: the device can never prove them",
    )

    await phone.connect(world.url(diagnosis, address=first.address, client_id="phone"))
    await until(lambda: phone.is_welcome, "the device made its replica the active one")
    unnamed = world.local_client("unnamed")
    await unnamed.connect(world.url(diagnosis, address=second.address))
    await until(lambda: unnamed.is_welcome, "an unnamed client watches through the other")
    await recorder.publish(diagnosis, MORE_THAN_A_WINDOW)

    await until(
        lambda: unnamed.connections[0].numbers == list(range(1, MISSED + MORE_THAN_A_WINDOW + 1)),
        "it gets what waited, and the whole stream",
    )
    assert unnamed.connections[0].gaps == []
