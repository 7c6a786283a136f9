"""What another replica's client was sent, unproven, comes again from here: it says so."""

import asyncio

from tests.service.harness.waiting import until
from tests.service.harness.world import World


async def test_an_event_that_was_relayed_and_not_proved_comes_again_marked_from_the_active_replica(
    fragile_world: World,
) -> None:
    world = fragile_world
    active, other = await asyncio.gather(world.start_replica(), world.start_replica())
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    device, phone = world.local_client("device", ack=True), world.local_client("phone", ack=True)
    device.answers = phone.answers = False
    ack = {"receipts": "ack"}
    await device.connect(world.url(diagnosis, address=active.address, client_id="device", **ack))
    await until(lambda: device.is_welcome, "the device is welcome, and its replica is the active one")
    first = await phone.connect(world.url(diagnosis, address=other.address, **ack))
    await until(lambda: phone.is_welcome, "the phone is welcome elsewhere")
    await recorder.publish(diagnosis, 5)
    await until(lambda: len(first.events) == 5, "the phone has what was relayed")
    again = await phone.connect(world.url(diagnosis, address=active.address, **ack))
    await until(lambda: len(again.events) == 5, "it comes again")
    assert [event.redelivered for event in again.events] == [True] * 5
