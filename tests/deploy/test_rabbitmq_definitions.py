"""`deploy/rabbitmq`: each user may do its work, and nothing else, on a real broker."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import aiohttp
import pika
import pika.exceptions
import pytest

from contracts import topology
from realtime_service.event_publisher import EventPublisher
from tests.deploy.conftest import ROOT, SetUpBroker, printed_by, write_definitions
from tests.service.harness.checker import Audience
from tests.service.harness.clients import LocalClient
from tests.service.harness.recorder import Recorder
from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import PATIENT, World, verdict

Attempt = Callable[[Any], object]

NODE_QUEUE = "realtime.node.victim"
BODY = b'{"diagnosis_id": 7, "feedback_id": 1, "rating": 5, "effectiveness": 0.5}'


def publish(exchange: str, key: str, **properties: Any) -> Attempt:
    return lambda channel: channel.basic_publish(exchange, key, BODY, pika.BasicProperties(**properties))


def consume(queue: str) -> Attempt:
    return lambda channel: channel.basic_consume(queue, lambda *_: None)


def get(queue: str) -> Attempt:
    return lambda channel: channel.basic_get(queue)


def bind(queue: str, exchange: str, key: str = "#") -> Attempt:
    return lambda channel: channel.queue_bind(queue, exchange, key)


def declare_queue(name: str, **arguments: Any) -> Attempt:
    return lambda channel: channel.queue_declare(name, arguments=arguments)


def declare_exchange(name: str) -> Attempt:
    return lambda channel: channel.exchange_declare(name, "topic")


def delete_queue(name: str) -> Attempt:
    return lambda channel: channel.queue_delete(name)


def delete_exchange(name: str) -> Attempt:
    return lambda channel: channel.exchange_delete(name)


@pytest.fixture
def open_channel(set_up_broker: SetUpBroker) -> Iterator[Callable[[str], Any]]:
    """Gives a user's channel, with confirms."""
    opened = []

    def open_one(user: str) -> Any:
        connection = pika.BlockingConnection(pika.URLParameters(set_up_broker.url(user)))
        opened.append(connection)
        channel = connection.channel()
        channel.confirm_delivery()
        return channel

    yield open_one
    for connection in opened:
        if connection.is_open:
            connection.close()


@pytest.fixture(scope="session", autouse=True)
def things_to_harm(set_up_broker: SetUpBroker) -> None:
    """A backlog with an event, and a replica's queue."""
    with closing(pika.BlockingConnection(pika.URLParameters(set_up_broker.url("service")))) as connection:
        channel = connection.channel()
        channel.queue_declare("diagnosis.7", durable=True, arguments=topology.backlog_arguments())
        channel.queue_bind("diagnosis.7", topology.EVENTS, "diagnosis.7")
        channel.queue_declare(NODE_QUEUE, durable=True)


PUBLISHER_MUST_NOT: dict[str, Attempt] = {
    "read a patient's backlog": get("diagnosis.7"),
    "consume a patient's backlog": consume("diagnosis.7"),
    "read what was parked": get(topology.PARKED),
    "read events without a queue": get(topology.UNROUTED),
    "read what replicas tell each other": get(NODE_QUEUE),
    "declare a queue": declare_queue("mine"),
    "declare a queue that the broker names": declare_queue(""),
    "declare an exchange": declare_exchange("mine"),
    "listen in on an exchange": bind("diagnosis.7", "diagnosis.feedback"),
    "listen in on the inner exchange": bind("diagnosis.7", topology.EVENTS),
    "delete a backlog": delete_queue("diagnosis.7"),
    "delete an exchange": delete_exchange("diagnosis.feedback"),
    "empty a backlog": lambda channel: channel.queue_purge("diagnosis.7"),
    "forge a message between replicas": publish(topology.NODES, "diagnosis.7"),
    "forge a message to one replica": publish("", NODE_QUEUE),
    "put an event straight into a backlog": publish("", "diagnosis.7"),
    "publish past the outer exchanges": publish(topology.EVENTS, "diagnosis.7"),
    "publish to devices alone": publish(topology.DEVICES, "diagnosis.7"),
    "publish as if nothing were routed": publish(topology.UNROUTED, "diagnosis.7"),
    "use a key of no diagnosis": publish("diagnosis.feedback", "diagnosis.seven"),
    "use a key of several words": publish("diagnosis.feedback", "diagnosis.7.device.abc"),
    "publish to an exchange of the broker": publish("amq.topic", "diagnosis.7"),
    "speak as another user": publish("diagnosis.feedback", "diagnosis.7", user_id="service"),
}


