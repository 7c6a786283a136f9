"""The broker connection of a replica: it ends when it is told to, and is several where one is full."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from realtime_service.adapters.rabbitmq.connecting import BrokerConnection
from realtime_service.adapters.rabbitmq.link import BrokerLink
from realtime_service.domain.errors import BrokerUnavailable
from realtime_service.embedded.rabbitmq import Broker

CHANNELS = 4


async def nothing(_: BrokerConnection) -> None:
    """Nobody needs to be prepared."""


async def test_a_cancellation_that_is_lost_while_connecting_is_heeded_all_the_same(broker: Broker) -> None:
    link = BrokerLink(broker.amqp_url, "test")
    preparing = asyncio.Event()

    async def prepare(_: BrokerConnection) -> None:
        preparing.set()
        with suppress(
            asyncio.CancelledError
        ):  # as Python 3.11's `wait_for` does if its answer comes just then
            await asyncio.Event().wait()

    running = asyncio.create_task(link.run(prepare))
    async with asyncio.timeout(20):
        await preparing.wait()
        running.cancel()
        await asyncio.wait([running])
    assert running.cancelled()


async def test_where_a_connection_is_full_there_is_another_and_they_end_together(
    broker: Broker,
) -> None:
    separator = "&" if urlsplit(broker.amqp_url).query else "?"
    link = BrokerLink(f"{broker.amqp_url}{separator}channel_max={CHANNELS}", "link test")
    running = asyncio.create_task(link.run(nothing))
    try:
        async with asyncio.timeout(20):
            await link.wait_up()
            channels = await asyncio.gather(*(link.channel() for _ in range(2 * CHANNELS + 1)))
            await asyncio.gather(
                *(
                    each.exchange_declare("amq.topic", exchange_type="topic", durable=True)
                    for each in channels
                )
            )
            first, (second, third) = link.connection, link._more
            assert first is not None
            third.abort()
            await asyncio.wait([third.closed])
            assert link.is_up, "the others go on"
            assert link._more == [second]
            assert not (await link.channel()).is_closed
            first.abort()
            await asyncio.wait([each.closed for each in (first, *link._more)])
            await link.wait_up()
            assert not link._more
    finally:
        running.cancel()
        await asyncio.wait([running])
    with pytest.raises(BrokerUnavailable):
        await link.channel()
