"""`realtime-service prune`: idle queues go, and no event goes with them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from sqlite3 import connect as open_database
from typing import Any

import aio_pika
import aiohttp
import pytest

from contracts import topology
from contracts.ids import DiagnosisId
from realtime_service.adapters.management import ManagementApi
from realtime_service.adapters.rabbitmq import connecting
from realtime_service.adapters.rabbitmq.pruning import SHARED_QUEUES, Pruned, Pruning
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.cli.outcome import Exit
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ, start_private_rabbitmq
from realtime_service.event_publisher import EventPublisher
from tests.cli.processes import SECRET, Service, environment, finished, signed
from tests.service.harness.replica import Replica
from tests.service.harness.waiting import until, until_true

MEANWHILE = 40


@pytest.fixture(scope="module")
def managed() -> Iterator[PrivateRabbitMQ]:
    """A broker with the management plugin, of these tests alone: they delete its queues."""
    node = start_private_rabbitmq(management=True)
    yield node
    node.stop()


@pytest.fixture(scope="module")
async def platform(
    managed: PrivateRabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """A replica on that broker."""
    database: Path = tmp_path_factory.mktemp("prune") / "diagnoses.db"
    with closing(open_database(database)) as connection, connection:
        connection.execute("CREATE TABLE diagnoses (id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL)")
    env = environment(
        amqp_url=managed.amqp_url, database_url=f"sqlite:///{database}", jwt_secret=SECRET, drain_seconds="0"
    )
    replica = await Replica.start(env)
    await until(lambda: replica.said("broker_connected"), "the exchanges are there")
    yield Service(replica, managed.amqp_url, database)
    assert await replica.stop() == 0
    assert not replica.complaints


@pytest.fixture
def env(managed: PrivateRabbitMQ) -> dict[str, str]:
    """What an operator has set."""
    assert managed.management_url
    return environment(amqp_url=managed.amqp_url, management_url=managed.management_url)


@pytest.fixture
async def events(managed: PrivateRabbitMQ) -> AsyncIterator[EventPublisher]:
    async with EventPublisher(managed.amqp_url) as publisher:
        yield publisher


async def prune(env: dict[str, str], *words: str) -> dict[str, dict[str, Any]]:
    """What it says of each queue."""
    done = await finished("prune", "--json", *words, env=env)
    assert (done.code, done.err) == (Exit.OK, "")
    return {line["queue"]: line for line in map(json.loads, done.out.splitlines())}


async def waiting(amqp_url: str, diagnosis: int) -> list[int]:
    """The feedback ids that wait for a diagnosis, taken from its queue."""
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue(f"diagnosis.{diagnosis}")
        taken = []
        while message := await queue.get(fail=False, no_ack=True):
            taken.append(json.loads(message.body)["feedback_id"])
        return taken


async def test_only_what_is_idle_and_empty_is_deleted(
    platform: Service, env: dict[str, str], events: EventPublisher
) -> None:
    idle, full, watched = (platform.diagnosis() for _ in range(3))
    names = [f"diagnosis.{diagnosis}" for diagnosis in (idle, full, watched)]
    await events.broadcast_feedback_update(full, 1, 5, 0.5)
    async with aiohttp.ClientSession() as session:
        at = {diagnosis: str(platform.watched(diagnosis)) for diagnosis in (idle, watched)}
        async with session.ws_connect(at[idle], params={"token": signed(100)}) as client:
            assert (await client.receive_json())["type"] == "connect"
        async with session.ws_connect(at[watched], params={"token": signed(100)}) as client:
            assert (await client.receive_json())["type"] == "connect"

            async def are_known() -> bool:
                found = await prune(env, "--idle-days", "0", "--dry-run")
                return [found.get(name, {}).get("deleted") for name in names] == [True, False, False]

            await until_true(are_known, "the broker knows the queues' numbers")
            lately = await prune(env)
            assert lately[names[0]]["reason"] == "used lately"
            done = await prune(env, "--idle-days", "0")
            assert [done[name]["deleted"] for name in names] == [True, False, False]
            assert done[names[1]]["reason"] == "events wait"
            assert done[names[2]]["reason"] == "clients are connected"
            assert not any(line["dry_run"] for line in done.values())
            await events.broadcast_feedback_update(watched, 2, 5, 0.5)
            assert (await client.receive_json())["data"]["feedback_id"] == 2
    assert await waiting(platform.amqp_url, full) == [1]
    await events.broadcast_feedback_update(idle, 3, 5, 0.5)

    async def is_back() -> bool:
        async with await aio_pika.connect(platform.amqp_url) as connection:
            try:
                queue = await (await connection.channel()).declare_queue(names[0], passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return False
            return queue.declaration_result.message_count == 1

    await until_true(is_back, "the next event brought its queue back")


async def test_events_that_come_meanwhile_are_kept(
    platform: Service, events: EventPublisher, managed: PrivateRabbitMQ
) -> None:
    diagnoses = [platform.diagnosis() for _ in range(5)]
    names = [topology.shared_queue(DiagnosisId(diagnosis)) for diagnosis in diagnoses]
    async with ConfirmedPublisher(managed.amqp_url) as publisher:
        connection = await connecting.connect(managed.amqp_url, name="test")
        try:
            channel = connection.channel()
            for name in names:
                await channel.queue_declare(name, durable=True, arguments=dict(topology.backlog_arguments()))
                await channel.queue_bind(name, topology.EVENTS, name)

            async def publish(diagnosis: int) -> None:
                for number in range(MEANWHILE):
                    await events.broadcast_feedback_update(diagnosis, number, 5, 0.5)
                    await asyncio.sleep(0.04)  # a stream that lasts longer than the pruning

            async with asyncio.TaskGroup() as group:
                for diagnosis in diagnoses:
                    group.create_task(publish(diagnosis))
                async with aclosing(Pruning(connection, publisher).prune(names, frozenset())) as pruning:
                    done = [pruned async for pruned in pruning]
            assert [pruned.queue for pruned in done if pruned.deleted] == []
        finally:
            await connecting.close(connection)
    await until(lambda: len(platform.replica.said("diagnosis_provisioned")) >= len(names), "all are back")
    for diagnosis in diagnoses:
        taken: list[int] = []

        async def all_came(diagnosis: int = diagnosis, taken: list[int] = taken) -> bool:
            taken += await waiting(managed.amqp_url, diagnosis)
            return len(taken) >= MEANWHILE

        await until_true(all_came, "everything came")
        # In order but for the few milliseconds in which the door binds, as at first contact.
        assert sorted(taken) == list(range(MEANWHILE))


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_the_last_look_counts(managed: PrivateRabbitMQ, platform: Service, kind: str) -> None:
    empty, full = (f"diagnosis.{platform.diagnosis()}" for _ in range(2))
    assert managed.management_url
    async with (
        ConfirmedPublisher(managed.amqp_url) as publisher,
        ManagementApi(managed.management_url) as api,
    ):
        connection = await connecting.connect(managed.amqp_url, name="test")
        try:
            channel = connection.channel()
            for name in (empty, full):
                await channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind})
            await publisher.publish("", full, b"{}", message_id="1", timeout_seconds=5, mandatory=True)
            quorum = frozenset({empty, full} if kind == "quorum" else ())
            done = [pruned async for pruned in Pruning(connection, publisher).prune([empty, full], quorum)]
            assert done == [
                Pruned(empty, True, "empty, and nobody uses it"),
                Pruned(full, False, "an event came meanwhile"),
            ]
            names = {queue.name: queue.type for queue in await api.states(SHARED_QUEUES)}
        finally:
            await connecting.close(connection)
    assert empty not in names
    assert names[full] == kind


async def test_without_the_management_api_it_says_what_to_set() -> None:
    done = await finished("prune", env=environment(amqp_url="amqp://127.0.0.1:1/"))
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert done.complaint.startswith("realtime-service prune: REALTIME_MANAGEMENT_URL is not set")


async def test_a_management_api_that_is_away_is_said_in_a_line() -> None:
    env = environment(amqp_url="amqp://127.0.0.1:1/", management_url="http://user:hunter2@127.0.0.1:1")
    done = await finished("prune", env=env)
    assert (done.code, done.out) == (Exit.FAILED, "")
    assert done.complaint == "realtime-service prune: the management API cannot be asked"


async def test_for_people_it_names_what_is_deleted_and_counts_what_is_kept(
    platform: Service, env: dict[str, str]
) -> None:
    done = await finished("prune", "--dry-run", env=env)
    assert (done.code, done.err) == (Exit.OK, "")
    assert done.out.splitlines()[0] == "0 would be deleted"
