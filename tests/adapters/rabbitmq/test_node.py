"""What the node queue is bound for: each diagnosis by itself; a crowd of them at once first, and then by themselves."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from structlog.testing import capture_logs

from contracts import topology
from contracts.ids import DiagnosisId
from contracts.replicas import ALL_REPLICAS, Bye, ReplicaMessage
from realtime_service.adapters.rabbitmq import node as node_queue
from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.link import BrokerLink
from realtime_service.adapters.rabbitmq.node import AT_ONCE, CROWD, NodeQueue
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.proxy import Proxy
from tests.support.amqp import (
    address_of,
    connected,
    ctl,
    keys_by_queue,
    make_topology,
    remove_topology,
    through,
    until,
)

FEW = [DiagnosisId(number) for number in range(1, 11)]
MANY = [DiagnosisId(number) for number in range(1, 200)]
STRANGER = DiagnosisId(3_000_001)


class Replica:
    """A node queue at work, what it heard, and how others speak to it."""

    def __init__(self, node: PrivateRabbitMQ, link: BrokerLink, channel: AbstractChannel) -> None:
        self._node = node
        self.channel = channel
        self.link = link
        self.heard: list[int] = []
        self.deaf = 0
        """How often it was told that it missed something."""
        self.queue = NodeQueue(link, lambda *_: None, self._hear, self._miss)

    def _miss(self) -> None:
        self.deaf += 1

    def _hear(self, message: ReplicaMessage) -> None:
        assert isinstance(message, Bye)
        self.heard.append(message.diagnosis_id)

    async def watch(self, diagnoses: Iterable[DiagnosisId]) -> None:
        """Return when what is said of each would be heard."""
        diagnoses = list(diagnoses)
        for diagnosis in diagnoses:
            self.queue.watch(diagnosis)
        async with asyncio.timeout(30):
            await asyncio.gather(*(self.queue.bound(diagnosis) for diagnosis in diagnoses))

    async def say(self, diagnoses: Iterable[DiagnosisId]) -> None:
        """Another replica says something to those that watch each of these diagnoses."""
        exchange = await self.channel.get_exchange(topology.NODES, ensure=False)
        for diagnosis in diagnoses:
            bye = Bye(sender="another", diagnosis_id=diagnosis)
            message = aio_pika.Message(bye.model_dump_json().encode(), type=bye.kind)
            await exchange.publish(message, topology.routing_key(diagnosis), mandatory=False)

    async def assert_hears(self, wanted: list[DiagnosisId], *, of: Iterable[DiagnosisId]) -> None:
        """What is said of these, and of no others among them."""
        self.heard.clear()
        await self.say(of)
        await until(lambda: len(self.heard) == len(wanted))
        assert self.heard == wanted

    async def keys(self) -> set[str]:
        """What the queue is bound for, as the broker says."""
        return (await keys_by_queue(self._node))[self.queue.name]

    async def until_keys(self, wanted: set[str]) -> None:
        """Wait until it is bound for these and no others."""
        async with asyncio.timeout(60):
            while await self.keys() != wanted:
                pass


@pytest.fixture
async def replica(node: PrivateRabbitMQ) -> AsyncIterator[Replica]:
    """One whose broker is there."""
    link = BrokerLink(node.amqp_url, "node test")
    async with connected(node.amqp_url) as (_, channel):
        await remove_topology(channel)
        await make_topology(node.amqp_url)
        replica = Replica(node, link, channel)
        async with _running(replica):
            yield replica


@asynccontextmanager
async def _running(replica: Replica) -> AsyncIterator[None]:
    running = asyncio.create_task(replica.link.run(replica.queue.prepare))
    try:
        await replica.link.wait_up()
        yield
    finally:
        await replica.queue.delete()
        running.cancel()
        await asyncio.wait([running])


def calm(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> None:
    """A crowd is one no more after this, and until then but a few get a binding of their own."""
    monkeypatch.setattr(node_queue, "PAUSE_SECONDS", seconds)
    monkeypatch.setattr(node_queue, "CALM_SECONDS", seconds)
    monkeypatch.setattr(node_queue, "LONGEST_CROWD_SECONDS", seconds)


def own(diagnoses: Iterable[DiagnosisId]) -> set[str]:
    """The keys of these diagnoses, and that of all replicas."""
    return {ALL_REPLICAS, *map(topology.routing_key, diagnoses)}


async def test_a_few_are_bound_one_by_one_and_strangers_are_not_heard(replica: Replica) -> None:
    await replica.watch(FEW)
    assert await replica.keys() == own(FEW)
    await replica.assert_hears(FEW, of=[STRANGER, *FEW])


async def test_a_crowd_waits_for_one_binding_and_then_each_gets_its_own(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(monkeypatch, 3)
    await replica.watch(MANY)
    await replica.assert_hears([STRANGER, *MANY], of=[STRANGER, *MANY])
    await replica.until_keys(own(MANY))
    await replica.assert_hears(MANY, of=[STRANGER, *MANY])


async def test_a_crowd_costs_the_broker_a_handful_of_bindings_before_it_is_let_in(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(monkeypatch, 1e9)
    await replica.watch(MANY)
    keys = await replica.keys()
    assert topology.ANY_DIAGNOSIS in keys
    assert len(keys) <= len(own([])) + 1 + CROWD + AT_ONCE
    await replica.watch([STRANGER])
    assert topology.routing_key(STRANGER) not in await replica.keys()


async def test_who_comes_after_a_crowd_is_bound_at_once(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(monkeypatch)
    await replica.watch(MANY)
    await replica.until_keys(own(MANY))
    await replica.watch([STRANGER])
    assert await replica.keys() == own([*MANY, STRANGER])


async def test_a_crowd_that_left_before_it_was_bound_leaves_nothing(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(monkeypatch)
    monkeypatch.setattr(node_queue, "UNBIND_SECONDS", 0.0)
    await replica.watch(MANY)
    for diagnosis in MANY[3:]:
        replica.queue.unwatch(diagnosis)
    await replica.until_keys(own(MANY[:3]))
    assert not replica.queue.is_bound(MANY[3])


async def test_who_comes_back_in_time_is_bound_still_and_others_are_forgotten(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_queue, "UNBIND_SECONDS", 1.0)
    await replica.watch(FEW)
    for diagnosis in FEW:
        replica.queue.unwatch(diagnosis)
    replica.queue.watch(FEW[0])
    assert replica.queue.is_bound(FEW[0])
    await replica.until_keys(own(FEW[:1]))
    await replica.watch(FEW)
    assert await replica.keys() == own(FEW)


async def test_a_lost_connection_in_the_middle_of_a_crowd_changes_nothing(
    node: PrivateRabbitMQ, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(monkeypatch, 1)
    await replica.watch(MANY)
    before = replica.link.connection
    await ctl(node, "close_all_connections", "the test")
    await until(lambda: replica.link.connection not in (None, before))
    async with connected(node.amqp_url) as (_, channel):
        replica.channel = channel
        await replica.watch([STRANGER])
        await replica.until_keys(own([*MANY, STRANGER]))
        await replica.assert_hears([STRANGER, *MANY], of=[DiagnosisId(3_000_002), STRANGER, *MANY])
    assert not replica.deaf


async def test_what_was_missed_is_said_once_also_where_the_queue_cannot_be_made_at_first(
    node: PrivateRabbitMQ, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, declare = list[str](), Channel.queue_declare

    async def refuse(channel: Channel, queue: str, **more: Any) -> Any:
        if queue == replica.queue.name and not more.get("passive") and len(refused) < 2:
            refused.append(queue)
            raise ConnectionError("refused")
        return await declare(channel, queue, **more)

    monkeypatch.setattr(Channel, "queue_declare", refuse)
    await ctl(node, "delete_queue", replica.queue.name)
    await until(lambda: len(refused) == 2)
    await replica.until_keys(own([]))
    assert replica.deaf == 1


async def test_a_failure_that_nobody_foresaw_costs_a_connection_and_is_logged(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, bind = count(1), NodeQueue._bind

    async def fail_once(queue: NodeQueue, channel: Channel, diagnoses: list[DiagnosisId]) -> None:
        if next(failures) == 1:
            raise KeyError(diagnoses)
        await bind(queue, channel, diagnoses)

    monkeypatch.setattr(NodeQueue, "_bind", fail_once)
    with capture_logs() as logs:
        await replica.watch(FEW)
    assert [line["error"] for line in logs if line["event"] == "node_binding_failed"] == ["KeyError"]
    assert await replica.keys() == own(FEW)


async def test_a_queue_that_is_gone_is_made_again_and_hears_the_whole_crowd(
    node: PrivateRabbitMQ, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(monkeypatch)
    await replica.watch(MANY)
    await replica.until_keys(own(MANY))
    await ctl(node, "delete_queue", replica.queue.name)
    await replica.until_keys(own(MANY))
    assert replica.deaf == 1
    await replica.assert_hears(MANY, of=MANY)


async def test_who_comes_and_goes_all_the_time_leaves_nothing_behind(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crowd, and with no time that nobody comes in."""
    monkeypatch.setattr(node_queue, "LONGEST_CROWD_SECONDS", 0.5)
    monkeypatch.setattr(node_queue, "UNBIND_SECONDS", 0.2)
    await replica.watch(MANY)
    later = [DiagnosisId(number) for number in range(1000, 1400)]
    for gone, comes in zip([*MANY, *later], later, strict=False):
        replica.queue.unwatch(gone)
        replica.queue.watch(comes)
        await asyncio.sleep(0.01)
    assert not replica.queue.is_bound(STRANGER), (
        "the crowd's binding is gone, though others came all the time"
    )
    left = [*MANY, *later][len(later) :]
    await replica.until_keys(own(left))


