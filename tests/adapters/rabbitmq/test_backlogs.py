"""What waits, asked of a real broker without disturbing it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count

import aio_pika
import pytest

from contracts import topology
from contracts.ids import DiagnosisId
from realtime_service.adapters.management import ManagementApi
from realtime_service.adapters.rabbitmq.backlogs import QueueBacklogs
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, close, connect
from realtime_service.embedded.rabbitmq import Broker, PrivateRabbitMQ, start_private_rabbitmq
from tests.support.amqp import connected

_numbers = count(random.randrange(1, 10**12) * 1000)


def new_diagnosis() -> DiagnosisId:
    """One that no other test uses: they share a broker."""
    return DiagnosisId(next(_numbers))


@pytest.fixture
async def connection(broker: Broker) -> AsyncIterator[BrokerConnection]:
    """As the service consumes on."""
    connection = await connect(broker.amqp_url, name="backlogs test")
    yield connection
    await close(connection)


async def fill(amqp_url: str, queue: str, events: int) -> None:
    """Make a queue, and let this many events wait in it."""
    async with connected(amqp_url) as (_, channel):
        await channel.declare_queue(queue, durable=True, arguments={"x-expires": 600_000})
        for _ in range(events):
            await channel.default_exchange.publish(aio_pika.Message(b"{}"), queue, mandatory=True)


async def test_the_numbers_are_exact_at_once(broker: Broker, connection: BrokerConnection) -> None:
    backlogs = QueueBacklogs(lambda: connection)
    diagnosis = new_diagnosis()
    backlogs.note(diagnosis)
    for events in (3, 2):
        await fill(broker.amqp_url, topology.shared_queue(diagnosis), events)
        counts, _ = await backlogs.waiting()
        assert counts == {diagnosis: 3 if events == 3 else 5}


async def test_without_the_management_api_others_may_be_missing_and_the_answer_says_so(
    broker: Broker,
    connection: BrokerConnection,
) -> None:
    assert await QueueBacklogs(lambda: connection).waiting() == ({}, True)


async def test_a_queue_that_is_empty_is_not_listed(broker: Broker, connection: BrokerConnection) -> None:
    backlogs = QueueBacklogs(lambda: connection)
    diagnosis = new_diagnosis()
    backlogs.note(diagnosis)
    await fill(broker.amqp_url, topology.shared_queue(diagnosis), 0)
    assert (await backlogs.waiting())[0] == {}


async def test_a_queue_that_does_not_exist_hides_no_other_and_closes_nobodys_channel(
    broker: Broker,
    connection: BrokerConnection,
) -> None:
    backlogs = QueueBacklogs(lambda: connection)
    diagnoses = [new_diagnosis() for _ in range(6)]
    for diagnosis in diagnoses:
        backlogs.note(diagnosis)
    for diagnosis in diagnoses[::2]:
        await fill(broker.amqp_url, topology.shared_queue(diagnosis), 1)
    bystander = connection.channel()
    assert (await backlogs.waiting())[0] == dict.fromkeys(diagnoses[::2], 1)
    assert not bystander.is_closed
    assert not connection.is_closed


async def test_a_queue_that_did_not_exist_is_asked_for_again_once_its_diagnosis_is_noted_anew(
    broker: Broker,
    connection: BrokerConnection,
) -> None:
    backlogs = QueueBacklogs(lambda: connection)
    diagnosis = new_diagnosis()
    backlogs.note(diagnosis)
    assert (await backlogs.waiting())[0] == {}
    await fill(broker.amqp_url, topology.shared_queue(diagnosis), 1)
    backlogs.note(diagnosis)
    assert (await backlogs.waiting())[0] == {diagnosis: 1}


async def test_events_that_wait_for_a_device_are_not_counted(
    broker: Broker, connection: BrokerConnection
) -> None:
    backlogs = QueueBacklogs(lambda: connection)
    diagnosis = new_diagnosis()
    backlogs.note(diagnosis)
    await fill(broker.amqp_url, topology.shared_queue(diagnosis), 1)
    await fill(broker.amqp_url, topology.device_queue(diagnosis, "0" * 32), 5)
    assert (await backlogs.waiting())[0] == {diagnosis: 1}


async def test_only_so_many_diagnoses_are_remembered_and_asked_for_the_latest_first(
    broker: Broker,
    connection: BrokerConnection,
) -> None:
    diagnoses = [new_diagnosis() for _ in range(4)]
    for diagnosis in diagnoses:
        await fill(broker.amqp_url, topology.shared_queue(diagnosis), 1)
    forgetful = QueueBacklogs(lambda: connection, max_seen=3)
    hasty = QueueBacklogs(lambda: connection, max_asked=2)
    for diagnosis in diagnoses:
        forgetful.note(diagnosis)
        hasty.note(diagnosis)
    assert await forgetful.waiting() == (dict.fromkeys(diagnoses[1:], 1), True)
    assert await hasty.waiting() == (dict.fromkeys(diagnoses[2:], 1), True)


async def test_many_operators_at_once_cost_one_question_and_each_gets_numbers_of_their_own(
    broker: Broker,
    connection: BrokerConnection,
) -> None:
    asked = 0

    def connection_of_the_moment() -> BrokerConnection:
        nonlocal asked
        asked += 1
        return connection

    backlogs = QueueBacklogs(connection_of_the_moment)
    diagnosis = new_diagnosis()
    backlogs.note(diagnosis)
    await fill(broker.amqp_url, topology.shared_queue(diagnosis), 1)
    answers = await asyncio.gather(*(backlogs.waiting() for _ in range(20)))
    assert asked == 1
    answers[0][0].clear()
    assert answers[1][0] == {diagnosis: 1}


async def test_an_operator_who_goes_away_takes_no_channel_and_no_answer_with_them(
    broker: Broker,
    connection: BrokerConnection,
) -> None:
    backlogs = QueueBacklogs(lambda: connection)
    diagnosis = new_diagnosis()
    backlogs.note(diagnosis)
    await fill(broker.amqp_url, topology.shared_queue(diagnosis), 1)
    impatient, patient = (asyncio.create_task(backlogs.waiting()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient)[0] == {diagnosis: 1}
    assert impatient.cancelled()


async def test_without_a_connection_nothing_is_known() -> None:
    backlogs = QueueBacklogs(lambda: None)
    backlogs.note(new_diagnosis())
    assert await backlogs.waiting() == ({}, True)


async def test_a_connection_that_was_lost_is_an_answer_not_an_error(broker: Broker) -> None:
    connection = await connect(broker.amqp_url, name="lost")
    await close(connection)
    backlogs = QueueBacklogs(lambda: connection)
    backlogs.note(new_diagnosis())
    assert await backlogs.waiting() == ({}, True)


async def test_closing_ends_a_question_under_way(broker: Broker, connection: BrokerConnection) -> None:
    backlogs = QueueBacklogs(lambda: connection)
    await backlogs.close()
    backlogs.note(new_diagnosis())
    asking = asyncio.create_task(backlogs.waiting())
    await asyncio.sleep(0)
    await backlogs.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.fixture(scope="module")
def managed() -> Iterator[PrivateRabbitMQ]:
    """A broker with the management plugin, of these tests alone."""
    node = start_private_rabbitmq(management=True)
    yield node
    node.stop()


@pytest.fixture
async def management(managed: PrivateRabbitMQ) -> AsyncIterator[ManagementApi]:
    assert managed.management_url
    async with ManagementApi(managed.management_url) as api:
        yield api


async def test_with_the_management_api_diagnoses_that_nobody_ever_noted_are_listed_too(
    managed: PrivateRabbitMQ, management: ManagementApi
) -> None:
    connection = await connect(managed.amqp_url, name="backlogs test")
    try:
        one, two, empty = (new_diagnosis() for _ in range(3))
        await fill(managed.amqp_url, topology.shared_queue(one), 2)
        await fill(managed.amqp_url, topology.shared_queue(two), 1)
        await fill(managed.amqp_url, topology.shared_queue(empty), 0)
        await fill(managed.amqp_url, topology.device_queue(one, "0" * 32), 5)
        await fill(managed.amqp_url, topology.UNROUTED, 5)
        backlogs = QueueBacklogs(lambda: connection, management)
        while (await backlogs.waiting())[0] != {one: 2, two: 1}:  # noqa: ASYNC110  (a remote broker)
            await asyncio.sleep(0.1)  # its numbers lag up to 5 s

        await fill(managed.amqp_url, topology.shared_queue(one), 1)
        assert await backlogs.waiting() == ({one: 3, two: 1}, False)  # exact: the broker itself was asked

        offline = QueueBacklogs(lambda: None, management)
        counts, truncated = await offline.waiting()
        assert counts.keys() == {one, two}
        assert truncated
    finally:
        await close(connection)


async def test_a_broker_that_froze_is_not_waited_for_for_ever(
    managed: PrivateRabbitMQ, management: ManagementApi
) -> None:
    connection = await connect(managed.amqp_url, name="backlogs test")
    backlogs = QueueBacklogs(lambda: connection, management, ask_seconds=0.2)
    backlogs.note(new_diagnosis())
    managed.pause()
    try:
        before = time.monotonic()
        _, truncated = await backlogs.waiting()
        assert truncated
        assert time.monotonic() - before < 5
    finally:
        managed.resume()
        await close(connection)
