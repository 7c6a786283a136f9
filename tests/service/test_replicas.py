"""Three replicas, clients of two diagnoses spread over them: replicas, broker, database and clients suffer at random.

A run follows from its seed, as far as processes can: `REALTIME_SEED=7 pytest tests/service/test_replicas.py` replays.
`REALTIME_SOAK_SECONDS=600` (`make soak`) goes on drawing faults for so long.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import pytest

from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.conftest import QUEUE_TYPE
from tests.service.harness.checker import Audience
from tests.service.harness.cluster import Cluster, cluster
from tests.service.harness.crowded import CROWDED
from tests.service.harness.faults import CLIENT_FAULTS, ENDS_WITH, FAULTS, LOSSY
from tests.service.harness.proxy import Proxy
from tests.service.harness.replica import SERVE
from tests.service.harness.waiting import until
from tests.service.harness.world import (
    RECEIPT_SECONDS,
    Database,
    World,
    streaming_meanwhile,
    token,
    verdict,
)

COUNT: Final = 150
BEFORE: Final = 30
AT_ONCE: Final = 4
"""Faults one after the other, under the same clients."""
SEED: Final = int(os.environ.get("REALTIME_SEED", "1"))
SOAK_SECONDS: Final = float(os.environ.get("REALTIME_SOAK_SECONDS", "0"))
LEFT_BY: Final = {None, 1006, 1012, 1013, 4408}
"""How a connection of a client that stays may end: never with a code that keeps it away."""


def dealt(seed: int) -> list[list[str]]:
    """Every fault once, in an order and in groups that follow from the seed."""
    names = random.Random(seed).sample(sorted(FAULTS), len(FAULTS))
    return [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]


async def go_through(
    replicas: Cluster, broker: PrivateRabbitMQ, seed: str, faults: Sequence[str], replay: str
) -> None:
    """Publish while faults happen, then judge."""
    chance = random.Random(seed)
    async with replicas.people(chance):
        befell: list[tuple[str, str]] = []
        may_end_with: set[int | None] = {None}
        for name in faults:
            to_clients = chance.choice(CLIENT_FAULTS)
            befell.append((name, to_clients.__name__))
            for fault in (FAULTS[name], to_clients):
                may_end_with |= ENDS_WITH.get(fault, frozenset())
            async with replicas.streaming(COUNT):
                await replicas.is_under_way(BEFORE)
                await asyncio.gather(FAULTS[name](replicas, broker), to_clients(replicas, broker))
        try:
            await judge(replicas, faults, may_end_with, (replay, befell))
        except AssertionError:
            print(replicas.story(), flush=True)
            raise
    for watched in replicas.watched:
        queue = f"diagnosis.{watched.diagnosis}"
        await until(lambda queue=queue: replicas.world.depth(queue) == 0, f"it is empty: {replay}")  # type: ignore[misc]


async def judge(
    replicas: Cluster, faults: Sequence[str], may_end_with: set[int | None], about: tuple[object, ...]
) -> None:
    """Hold what everybody got against what was published."""
    for watched in replicas.watched:
        found = await watched.judged()
        gaps = {each.name: [visit.gaps for visit in each.connections] for each in watched.everybody}
        assert not found.faults, about
        # A crowd's proofs may be behind by more than the 100 that a queue keeps when a restart brings them back.
        if not {FAULTS[name] for name in faults} & LOSSY and replicas.program is not CROWDED:
            assert not found.dropped, (*about, gaps)
        visits = [visit for each in watched.staying for visit in each.connections]
        assert {visit.code for visit in visits} <= LEFT_BY, about
        assert {visit.code for visit in visits if visit.welcome} <= may_end_with, about


async def test_a_device_that_connects_elsewhere_replaces_itself_and_goes_on(fragile_world: World) -> None:
    world = fragile_world
    here, there = await world.start_replica(), await world.start_replica()
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    phone, same_phone = world.local_client("phone", ack=True), world.local_client("phone", ack=True)
    query = {"client_id": "phone", "receipts": "ack"}
    audiences = [Audience("the phone", [phone, same_phone])]
    first = await phone.connect(world.url(diagnosis, address=here.address, **query))
    await until(lambda: phone.is_welcome, "the phone is welcome")
    async with streaming_meanwhile(recorder, diagnosis, audiences):
        await until(lambda: first.proven > 20, "the stream runs")
        second = await same_phone.connect(world.url(diagnosis, address=there.address, **query))
        await until(lambda: first.code is not None, "the old connection ends")
        await until(lambda: second.events, "the new one goes on")
    await recorder.publish(diagnosis, 1)
    found = await verdict(recorder, diagnosis, audiences)
    assert not found.faults
    assert first.code == 4409
    assert second.events[-1].number == max(recorder.confirmed(diagnosis))
    assert not second.events[-1].redelivered


async def test_a_device_s_connection_that_is_admitted_late_does_not_end_a_newer_one_elsewhere(
    fragile_world: World,
) -> None:
    world = fragile_world
    here, there = await world.start_replica(), await world.start_replica()
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    phone, same_phone = world.local_client("phone"), world.local_client("phone")
    await phone.connect(f"ws://{here.address}/ws/{diagnosis}?client_id=phone")
    second = await same_phone.connect(world.url(diagnosis, address=there.address, client_id="phone"))
    await until(lambda: same_phone.is_welcome, "the newer connection is welcome")
    await phone.say(type="auth", token=token())
    await until(lambda: phone.is_welcome, "the older one is let in at last")
    await recorder.publish(diagnosis, 1)
    await until(lambda: second.proven == 1, "the newer one goes on")
    assert second.code is None


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


async def test_every_client_gets_everything_in_order_when_the_active_one_is_killed(
    fragile_world: World, fragile_broker: PrivateRabbitMQ
) -> None:
    async with cluster(fragile_world, SEED) as made:
        await go_through(made, fragile_broker, str(SEED), ["kill"], f"REALTIME_SEED={SEED}")


@pytest.fixture(scope="module", params=[SERVE, CROWDED], ids=["rooms", "crowds"])
async def replicas(
    request: pytest.FixtureRequest,
    fragile_broker: PrivateRabbitMQ,
    new_id: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Cluster]:
    """Three replicas for all short runs; who dies in one is replaced."""
    database = Database(tmp_path_factory.mktemp("cluster") / "diagnoses.db")
    async with (
        World(fragile_broker.amqp_url, database, new_id, QUEUE_TYPE) as world,
        cluster(world, SEED, request.param) as made,
    ):
        yield made


@pytest.mark.parametrize("faults", dealt(SEED), ids=", ".join)
async def test_every_client_gets_everything_in_order_whatever_happens(
    replicas: Cluster, fragile_broker: PrivateRabbitMQ, faults: list[str]
) -> None:
    replay = f"REALTIME_SEED={SEED} pytest tests/service/test_replicas.py"
    await go_through(replicas, fragile_broker, f"{SEED} {faults}", faults, replay)


@pytest.mark.skipif(not SOAK_SECONDS, reason="REALTIME_SOAK_SECONDS says how long")
@pytest.mark.timeout(SOAK_SECONDS + 600)
async def test_any_faults_one_after_the_other(
    fragile_broker: PrivateRabbitMQ, new_id: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    until_when = time.monotonic() + SOAK_SECONDS
    seed = SEED
    while time.monotonic() < until_when:
        faults = random.Random(seed).choices(sorted(FAULTS), k=AT_ONCE)
        replay = f"make soak SECONDS=1 REALTIME_SEED={seed}"
        print(replay, faults, flush=True)
        database = Database(tmp_path_factory.mktemp("soak") / "diagnoses.db")
        amqp_url = fragile_broker.amqp_url
        program = (SERVE, CROWDED)[seed % 2]
        async with (
            World(amqp_url, database, new_id, QUEUE_TYPE) as world,
            cluster(world, seed, program) as made,
        ):
            await go_through(made, fragile_broker, f"{seed} {faults}", faults, replay)
        seed += 1
