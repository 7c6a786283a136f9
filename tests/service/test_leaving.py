"""A replica leaves when it is told to: in good order, and at the latest when it is told twice."""

import asyncio
import random
import signal

import aiohttp
import pytest

from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.checker import Audience
from tests.service.harness.cluster import REPLICAS, Balancer
from tests.service.harness.replica import Replica
from tests.service.harness.waiting import until
from tests.service.harness.world import World, streaming_meanwhile, verdict

UNPROVEN = 5
PATIENT_SECONDS = 30
"""For a receipt where nobody is dead: a busy machine may be slow."""


async def upgrade_is_refused(url: str) -> bool:
    """Whether a handshake is answered with 503, to be tried again."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url)
    assert refused.value.headers is not None
    return refused.value.status == 503 and int(refused.value.headers["Retry-After"]) > 0


def node_queues(broker: PrivateRabbitMQ) -> set[str]:
    """Queues of replicas; one that was killed leaves its own for a minute."""
    return {name for name in broker.ctl("list_queues", "name").split() if name.startswith("realtime.node.")}


def assert_no_connection_is_left(broker: PrivateRabbitMQ, *replicas: Replica) -> None:
    """RabbitMQ knows nobody by the names of these."""
    connections = broker.ctl("list_connections", "client_properties")
    for replica in replicas:
        assert f"realtime {replica.said('listening')[0]['replica']}" not in connections


async def test_a_replica_that_drains_says_so_serves_who_is_there_and_ends_at_the_second_signal(
    fragile_world: World, fragile_broker: PrivateRabbitMQ
) -> None:
    world = fragile_world
    others = node_queues(fragile_broker)
    replica = await world.start_replica(drain_seconds=60)
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    clients = [
        await world.client("unnamed", world.url(diagnosis)),
        await world.client("acks", world.url(diagnosis), ack=True),
        await world.client("device", world.url(diagnosis, client_id="phone")),
    ]
    await until(lambda: all(client.is_welcome for client in clients), "all are welcome")

    replica.signal(signal.SIGTERM)
    await until(lambda: replica.said("draining"), "it drains")
    ready, alive = await asyncio.gather(world.http("GET", "/readyz"), world.http("GET", "/livez"))
    assert (ready.status, alive.status) == (503, 200)
    assert ready.body["checks"] == {"broker": "ok", "database": "ok", "accepting": "draining"}
    assert await upgrade_is_refused(world.url(diagnosis))
    await recorder.publish(diagnosis, 10)
    await until(lambda: all(client.connections[0].proven == 10 for client in clients), "all are served")

    replica.signal(signal.SIGINT)
    assert await replica.ended() == 0
    await until(lambda: {c.connections[0].code for c in clients} == {1012}, "all are told to come back")
    assert_no_connection_is_left(fragile_broker, replica)
    assert not node_queues(fragile_broker) - others
    assert world.depth(f"diagnosis.{diagnosis}") == 0
    assert world.depth(world.device_queue(diagnosis)) == 0


async def test_a_client_that_owes_a_proof_may_give_it_before_the_replica_leaves(
    fragile_world: World,
) -> None:
    world = fragile_world
    replica = await world.start_replica(drain_seconds=6, receipt_timeout_seconds=30)
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    owes, prompt = world.local_client("owes", ack=True), world.local_client("prompt")
    connection = await owes.connect(world.url(diagnosis, receipts="ack", client_id="phone"))
    await prompt.connect(world.url(diagnosis))
    await until(lambda: owes.is_welcome and prompt.is_welcome, "both are welcome")
    owes.answers = False
    await recorder.publish(diagnosis, UNPROVEN)
    await until(lambda: len(connection.events) == UNPROVEN, "it has them")
    await until(lambda: prompt.connections[0].proven == UNPROVEN, "the other proves them")

    replica.signal(signal.SIGTERM)
    await until(lambda: prompt.connections[0].code == 1012, "who owes nothing is sent away")
    assert connection.code is None
    await owes.say(type="ack", event_id=connection.events[-1].event_id)
    connection.proven = UNPROVEN
    await until(lambda: connection.code == 1012, "the other leaves with its proof")
    assert await replica.ended() == 0
    assert world.depth(world.device_queue(diagnosis)) == 0


async def test_what_is_unproven_when_the_time_is_up_goes_to_the_next_replica_in_order(
    fragile_world: World,
) -> None:
    world = fragile_world
    old = await world.start_replica(drain_seconds=1, receipt_timeout_seconds=30)
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    client = world.local_client("client", ack=True)
    query = {"receipts": "ack", "client_id": "phone"}
    connection = await client.connect(world.url(diagnosis, **query))
    await recorder.publish(diagnosis, 10)
    await until(lambda: connection.proven == 10, "it has the first")
    client.answers = False
    await recorder.publish(diagnosis, UNPROVEN)
    await until(lambda: len(connection.events) == 10 + UNPROVEN, "it has them all")

    assert await old.stop() == 0
    await until(lambda: connection.code == 1012, "it is told to come back")
    await world.start_replica()
    client.answers = True
    await recorder.publish(diagnosis, 1)
    again = await client.connect(world.url(diagnosis, **query))
    await until(lambda: again.proven == UNPROVEN + 1, "it goes on")
    assert again.numbers == list(range(11, 12 + UNPROVEN))
    assert [event.redelivered for event in again.events] == [True] * UNPROVEN + [False]
    found = await verdict(recorder, diagnosis, [Audience("the device", [client])])
    assert not found.faults


@pytest.mark.slow
async def test_a_rolling_restart_under_load_loses_nothing_and_repeats_nothing_that_was_proven(
    fragile_world: World, fragile_broker: PrivateRabbitMQ
) -> None:
    world = fragile_world
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    async with Balancer(random.Random(1)) as balancer:
        old = await asyncio.gather(
            *(
                world.start_replica(drain_seconds=8, receipt_timeout_seconds=PATIENT_SECONDS)
                for _ in range(REPLICAS)
            )
        )
        balancer.targets += [replica.address for replica in old]
        url = world.url(diagnosis, address=balancer.address)
        unnamed = [await world.client(f"pongs {number}", url) for number in range(REPLICAS)]
        unnamed += [await world.client(f"acks {number}", url, ack=True) for number in range(REPLICAS)]
        devices = [
            await world.client("device", f"{url}&client_id=phone"),
            await world.client("device that acks", f"{url}&client_id=tablet", ack=True),
        ]
        clients = [*unnamed, *devices]
        await until(lambda: all(client.is_welcome for client in clients), "all are welcome")
        audiences = [Audience("the unnamed", unnamed), *(Audience(each.name, [each]) for each in devices)]
        async with streaming_meanwhile(recorder, diagnosis, audiences):
            await until(lambda: len(recorder.confirmed(diagnosis)) > 100, "the stream runs")
            new = await asyncio.gather(
                *(
                    world.start_replica(drain_seconds=0, receipt_timeout_seconds=PATIENT_SECONDS)
                    for _ in range(REPLICAS)
                )
            )
            for leaving, coming in zip(old, new, strict=True):
                balancer.targets[balancer.targets.index(leaving.address)] = coming.address
                assert await leaving.stop() == 0
            await until(lambda: all(client.is_welcome for client in clients), "all are back")

        found = await verdict(recorder, diagnosis, audiences)
        assert not found.faults
        assert not found.dropped
        assert not found.again
        codes = {client.name: [visit.code for visit in client.connections] for client in clients}
        assert all(set(ended) == {1012} for *ended, _ in codes.values()), codes
        assert all(last is None for *_, last in codes.values()), codes
        assert_no_connection_is_left(fragile_broker, *old)
        for client in clients:
            await client.stop()
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "the queue is empty")


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_replica_with_clients_stops_cleanly_while_the_broker_is(
    fragile_world: World, fragile_broker: PrivateRabbitMQ, fault: str
) -> None:
    replica = await fragile_world.start_replica(drain_seconds=0)
    diagnosis = fragile_world.diagnosis()
    client = await fragile_world.client("unnamed", fragile_world.url(diagnosis))
    device = await fragile_world.client("device", fragile_world.url(diagnosis, client_id="phone"))
    await until(lambda: client.is_welcome and device.is_welcome, "both are welcome")
    if fault == "killed":
        fragile_broker.kill()
        await until(lambda: replica.said("broker_lost"), "the loss is noticed")
    else:
        fragile_broker.pause()
    try:
        assert await replica.stop() == 0
        await until(lambda: client.connections[0].code == 1012, "the client is told to come back")
    finally:
        if fault == "killed":
            fragile_broker.restart()
        else:
            fragile_broker.resume()
