"""Fixtures of the WebSocket route: a replica for the tests that do not harm it, and clients of one's own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from realtime_service.embedded.rabbitmq import Broker
from realtime_service.event_publisher import EventPublisher
from tests.support.servers import on_its_own
from tests.web.replica import Amqp, Diagnoses, Replica, Visitors, replica_of


@pytest.fixture(scope="session", name="broker")
def broker_of_this_folder(broker: Broker) -> Broker:
    """The broker of this run; nobody else's replicas are on this part of it."""
    return on_its_own(broker, "web")


@pytest.fixture(scope="session")
def diagnoses(tmp_path_factory: pytest.TempPathFactory) -> Diagnoses:
    return Diagnoses(tmp_path_factory.mktemp("web") / "diagnoses.db")


@pytest.fixture(scope="session")
async def amqp(broker: Broker) -> AsyncIterator[Amqp]:
    amqp = Amqp(broker.amqp_url)
    yield amqp
    await amqp.close()


@pytest.fixture(scope="session")
async def events(broker: Broker) -> AsyncIterator[EventPublisher]:
    async with EventPublisher(broker.amqp_url) as publisher:
        yield publisher


StartReplica = Callable[..., AbstractAsyncContextManager[Replica]]


@pytest.fixture(scope="session")
def start_replica(diagnoses: Diagnoses, amqp: Amqp, events: EventPublisher) -> StartReplica:
    """Starts a replica with settings of the test's own: `async with start_replica(…) as replica`."""

    def start(**settings: Any) -> AbstractAsyncContextManager[Replica]:
        return replica_of(amqp, events, diagnoses, **settings)

    return start


@pytest.fixture(scope="module")
async def replica(start_replica: StartReplica) -> AsyncIterator[Replica]:
    """Patient with its clients: on a busy machine none of them is to be found dead by mistake."""
    async with start_replica(receipt_timeout_seconds=30, join_timeout_seconds=20) as replica:
        yield replica


@pytest.fixture
async def visitors(replica: Replica) -> AsyncIterator[Visitors]:
    async with Visitors(replica) as visitors:
        yield visitors


@pytest.fixture(scope="module")
async def quick(start_replica: StartReplica) -> AsyncIterator[Replica]:
    """Gives its clients half a second."""
    async with start_replica(receipt_timeout_seconds=0.5, heartbeat_seconds=1) as replica:
        yield replica


@pytest.fixture
async def hurried(quick: Replica) -> AsyncIterator[Visitors]:
    """Clients of the quick replica."""
    async with Visitors(quick) as visitors:
        yield visitors