@pytest.mark.parametrize("under_way", ["bind", "unbind"])
async def test_a_change_that_is_under_way_when_the_connection_is_lost_is_made_in_the_end(
    node: PrivateRabbitMQ, monkeypatch: pytest.MonkeyPatch, under_way: str
) -> None:
    monkeypatch.setattr(node_queue, "UNBIND_SECONDS", 0.0)
    async with connected(node.amqp_url) as (_, channel), Proxy(address_of(node.amqp_url)) as wire:
        await remove_topology(channel)
        await make_topology(node.amqp_url)
        link = BrokerLink(through(node.amqp_url, wire), "node test")
        replica = Replica(node, link, channel)
        async with _running(replica):
            if under_way == "bind":
                wire.swallow(to_client=True)
                replica.queue.watch(STRANGER)
                await replica.until_keys(own([STRANGER]))
            else:
                await replica.watch([STRANGER])
                wire.swallow(to_client=True)
            replica.queue.unwatch(STRANGER)
            before = link.connection
            wire.cut()
            await until(lambda: link.connection not in (None, before))
            await replica.until_keys(own([]))
            assert not replica.queue.is_bound(STRANGER)


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_it_is_bound_for_what_is_watched_in_the_end(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Some and crowds come and go, connections are lost, the queue is deleted."""
    calm(monkeypatch, 0.05)
    monkeypatch.setattr(node_queue, "UNBIND_SECONDS", 0.2)
    chance, queue, watched = random.Random(seed), replica.queue, set[DiagnosisId]()
    for _ in range(400):
        for _ in range(chance.choice([1, 1, 2, 5, 40])):
            diagnosis = DiagnosisId(chance.randrange(1, 80))
            (queue.unwatch if diagnosis in watched else queue.watch)(diagnosis)
            watched ^= {diagnosis}
        fate = chance.random()
        if fate < 0.01 and replica.link.connection:
            replica.link.connection.abort()
        elif fate < 0.015:
            await replica.channel.queue_delete(queue.name)
        await asyncio.sleep(chance.choice([0, 0.0005, 0.002, 0.02]))
    async with asyncio.timeout(30):
        await asyncio.gather(*(queue.bound(diagnosis) for diagnosis in watched))
    await replica.until_keys(own(watched))
