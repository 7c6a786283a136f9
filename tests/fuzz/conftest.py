"""Fixtures of the fuzz tests: one service for all of them, on a broker's virtual host of its own."""

import random
from collections.abc import AsyncIterator
from itertools import count

import pytest

from realtime_service.embedded.rabbitmq import Broker
from tests.fuzz.subject import Subject
from tests.service.harness.world import Database, World
from tests.support.servers import on_its_own


@pytest.fixture(scope="session")
async def subject(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    """The service under fire."""
    own = on_its_own(broker, "fuzz")
    database = Database(tmp_path_factory.mktemp("fuzz") / "diagnoses.db")
    ids = count(random.randrange(1, 2**40) * 10_000)
    async with World(own.amqp_url, database, lambda: next(ids)) as world:
        subject = Subject(world)
        await subject.start()
        yield subject
        await subject.stop()
