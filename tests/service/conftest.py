"""Fixtures for whole processes: a world a test, a replica for those that do not harm it."""

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from typing import Final, cast

import pytest

from contracts.topology import QueueType
from realtime_service.embedded.rabbitmq import Broker, PrivateRabbitMQ, start_private_rabbitmq
from tests.service.harness.replica import Replica
from tests.service.harness.world import Database, World, stop_cleanly
from tests.support.servers import on_its_own

QUEUE_TYPE: Final = cast("QueueType", os.environ.get("REALTIME_TEST_QUEUE_TYPE") or "classic")
"""Of all queues, but for those of `test_quorum.py`."""

SharedReplicas = Callable[[QueueType], Awaitable[Replica]]


@pytest.fixture(scope="session", name="broker")
def broker_of_this_folder(broker: Broker) -> Broker:
    """The broker of this run; nobody else's replicas are on this part of it."""
    return on_its_own(broker, "service")


@pytest.fixture(scope="session")
def new_id() -> Callable[[], int]:
    """Ids that nobody used before: a broker that was named for the tests may remember earlier runs."""
    ids = count(random.randrange(1, 2**40) * 10_000)
    return lambda: next(ids)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """The database of the tests that do not harm it."""
    return Database(tmp_path_factory.mktemp("database") / "diagnoses.db")


@pytest.fixture
def queue_type() -> QueueType:
    """The type of the queues that a test's replicas make."""
    return QUEUE_TYPE


@pytest.fixture(scope="session")
async def shared_replicas(
    broker: Broker, database: Database, new_id: Callable[[], int]
) -> AsyncIterator[SharedReplicas]:
    """Gives a replica for the tests that do not harm it, one for each type of queue."""
    running: dict[QueueType, Replica] = {}

    async def of(queue_type: QueueType) -> Replica:
        if queue_type not in running:
            amqp_url = _broker_for(broker, queue_type).amqp_url
            settings = World(amqp_url, database, new_id, queue_type).settings()
            running[queue_type] = await Replica.start(settings)
        return running[queue_type]

    yield of
    for replica in running.values():
        await stop_cleanly(replica)


_brokers: dict[QueueType, Broker] = {}


def _broker_for(broker: Broker, queue_type: QueueType) -> Broker:
    """Replicas behind one first-contact door make one type of queue."""
    if queue_type == QUEUE_TYPE:
        return broker
    if broker.node is None:
        pytest.skip(
            "REALTIME_TEST_QUEUE_TYPE=quorum runs all tests of the folder on the broker that was named"
        )
    if queue_type not in _brokers:
        _brokers[queue_type] = on_its_own(broker, f"service-{queue_type}")
    return _brokers[queue_type]


@pytest.fixture
async def world(
    broker: Broker,
    database: Database,
    new_id: Callable[[], int],
    queue_type: QueueType,
    shared_replicas: SharedReplicas,
) -> AsyncIterator[World]:
    """The shared replica, and clients and publishers of one's own."""
    replica = await shared_replicas(queue_type)
    async with World(_broker_for(broker, queue_type).amqp_url, database, new_id, queue_type) as world:
        world.replica = replica
        yield world


@pytest.fixture(scope="session")
def fragile_broker() -> Iterator[PrivateRabbitMQ]:
    """A broker to kill, freeze and restart; each test leaves it running."""
    node = start_private_rabbitmq()
    yield node
    node.stop()


@pytest.fixture
async def fragile_world(
    fragile_broker: PrivateRabbitMQ, database: Database, new_id: Callable[[], int], queue_type: QueueType
) -> AsyncIterator[World]:
    """A world around the broker that may be harmed, without a replica yet."""
    async with World(fragile_broker.amqp_url, database, new_id, queue_type) as world:
        yield world
