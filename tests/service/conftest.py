"""Fixtures for whole processes: a world a test, a replica for those that do not harm it."""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count

import pytest

from realtime_service.embedded.rabbitmq import Broker, PrivateRabbitMQ, start_private_rabbitmq
from tests.service.harness.replica import Replica
from tests.service.harness.world import Database, World, stop_cleanly
from tests.support.servers import on_its_own


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


@pytest.fixture(scope="session")
async def shared_replica(
    broker: Broker, database: Database, new_id: Callable[[], int]
) -> AsyncIterator[Replica]:
    """A replica for the tests that do not harm it."""
    replica = await Replica.start(World(broker.amqp_url, database, new_id).settings())
    yield replica
    await stop_cleanly(replica)


@pytest.fixture
async def world(
    broker: Broker, database: Database, new_id: Callable[[], int], shared_replica: Replica
) -> AsyncIterator[World]:
    """The shared replica, and clients and publishers of one's own."""
    async with World(broker.amqp_url, database, new_id) as world:
        world.replica = shared_replica
        yield world


@pytest.fixture(scope="session")
def fragile_broker() -> Iterator[PrivateRabbitMQ]:
    """A broker to kill, freeze and restart; each test leaves it running."""
    node = start_private_rabbitmq()
    yield node
    node.stop()


@pytest.fixture
async def fragile_world(
    fragile_broker: PrivateRabbitMQ, database: Database, new_id: Callable[[], int]
) -> AsyncIterator[World]:
    """A world around the broker that may be harmed, without a replica yet."""
    async with World(fragile_broker.amqp_url, database, new_id) as world:
        yield world
