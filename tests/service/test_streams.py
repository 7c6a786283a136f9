"""A thousand events to one diagnosis, while its clients stay, come and go, freeze and die."""

import asyncio

from tests.service.harness.checker import Audience
from tests.service.harness.recorder import every_other
from tests.service.harness.waiting import until
from tests.service.harness.world import RECEIPT_SECONDS, World, streaming, verdict

FROZEN_SECONDS = RECEIPT_SECONDS + 1.5


async def test_every_client_gets_the_whole_stream_in_order_whatever_befalls_the_others(world: World) -> None:
    diagnosis = world.diagnosis()
    recorder = await world.recorder(named=every_other)
    stays = world.local_client("stays")
    await stays.connect(world.url(diagnosis))
    acks = await world.client("stays and acks", world.url(diagnosis), ack=True)
    device = await world.client("named", world.url(diagnosis, client_id="phone"), seed=2)
    reconnects = await world.client("reconnects", world.url(diagnosis), seed=1)
    freezes = await world.client("freezes", world.url(diagnosis))
    dies = await world.client("dies", world.url(diagnosis))
    await until(lambda: all(client.is_welcome for client in (stays, acks, freezes, dies)), "all are welcome")
    await until(lambda: device.connections, "the device came")

    async with streaming(recorder, diagnosis, 1000, pause=0.004):
        await until(lambda: len(freezes.connections[0].events) > 200, "200 events arrived")
        freezes.freeze()
        await until(lambda: len(dies.connections[0].events) > 300, "300 events arrived")
        await dies.kill()
        await asyncio.sleep(FROZEN_SECONDS)
        freezes.thaw()

    audiences = [
        Audience("the client that stayed", [stays]),
        Audience("the client that acknowledged", [acks]),
        Audience("the device", [device]),
        Audience("the unnamed", [stays, acks, reconnects, freezes, dies]),
    ]
    found = await verdict(recorder, diagnosis, audiences)
    assert not found.faults
    assert not found.dropped
    assert len(recorder.confirmed(diagnosis)) == 1000
    assert len(stays.connections) == len(acks.connections) == 1
    assert [connection.code for connection in freezes.connections[:1]] == [4408]
    assert len(reconnects.connections) > 3
    await until(lambda: world.ready(f"diagnosis.{diagnosis}") == 0, "the queue is empty")
