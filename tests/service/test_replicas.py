"""Three replicas, clients of one diagnosis spread over them: a replica dies, freezes, leaves; the broker dies.

A run follows from its seed, as far as processes can: `REALTIME_SEED=7 pytest tests/service/test_replicas.py` replays.
`REALTIME_SOAK_SECONDS=600` (`make soak`) goes on drawing faults for so long.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import pytest

from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.checker import Audience
from tests.service.harness.cluster import Cluster, cluster
from tests.service.harness.proxy import Proxy
from tests.service.harness.waiting import until
from tests.service.harness.world import RECEIPT_SECONDS, World, streaming_considerately, verdict

COUNT: Final = 300
BEFORE: Final = 60
SEED: Final = int(os.environ.get("REALTIME_SEED", "1"))
SOAK_SECONDS: Final = float(os.environ.get("REALTIME_SOAK_SECONDS", "0"))
GHOST_SECONDS: Final = 5.0
"""Long enough for the broker to give a silent replica up, with a heartbeat of 1 s."""
NAP_SECONDS: Final = 1.0

Fault = Callable[[Cluster, PrivateRabbitMQ], Awaitable[None]]


async def nothing(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """All replicas stay up."""


async def kill_the_active(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGKILL, and another comes in its place."""
    replica = await cluster.active()
    cluster.forget(replica)
    await replica.kill()
    await cluster.start()


async def freeze_the_active(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGSTOP until the broker has given it up, then it wakes: a ghost."""
    await _freeze(cluster, GHOST_SECONDS)


async def a_nap(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGSTOP, but it wakes in time."""
    await _freeze(cluster, NAP_SECONDS)


async def _freeze(cluster: Cluster, seconds: float) -> None:
    replica = await cluster.active()
    address = replica.address
    cluster.balancer.targets.remove(address)
    replica.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)  # the fault itself, not a wait
    replica.signal(signal.SIGCONT)
    cluster.balancer.targets.append(address)


async def roll(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGTERM to one after the other, each after its successor came."""
    for replica in list(cluster.replicas):
        await cluster.start()
        cluster.forget(replica)
        assert await replica.stop() == 0


async def kill_the_broker(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGKILL, and start again."""
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.restart)


FAULTS: Final[Mapping[str, Fault]] = {
    "nothing happens": nothing,
    "the active one is killed": kill_the_active,
    "the active one naps": a_nap,
    "the active one freezes": freeze_the_active,
    "all are replaced": roll,
    "the broker is killed": kill_the_broker,
}


async def go_through(world: World, broker: PrivateRabbitMQ, seed: int, *faults: Fault) -> None:
    """Publish while faults happen, then judge."""
    async with cluster(world, seed) as replicas:
        for fault in faults:
            async with streaming_considerately(
                replicas.recorder, replicas.diagnosis, COUNT, replicas.audiences
            ):
                await replicas.is_under_way(BEFORE)
                await fault(replicas, broker)
        found = await replicas.judged()
        replay = f"REALTIME_SEED={seed}, {[fault.__name__ for fault in faults]}"
        assert not found.faults, replay
        gaps = {each.name: [visit.gaps for visit in each.connections] for each in replicas.everybody}
        if freeze_the_active not in faults:
            assert not found.dropped, (replay, gaps)
        await until(lambda: all(client.is_welcome for client in replicas.unnamed), "all are back")
        codes = {visit.code for each in replicas.unnamed for visit in each.connections}
        if faults == (roll,):
            assert codes == {1012, None}, codes
        if faults in {(nothing,), (kill_the_broker,), (a_nap,)}:
            assert codes == {None}, (replay, codes)
    await until(lambda: world.depth(f"diagnosis.{replicas.diagnosis}") == 0, "the queue is empty")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_every_client_gets_everything_in_order_when(
    fragile_world: World, fragile_broker: PrivateRabbitMQ, fault: Fault
) -> None:
    await go_through(fragile_world, fragile_broker, SEED, fault)


async def test_a_device_that_connects_elsewhere_replaces_itself_and_goes_on(fragile_world: World) -> None:
    world = fragile_world
    here, there = await world.start_replica(), await world.start_replica()
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    phone, same_phone = world.local_client("phone", ack=True), world.local_client("phone", ack=True)
    query = {"client_id": "phone", "receipts": "ack"}
    first = await phone.connect(world.url(diagnosis, address=here.address, **query))
    await until(lambda: phone.is_welcome, "the phone is welcome")
    async with streaming_considerately(
        recorder, diagnosis, 100, [Audience("the phone", [phone, same_phone])]
    ):
        await until(lambda: first.proven > 20, "the stream runs")
        second = await same_phone.connect(world.url(diagnosis, address=there.address, **query))
        await until(lambda: first.code is not None, "the old connection ends")
    found = await verdict(recorder, diagnosis, [Audience("the phone", [phone, same_phone])])
    assert not found.faults
    assert first.code == 4409
    assert second.events[-1].number == 100
    assert not second.events[-1].redelivered


async def test_what_a_dead_socket_swallowed_is_sent_on_by_the_replica_that_takes_over(
    fragile_world: World,
) -> None:
    world = fragile_world
    active, other = await world.start_replica(), await world.start_replica()
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    phone, tablet, late = (world.local_client(name, ack=True) for name in ("phone", "tablet", "late"))
    async with Proxy(active.address) as tunnel:
        ack = {"receipts": "ack"}
        first = await phone.connect(world.url(diagnosis, address=tunnel.address, **ack))
        await until(lambda: phone.is_welcome, "the phone is welcome")
        second = await tablet.connect(world.url(diagnosis, address=other.address, **ack))
        await until(lambda: tablet.is_welcome, "the tablet is welcome")
        await recorder.publish(diagnosis, 20)
        await until(lambda: first.proven == second.proven == 20, "both have the first events")

        tunnel.swallow(to_client=True, to_server=True)
        tablet.answers = False  # only what is sent to it again can be proved by it
        await recorder.publish(diagnosis, 10)
        await until(lambda: len(second.events) == 30, "the other replica was told of the next")
        newcomer = await late.connect(world.url(diagnosis, address=other.address, **ack))
        await until(lambda: late.is_welcome, "a newcomer is welcome")
        await recorder.publish(diagnosis, 10)
        await until(lambda: len(newcomer.events) == 20, "the newcomer has what nobody proved, and the rest")
        await until(
            lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "settled", seconds=RECEIPT_SECONDS + 5
        )
    found = await verdict(recorder, diagnosis, [Audience("all", [phone, tablet, late])])
    assert not found.faults
    assert not found.dropped
    assert newcomer.numbers == list(range(21, 41))


@pytest.mark.skipif(not SOAK_SECONDS, reason="REALTIME_SOAK_SECONDS says how long")
@pytest.mark.timeout(SOAK_SECONDS + 600)
async def test_any_faults_one_after_the_other(fragile_world: World, fragile_broker: PrivateRabbitMQ) -> None:
    until_when = time.monotonic() + SOAK_SECONDS
    seed = SEED
    while time.monotonic() < until_when:
        drawn = random.Random(seed).choices(list(FAULTS.values()), k=4)
        print(
            f"REALTIME_SEED={seed} REALTIME_SOAK_SECONDS=1", [fault.__name__ for fault in drawn], flush=True
        )
        await go_through(fragile_world, fragile_broker, seed, *drawn)
        seed += 1
