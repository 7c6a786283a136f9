"""A replica for the commands to speak to."""

from collections.abc import AsyncIterator
from contextlib import closing
from sqlite3 import connect

import pytest

from realtime_service.embedded.rabbitmq import Broker
from tests.cli.processes import SECRET, Service, environment
from tests.service.harness.replica import Replica
from tests.support.servers import on_its_own


@pytest.fixture(scope="session", name="broker")
def broker_of_this_folder(broker: Broker) -> Broker:
    """The broker of this run; nobody else's replicas are on this part of it."""
    return on_its_own(broker, "cli")


@pytest.fixture(scope="package")
async def service(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """`realtime-service serve`, on the broker of this run."""
    database = tmp_path_factory.mktemp("cli") / "diagnoses.db"
    with closing(connect(database)) as connection, connection:
        connection.execute("CREATE TABLE diagnoses (id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL)")
    settings = environment(
        amqp_url=broker.amqp_url, database_url=f"sqlite:///{database}", jwt_secret=SECRET, drain_seconds="0"
    )
    replica = await Replica.start(settings)
    yield Service(replica, broker.amqp_url, database)
    assert await replica.stop() == 0
