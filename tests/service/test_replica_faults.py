"""A replica dies, or is replaced by the next version: clients come back, and nothing is lost."""

import asyncio
import signal
from typing import Final

import pytest

from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.checker import Audience
from tests.service.harness.proxy import Proxy
from tests.service.harness.recorder import every_other
from tests.service.harness.status import reports
from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import World, streaming_considerately, verdict
from tests.support.amqp import NOBODY, address_of, through

COUNT: Final = 300
BEFORE: Final = 100


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["it is killed", "it is stopped"])
async def test_clients_come_back_to_another_replica_and_miss_nothing_when(
    world: World, number: signal.Signals
) -> None:
    old = await world.start_replica(drain_seconds=1)
    diagnosis = world.diagnosis()
    recorder = await world.recorder(named=every_other)
    async with Proxy(old.address) as balancer:
        at = balancer.address
        device = await world.client("device", world.url(diagnosis, address=at, client_id="phone"))
        clients = [
            await world.client("unnamed", world.url(diagnosis, address=at)),
            await world.client("acks", world.url(diagnosis, address=at), ack=True),
            device,
        ]
        await until(lambda: all(client.is_welcome for client in clients), "all are welcome")
        audiences = [Audience("everybody", clients), Audience("the device", [device])]

        async with streaming_considerately(recorder, diagnosis, COUNT, audiences):
            await until(
                lambda: all(client.connections[0].proven > BEFORE for client in clients), "the stream runs"
            )
            if number is signal.SIGKILL:
                old.signal(number)
                new = await world.start_replica()
                balancer.target = new.address
            else:
                new = await world.start_replica()
                balancer.target = new.address
                old.signal(number)
            code = await old.ended()

        found = await verdict(recorder, diagnosis, audiences)
        assert not found.faults
        assert not found.dropped
        await until(lambda: all(client.is_welcome for client in clients), "all came back")
        codes = {client.name: client.connections[0].code for client in clients}
        if number is signal.SIGKILL:
            assert set(codes.values()) == {1006}
        else:
            assert code == 0
            assert set(codes.values()) == {1012}
        await until(lambda: new.said("connection_opened"), "they are with the new replica")
        for client in clients:
            await client.stop()
        await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "the queue is empty")


@pytest.mark.parametrize("why", ["is frozen", "cannot be asked"])
async def test_who_joins_while_the_active_replica(
    fragile_world: World, fragile_broker: PrivateRabbitMQ, why: str
) -> None:
    """It hears nothing from there, is told so, and gets what is published afterwards all the same."""
    world = fragile_world
    active, other = await world.start_replica(), await world.start_replica(publish_timeout_seconds=1)
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    here, there, late, stranger = map(world.local_client, ("here", "there", "late", "stranger"))
    first = await here.connect(world.url(diagnosis, address=active.address))
    await until(lambda: here.is_welcome, "the first is welcome")
    await reports(other, lambda r: r["total_connections"] == 1, "the other one knows it")
    await stranger.connect(world.url(world.diagnosis(), address=other.address))
    await until(
        lambda: stranger.is_welcome, "quorum: from now on it asks those it knows, not whoever answers"
    )
    if why == "is frozen":
        await there.connect(world.url(diagnosis, address=other.address))
        await until(lambda: there.is_welcome, "the second is welcome")
    await recorder.publish(diagnosis, 5)
    await until(lambda: first.proven == 5, "the first events are proved")

    if why == "is frozen":
        active.signal(signal.SIGSTOP)
    else:
        await asyncio.to_thread(fragile_broker.ctl, "set_vm_memory_high_watermark", "0.0000001")
        refused = await world.broadcast_feedback(world.diagnosis(), feedback_id=1)
        assert refused.status == 503
    try:
        newcomer = await late.connect(world.url(diagnosis, address=other.address))
        await until(lambda: late.is_welcome, "the newcomer is welcome")
    finally:
        active.signal(signal.SIGCONT)
        await asyncio.to_thread(fragile_broker.ctl, "set_vm_memory_high_watermark", "0.4")

    assert newcomer.welcome
    assert newcomer.welcome["gap"]

    async def gets_what_comes() -> bool:
        await recorder.publish(diagnosis, 1)
        return max(recorder.confirmed(diagnosis)) in newcomer.numbers

    await until_true(gets_what_comes, "the newcomer gets what is published")
    heard = len(newcomer.numbers)
    await recorder.publish(diagnosis, 20)
    await until(lambda: len(newcomer.numbers) == heard + 20, "and all that follows")


async def test_a_replica_that_comes_back_to_the_broker_later_misses_nothing_of_what_was_served_meanwhile(
    world: World,
) -> None:
    """A room that opened elsewhere meanwhile cannot see it among the consumers, and tells it all the same."""
    async with Proxy(address_of(world.amqp_url)) as near, Proxy(address_of(world.amqp_url)) as far:
        here, there = await asyncio.gather(
            *(world.start_replica(amqp_url=through(world.amqp_url, wire)) for wire in (near, far))
        )
        diagnosis, recorder = world.diagnosis(), await world.recorder()
        device, stays = map(world.local_client, ("device", "who stays"))
        kept = await stays.connect(world.url(diagnosis, address=there.address))
        await until(lambda: stays.is_welcome, "the unnamed one is welcome")
        phone = world.url(diagnosis, address=here.address, client_id="phone")
        await device.connect(phone)
        await until(lambda: device.is_welcome, "the device is welcome")
        await recorder.publish(diagnosis, 3)
        await until(lambda: kept.proven == 3, "both are served")
        await reports(here, lambda r: r["total_connections"] == 2, "it knows the other replica")
        await device.leave()
        broker, far.target = far.target, NOBODY
        far.cut()
        near.cut()
        again = await device.connect(phone)
        await until(lambda: device.is_welcome, "the device is back, its replica is connected")
        await recorder.publish(diagnosis, 20)
        await until(lambda: 23 in again.proven_numbers, "the device has what was published meanwhile")
        far.target = broker
        await until(lambda: len(kept.events) == 23, "so has who stayed")
        assert kept.gaps == []
        assert kept.numbers == list(range(1, 24))