@pytest.mark.parametrize("attempt", PUBLISHER_MUST_NOT.values(), ids=PUBLISHER_MUST_NOT)
def test_a_publisher_must_not(open_channel: Callable[[str], Any], attempt: Attempt) -> None:
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
        attempt(open_channel("publisher"))
    spoofed = 406  # what the broker says of a wrong `user_id`
    assert refusal.value.reply_code in (403, spoofed)


OPERATOR_MUST_NOT: dict[str, Attempt] = {
    "forge a message between replicas": publish(topology.NODES, "diagnosis.7"),
    "forge a message to one replica": publish("", NODE_QUEUE),
    "read what replicas tell each other": get(NODE_QUEUE),
    "delete the exchange of tasks": delete_exchange("diagnosis.feedback"),
    "delete the parking queue": delete_queue(topology.PARKED),
    "declare a queue of its own": declare_queue("mine"),
}


@pytest.mark.parametrize("attempt", OPERATOR_MUST_NOT.values(), ids=OPERATOR_MUST_NOT)
def test_an_operator_must_not(open_channel: Callable[[str], Any], attempt: Attempt) -> None:
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
        attempt(open_channel("operator"))
    assert refusal.value.reply_code == 403


SERVICE_MUST_NOT: dict[str, Attempt] = {
    "declare a queue of another name": declare_queue("mine"),
    "declare an exchange of another name": declare_exchange("diagnosis.mine"),
    "publish to an exchange of the broker": publish("amq.topic", "diagnosis.7"),
    "let evictions go elsewhere": declare_queue("diagnosis.8", **{"x-dead-letter-exchange": "amq.topic"}),
}


@pytest.mark.parametrize("attempt", SERVICE_MUST_NOT.values(), ids=SERVICE_MUST_NOT)
def test_the_service_must_not(open_channel: Callable[[str], Any], attempt: Attempt) -> None:
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
        attempt(open_channel("service"))
    assert refusal.value.reply_code == 403


@pytest.mark.parametrize("attempt", [get("diagnosis.7"), publish("diagnosis.feedback", "diagnosis.7")])
def test_the_monitor_must_not_read_or_publish(open_channel: Callable[[str], Any], attempt: Attempt) -> None:
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
        attempt(open_channel("monitor"))
    assert refusal.value.reply_code == 403


@pytest.mark.parametrize("user", ["publisher", "service"])
async def test_who_needs_no_management_has_none(set_up_broker: SetUpBroker, user: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{set_up_broker.management_url(user)}/api/queues") as answer,
    ):
        assert answer.status == 401


async def test_the_monitor_changes_nothing(set_up_broker: SetUpBroker) -> None:
    address = set_up_broker.management_url("monitor")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{address}/api/queues/realtime") as answer:
            assert answer.status == 200
        async with session.delete(f"{address}/api/queues/realtime/diagnosis.7") as answer:
            assert answer.status == 401
        getting = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
        async with session.post(f"{address}/api/queues/realtime/diagnosis.7/get", json=getting) as answer:
            assert answer.status in (400, 401, 403)


