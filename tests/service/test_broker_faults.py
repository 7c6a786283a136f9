"""The broker crashes, restarts, throws everybody out, freezes: clients stay, and nothing confirmed is lost."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import pytest

from contracts.topology import is_node_queue
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.checker import Audience
from tests.service.harness.clients import LocalClient
from tests.service.harness.proxy import Proxy
from tests.service.harness.recorder import Recorder, every_other
from tests.service.harness.replica import Replica
from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import World, streaming_considerately, verdict
from tests.support.amqp import NOBODY, address_of, keys_by_queue, through

COUNT: Final = 300
BEFORE: Final = 100
WAITING: Final = 50

Fault = Callable[[PrivateRabbitMQ, Replica], Awaitable[None]]


async def crash(broker: PrivateRabbitMQ, replica: Replica) -> None:
    """Kill -9, and start again."""
    await asyncio.to_thread(broker.flush)
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.restart)


async def restart(broker: PrivateRabbitMQ, replica: Replica) -> None:
    """Stop in good order, and start again."""
    await asyncio.to_thread(broker.restart)


async def throw_out(broker: PrivateRabbitMQ, replica: Replica) -> None:
    """Close every connection, as an operator does."""
    await asyncio.to_thread(broker.ctl, "close_all_connections", "maintenance")


async def freeze(broker: PrivateRabbitMQ, replica: Replica) -> None:
    """Stop answering until the replica gives it up."""
    broker.pause()
    try:
        await until(lambda: replica.said("broker_lost"), "the silent broker is given up")
    finally:
        broker.resume()


FAULTS: Final[Mapping[str, Fault]] = {
    "crashes": crash,
    "restarts": restart,
    "throws everybody out": throw_out,
    "freezes": freeze,
}


async def assert_newcomer_is_served(
    client: LocalClient, url: str, recorder: Recorder, diagnosis: int
) -> None:
    """Somebody comes and gets what is published then."""
    connection = await client.connect(url)
    await until(lambda: client.is_welcome, "newcomers are welcome again")
    await recorder.publish(diagnosis, 2)
    last = max(recorder.confirmed(diagnosis))
    await until(lambda: last in connection.numbers, "they get what comes")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_clients_stay_connected_and_get_everything_when_the_broker(
    fragile_world: World, fragile_broker: PrivateRabbitMQ, fault: Fault
) -> None:
    world = fragile_world
    replica = await world.start_replica(
        amqp_url=f"{world.amqp_url}?heartbeat=1"
    )  # a silent broker is noticed in 6 s
    diagnosis = world.diagnosis()
    recorder = await world.recorder(named=every_other)
    clients = [
        await world.client("unnamed", world.url(diagnosis)),
        await world.client("acks", world.url(diagnosis), ack=True),
        await world.client("device", world.url(diagnosis, client_id="phone")),
        await world.client("device that acks", world.url(diagnosis, client_id="tablet"), ack=True),
    ]
    await until(lambda: all(client.is_welcome for client in clients), "all are welcome")
    audiences = [Audience(client.name, [client]) for client in clients]

    async with streaming_considerately(recorder, diagnosis, COUNT, audiences):
        await until(
            lambda: all(client.connections[0].proven > BEFORE for client in clients),
            "the stream is on its way",
        )
        await fault(fragile_broker, replica)

    found = await verdict(recorder, diagnosis, audiences)
    assert not found.faults
    assert not found.dropped
    assert [client.is_welcome and len(client.connections) for client in clients] == [1] * len(clients)
    assert not any(client.connections[0].gaps for client in clients)
    assert len(recorder.confirmed(diagnosis)) >= COUNT - 1, "at most the one in flight has no confirm"

    await assert_newcomer_is_served(world.local_client("late"), world.url(diagnosis), recorder, diagnosis)
    url = world.url(diagnosis, client_id="watch")
    await assert_newcomer_is_served(world.local_client("late device"), url, recorder, diagnosis)
    assert not (await verdict(recorder, diagnosis, audiences)).faults


async def test_a_backlog_outlives_a_restart_of_the_broker(
    fragile_world: World, fragile_broker: PrivateRabbitMQ
) -> None:
    world = fragile_world
    await world.start_replica()
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    phone, unnamed = world.local_client("phone"), world.local_client("unnamed")
    phone_url, url = world.url(diagnosis, client_id="phone"), world.url(diagnosis)
    await phone.connect(phone_url)
    await until(lambda: phone.is_welcome, "the device has its queue")
    await phone.leave()
    await recorder.publish(diagnosis, WAITING)
    await asyncio.to_thread(fragile_broker.restart)
    await until_true(lambda: is_welcome(unnamed, url), "clients are welcome again")
    await phone.connect(phone_url)
    await recorder.publish(diagnosis, 1)
    audiences = [Audience("phone", [phone]), Audience("unnamed", [unnamed])]
    found = await verdict(recorder, diagnosis, audiences)
    assert not found.faults
    assert not found.dropped
    for client in (phone, unnamed):
        assert client.connections[-1].numbers == list(range(1, WAITING + 2))


async def is_welcome(client: LocalClient, url: str) -> bool:
    """Connect once more."""
    connection = await client.connect(url)
    await until(lambda: connection.welcome or connection.code is not None, "it is answered")
    return connection.code is None


async def assert_told_when_deleted(world: World, queue: str, client: LocalClient) -> None:
    """Delete the queue of a client that is in the middle of a stream."""
    connection = client.connections[0]
    wanted = connection.proven + 50
    await until(lambda: connection.proven > wanted, "the stream is on its way")
    world.delete(queue)
    await until(lambda: connection.gaps, "the client is told of the gap")


async def test_a_queue_deleted_under_traffic_comes_back_and_the_client_is_told(fragile_world: World) -> None:
    world = fragile_world
    await world.start_replica()
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    unnamed, device = world.local_client("unnamed"), world.local_client("device")
    await unnamed.connect(world.url(diagnosis))
    await device.connect(world.url(diagnosis, client_id="phone"))
    await until(lambda: unnamed.is_welcome and device.is_welcome, "both are welcome")
    audiences = [Audience("unnamed", [unnamed]), Audience("device", [device])]
    async with streaming_considerately(recorder, diagnosis, COUNT, audiences):
        await assert_told_when_deleted(world, f"diagnosis.{diagnosis}", unnamed)
        await assert_told_when_deleted(world, world.device_queue(diagnosis), device)
    found = await verdict(recorder, diagnosis, audiences)
    assert not found.faults
    assert unnamed.connections[0].gaps == device.connections[0].gaps == [None]
    assert unnamed.is_welcome
    assert device.is_welcome


async def test_a_queue_deleted_and_made_again_at_once_is_known_for_another_one(fragile_world: World) -> None:
    world = fragile_world
    if world.queue_type == "quorum":
        pytest.xfail("RabbitMQ 3.10 does not tell the consumers of a quorum queue that is made again at once")
    await world.start_replica()
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    client = world.local_client("client")
    connection = await client.connect(world.url(diagnosis))
    await until(lambda: client.is_welcome, "it is welcome")
    await recorder.publish(diagnosis, 1)
    await until(lambda: connection.proven == 1, "it has the first")
    world.delete(f"diagnosis.{diagnosis}", again_for=diagnosis)
    await until(lambda: connection.gaps == [None], "the client is told of the gap")
    await recorder.publish(diagnosis, 1)
    await until(lambda: connection.proven == 2, "it has the second")


async def seen_by_another_client(world: World, broker: PrivateRabbitMQ, diagnosis: int) -> None:
    """Another replica consumes the queue; the broker tells it, and it asks for a new one."""
    world.delete(f"diagnosis.{diagnosis}")


async def found_by_a_client_that_comes(world: World, broker: PrivateRabbitMQ, diagnosis: int) -> None:
    """Nobody else watched; somebody comes, and finds no queue."""
    world.delete(f"diagnosis.{diagnosis}")
    client = world.local_client("comes")
    await client.connect(world.url(diagnosis))
    await until(lambda: client.is_welcome, "there is a queue again")


async def found_by_the_next_event(world: World, broker: PrivateRabbitMQ, diagnosis: int) -> None:
    """Nobody watches; an event finds no queue."""
    world.delete(f"diagnosis.{diagnosis}")
    await (await world.recorder()).publish(diagnosis, 1)
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 1, "there is a queue again")


async def with_the_replicas_own_queue(world: World, broker: PrivateRabbitMQ, diagnosis: int) -> None:
    """It was away for so long that the queue through which it would be told expired."""
    for queue, keys in (await keys_by_queue(broker)).items():
        if f"diagnosis.{diagnosis}" in keys and is_node_queue(queue):
            world.delete(queue)
    await found_by_a_client_that_comes(world, broker, diagnosis)


@pytest.mark.parametrize(
    "loss",
    [
        seen_by_another_client,
        found_by_a_client_that_comes,
        found_by_the_next_event,
        with_the_replicas_own_queue,
    ],
)
async def test_a_queue_that_is_deleted_while_a_replica_is_away_is_a_gap_for_its_clients(
    fragile_world: World,
    fragile_broker: PrivateRabbitMQ,
    loss: Callable[[World, PrivateRabbitMQ, int], Awaitable[None]],
) -> None:
    """When it comes back there is a queue of that name, and nothing to be seen of what happened."""
    world = fragile_world
    async with Proxy(address_of(world.amqp_url)) as wire:
        away = await world.start_replica(amqp_url=through(world.amqp_url, wire))
        await world.start_replica()
        diagnosis, recorder = world.diagnosis(), await world.recorder()
        client, other = world.local_client("client"), world.local_client("other")
        misses = await client.connect(world.url(diagnosis, address=away.address))
        await until(lambda: client.is_welcome, "it is welcome")
        connections = [misses]
        if loss is seen_by_another_client:
            connections.append(await other.connect(world.url(diagnosis)))
            await until(lambda: other.is_welcome, "so is the other one")
        broker, wire.target = wire.target, NOBODY
        wire.cut()
        await until(lambda: away.said("broker_lost"), "the replica is away")
        await loss(world, fragile_broker, diagnosis)
        wire.target = broker
        await until(lambda: misses.gaps, "its client is told")

        published = max(recorder.confirmed(diagnosis), default=0)

        async def what_comes_arrives() -> bool:
            """Or it was served before the replicas knew of each other again: the client is told that, too."""
            told = len(misses.gaps)
            await recorder.publish(diagnosis, 1)
            last = max(recorder.confirmed(diagnosis))
            await until(lambda: last in misses.numbers or len(misses.gaps) > told, "it arrives, or is a gap")
            return last in misses.numbers

        await until_true(what_comes_arrives, "what comes then arrives")
        last = max(recorder.confirmed(diagnosis))
        await until(lambda: all(last in each.proven_numbers for each in connections), "and is proven")
        assert all(set(each.gaps) == {None} for each in connections)
        if loss in (
            seen_by_another_client,
            found_by_the_next_event,
        ):  # the other replica knows it, or serves nobody
            assert (last, [each.gaps for each in connections]) == (published + 1, [[None]] * len(connections))


async def test_under_a_memory_alarm_publishes_are_refused_in_time_and_deliveries_go_on(
    fragile_world: World, fragile_broker: PrivateRabbitMQ
) -> None:
    world = fragile_world
    await world.start_replica(publish_timeout_seconds=2)
    diagnosis, waiting = world.diagnosis(), world.diagnosis()
    recorder = await world.recorder()
    stays, comes = world.local_client("stays"), world.local_client("comes")
    connection = await stays.connect(world.url(diagnosis))
    await recorder.publish(diagnosis, 10)
    await recorder.publish(waiting, 50)
    await until(lambda: world.depth(f"diagnosis.{waiting}") == 50, "first contact is made")
    await until(lambda: connection.proven == 10, "the first events are proved")

    await asyncio.to_thread(fragile_broker.ctl, "set_vm_memory_high_watermark", "0.0000001")
    try:
        refused = await world.broadcast_feedback(diagnosis, feedback_id=1)
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.seconds < 2 + 1.5

        late = await comes.connect(world.url(waiting))
        await until(lambda: late.proven == 50, "what waits is delivered under the alarm")
        assert late.numbers == list(range(1, 51))
        await comes.leave()
        await until(lambda: world.depth(f"diagnosis.{waiting}") == 0, "and was acknowledged")
        assert stays.is_welcome
    finally:
        await asyncio.to_thread(fragile_broker.ctl, "set_vm_memory_high_watermark", "0.4")

    await recorder.publish(diagnosis, 10)
    found = await verdict(recorder, diagnosis, [Audience("stays", [stays])])
    assert not found.lost
    accepted = await world.broadcast_feedback(diagnosis, feedback_id=2)
    assert accepted.status == 200
    ids = [accepted.body["event_id"]]
    await until(lambda: ids[0] in [event.event_id for event in connection.events], "publishing works again")
