"""Barriers: what they wait for, whom one serves, and what they do when they do not come back."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aio_pika.abc import AbstractChannel

from realtime_service.adapters.rabbitmq.amqp.channel import Delivery
from realtime_service.adapters.rabbitmq.barriers import Barriers, is_barrier
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, close, connect
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.support.amqp import QUEUE, publish


class Consumer:
    """Takes everything from the queue, and shows barriers to whom they belong."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._channel = connection.channel()
        self.seen: list[str] = []
        self.barriers: Barriers | None = None

    async def start(self) -> None:
        await self._channel.basic_consume(QUEUE, self._on_message, no_ack=True)

    def _on_message(self, message: Delivery) -> None:
        if is_barrier(message) and self.barriers is not None:
            self.seen.append("barrier")
            self.barriers.returned(message)
        else:
            self.seen.append(message.properties.message_id or "")


@pytest.fixture
async def consumer(node: PrivateRabbitMQ, channel: AbstractChannel) -> AsyncIterator[Consumer]:
    await channel.declare_queue(QUEUE, durable=True)
    connection = await connect(node.amqp_url, name="barriers test")
    yield Consumer(connection)
    await close(connection)


async def test_a_barrier_is_back_when_all_before_it_is_delivered(
    publisher: ConfirmedPublisher, consumer: Consumer
) -> None:
    consumer.barriers = Barriers(publisher, QUEUE, seconds=20)
    for number in range(20):
        await publish(publisher, "", QUEUE, message_id=f"{number}")
    barrier = consumer.barriers.send()
    await consumer.start()
    assert await barrier
    assert consumer.seen == [*(f"{number}" for number in range(20)), "barrier"]


async def test_one_barrier_serves_all_who_asked_before_it_was_sent(
    publisher: ConfirmedPublisher, consumer: Consumer
) -> None:
    consumer.barriers = Barriers(publisher, QUEUE, seconds=20)
    first = consumer.barriers.send()
    await asyncio.sleep(0)  # the first is on its way: it says nothing of what comes from here on
    later = [consumer.barriers.send() for _ in range(1000)]
    assert first not in later
    await consumer.start()
    assert all(await asyncio.gather(first, *later))
    assert consumer.seen == ["barrier", "barrier"]


async def test_one_that_does_not_come_back_in_time_is_given_up_and_the_next_is_another(
    publisher: ConfirmedPublisher, consumer: Consumer
) -> None:
    consumer.barriers = Barriers(publisher, QUEUE, seconds=0.2)
    assert not await consumer.barriers.send()
    consumer.barriers = Barriers(publisher, QUEUE, seconds=20)
    mine = consumer.barriers.send()
    await consumer.start()
    assert await mine
    assert consumer.seen == ["barrier", "barrier"]


async def test_nothing_waits_for_one_whose_channel_is_gone(
    publisher: ConfirmedPublisher, consumer: Consumer
) -> None:
    barriers = Barriers(publisher, QUEUE, seconds=60)
    under_way = barriers.send()
    await asyncio.sleep(0)
    next_one = barriers.send()
    await barriers.close()
    assert under_way.cancelled()
    assert next_one.cancelled()
    consumer.barriers = barriers
    await consumer.start()
    assert await barriers.send()
