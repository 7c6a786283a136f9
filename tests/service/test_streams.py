"""A thousand events to one diagnosis, while its clients stay, come and go, freeze and die."""

import asyncio
from typing import Final

from tests.service.harness.checker import Audience
from tests.service.harness.clients import ProcessClient
from tests.service.harness.history import proven_of
from tests.service.harness.recorder import every_other
from tests.service.harness.waiting import until
from tests.service.harness.world import RECEIPT_SECONDS, World, streaming, streaming_considerately, verdict

FROZEN_SECONDS: Final = RECEIPT_SECONDS + 1.5


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
    await until(lambda: any(visit.welcome for visit in device.connections), "the device came")

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
        Audience("everybody", [stays, acks, device, reconnects, freezes, dies]),
    ]
    found = await verdict(recorder, diagnosis, audiences)
    assert not found.faults
    assert not found.dropped
    assert len(recorder.confirmed(diagnosis)) == 1000
    assert len(stays.connections) == len(acks.connections) == 1
    assert [connection.code for connection in freezes.connections[:1]] == [4408]
    assert len(reconnects.connections) > 3
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "the queue is empty")


async def test_one_client_at_a_time_that_breaks_off_freezes_and_dies_misses_nothing(world: World) -> None:
    diagnosis = world.diagnosis()
    recorder = await world.recorder(named=every_other)
    visitors: list[ProcessClient] = []

    async def next_visitor(*, seed: int | None = None, ack: bool = False) -> ProcessClient:
        visitors.append(await world.client("visitor", world.url(diagnosis), seed=seed, ack=ack))
        return visitors[-1]

    def overdue() -> int:
        assert world.replica is not None
        return sum(line["code"] == 4408 for line in world.replica.said("connection_ended"))

    async def take(count: int) -> None:
        taken = len(proven_of(visitors[-1].connections))
        await until(lambda: len(proven_of(visitors[-1].connections)) >= taken + count, f"{count} are taken")

    audience = Audience("the visitors", visitors)
    visitor = await next_visitor(seed=3)
    await until(lambda: any(visit.welcome for visit in audience.connections), "the diagnosis has its queue")
    async with streaming_considerately(recorder, diagnosis, 1000, [audience]):
        await take(200)
        await visitor.stop()

        for ack in (False, True):
            visitor = await next_visitor(ack=ack)
            await take(100)
            visitor.freeze()
            await asyncio.sleep(FROZEN_SECONDS)
            visitor.thaw()
            await take(100)
            await visitor.kill()

        visitor = await next_visitor()
        await take(50)
        before = overdue()
        visitor.freeze()
        await until(lambda: overdue() > before, "the frozen client is given up")
        await visitor.kill()

        await next_visitor(seed=4)

    found = await verdict(recorder, diagnosis, [audience])
    assert not found.faults
    assert not found.dropped
    assert len(recorder.confirmed(diagnosis)) == 1000
    assert any(event.redelivered for visit in audience.connections for event in visit.events)
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "the queue is empty")