async def test_the_service_works_as_its_least_permission_user(
    world: World, set_up_broker: SetUpBroker
) -> None:
    """Two replicas, a named and unnamed clients, relays, parking, the legacy route and the status."""
    settings = {"management_url": set_up_broker.management_url("monitor")}
    here, there = await world.start_replica(**settings), await world.start_replica(**settings)
    diagnosis = world.diagnosis()
    clients: dict[str, LocalClient] = {}
    for name, replica in (("one", here), ("two", there)):
        clients[name] = world.local_client(name)
        await clients[name].connect(world.url(diagnosis, address=replica.address))
    clients["phone"] = world.local_client("phone")
    await clients["phone"].connect(world.url(diagnosis, client_id="phone"))
    await until(lambda: all(client.is_welcome for client in clients.values()), "all are welcome")
    async with Recorder(set_up_broker.url("publisher")) as recorder:
        await recorder.publish(diagnosis, 20)
        audiences = [Audience(name, [client]) for name, client in clients.items()]
        found = await verdict(recorder, diagnosis, audiences)
        assert not found.faults
        assert not found.dropped
        await recorder.publish_raw("diagnosis.feedback", f"diagnosis.{diagnosis}", b"{}")
    await until_true(lambda: _parked(set_up_broker), "the bad event is parked")
    assert (await world.broadcast_feedback(diagnosis, feedback_id=1)).status == 200
    for replica in (here, there):
        assert not replica.said("topology_odd") + replica.said("topology_wrong")


async def _parked(set_up_broker: SetUpBroker) -> bool:
    with closing(pika.BlockingConnection(pika.URLParameters(set_up_broker.url("operator")))) as connection:
        return bool(connection.channel().queue_declare(topology.PARKED, passive=True).method.message_count)


async def test_our_own_publisher_needs_no_more_than_a_publisher_has(
    world: World, set_up_broker: SetUpBroker
) -> None:
    diagnosis = world.diagnosis()
    async with EventPublisher(set_up_broker.url("publisher")) as publisher:
        assert await publisher.broadcast_feedback_update(diagnosis, 1, 5, 0.5, user_id=PATIENT)


async def test_an_operator_prunes_and_gives_back(
    set_up_broker: SetUpBroker, open_channel: Callable[[str], Any]
) -> None:
    service = open_channel("service")
    service.queue_declare("diagnosis.9", durable=True, arguments=topology.backlog_arguments())
    service.queue_bind("diagnosis.9", topology.EVENTS, "diagnosis.9")
    environment = {
        "REALTIME_AMQP_URL": set_up_broker.url("operator"),
        "REALTIME_MANAGEMENT_URL": set_up_broker.management_url("operator"),
    }

    async def pruned() -> bool:  # once the management API knows the queue
        code, said = await printed_by(
            sys.executable, "-m", "realtime_service", "prune", "--idle-days", "0", env=environment
        )
        assert code == 0, said
        return "diagnosis.9" in said

    await until_true(pruned, "the queue is pruned")
    open_channel("operator").basic_publish("diagnosis.feedback", "diagnosis.7", BODY)


def test_the_definitions_in_the_repository_are_those_of_the_contract() -> None:
    kept = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text())
    assert kept == write_definitions(), (
        "python deploy/rabbitmq/definitions.py > deploy/rabbitmq/definitions.json"
    )
    assert {user["password_hash"] for user in kept["users"]} == {""}


def test_a_user_without_a_password_cannot_log_in(set_up_broker: SetUpBroker) -> None:
    definitions = {"users": [user | {"name": "nobody"} for user in write_definitions()["users"][:1]]}
    path = set_up_broker.node.directory / "nobody.json"
    path.write_text(json.dumps(definitions))
    set_up_broker.node.ctl("import_definitions", str(path))
    for password in ("", "guest", "nobody"):
        refused = pika.ConnectionParameters(
            port=set_up_broker.node.port, credentials=pika.PlainCredentials("nobody", password)
        )
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            pika.BlockingConnection(refused)
