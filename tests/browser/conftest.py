"""Fixtures: a browser for all tests, the reference client in it and in Node, and a service of their own."""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest

from realtime_service.embedded.rabbitmq import Broker, PrivateRabbitMQ, start_private_rabbitmq
from tests.browser.chromium import Chromium, running_chromium
from tests.browser.clients import InChromium, InNode, Start, Watcher, install_ws
from tests.service.harness.replica import Replica
from tests.service.harness.world import Database, World, stop_cleanly
from tests.support.servers import on_its_own

Place = Literal["chromium", "node", "ws"]


@pytest.fixture(scope="session", name="broker")
def broker_of_this_folder(broker: Broker) -> Broker:
    """The broker of this run; nobody else's replicas are on this part of it."""
    return on_its_own(broker, "browser")


@pytest.fixture(scope="session")
def new_id() -> Callable[[], int]:
    """Ids that nobody used before: a broker that was named for the tests may remember earlier runs."""
    ids = count(random.randrange(1, 2**30) * 10_000)
    return lambda: next(ids)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return Database(tmp_path_factory.mktemp("browser") / "diagnoses.db")


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
    """The shared replica, and publishers of one's own."""
    async with World(broker.amqp_url, database, new_id) as world:
        world.replica = shared_replica
        yield world


@pytest.fixture(scope="session")
def fragile_broker() -> Iterator[PrivateRabbitMQ]:
    """A broker to kill."""
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


@pytest.fixture(scope="session")
async def chromium(chromium_program: Path) -> AsyncIterator[Chromium]:
    """A browser."""
    async with running_chromium(chromium_program) as browser:
        yield browser


@pytest.fixture(scope="session")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The entry of Node's package `ws`."""
    return install_ws(tmp_path_factory.mktemp("ws"))


@pytest.fixture(params=["chromium", "node"])
def place(request: pytest.FixtureRequest) -> Place:
    """Where the client runs."""
    chosen: Place = request.param
    return chosen


@pytest.fixture
async def start(
    place: Place, request: pytest.FixtureRequest, chromium: Chromium, origin: str, tmp_path: Path
) -> AsyncIterator[Start]:
    """Starts clients; they are stopped in the end."""
    started: list[Watcher] = []

    async def start_one(address: str, diagnosis: int, *tokens: str | None, **options: Any) -> Watcher:
        options = {"url": f"http://{address}", "diagnosis": diagnosis, "tokens": tokens, **options}
        watcher: Watcher
        if place == "chromium":
            watcher = await InChromium.start(chromium, origin, options)
        else:
            entry = request.getfixturevalue("ws") if place == "ws" else None
            watcher = await InNode.start(tmp_path, origin, options, ws=entry)
        started.append(watcher)
        return watcher

    yield start_one
    for watcher in started:
        await watcher.stop()


@pytest.fixture
def origin(shared_replica: Replica) -> str:
    """Where the client comes from: a replica that no test harms."""
    return shared_replica.address
