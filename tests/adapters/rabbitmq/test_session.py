"""A session's queue: what happens when it vanishes."""

import asyncio
from itertools import count

from aio_pika.abc import AbstractChannel

from contracts.ids import DiagnosisId
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection
from realtime_service.adapters.rabbitmq.link import BrokerLink
from realtime_service.adapters.rabbitmq.parking import Parking
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.reading import Occurrences
from realtime_service.adapters.rabbitmq.session import QueueSession, Source
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.support.amqp import QUEUE
from tests.support.listener import Listener


async def test_a_queue_that_is_deleted_before_it_is_consumed_is_made_again(
    node: PrivateRabbitMQ, channel: AbstractChannel, publisher: ConfirmedPublisher
) -> None:
    made = count(1)

    async def make(_: Source) -> None:
        await channel.declare_queue(QUEUE, durable=True)
        if next(made) == 1:
            await channel.queue_delete(QUEUE)

    async def nothing(_: Source) -> None:
        pass

    async def prepare(_: BrokerConnection) -> None:
        pass

    link, listener = BrokerLink(node.amqp_url, "session test"), Listener()
    source = Source(QUEUE, DiagnosisId(7), limit=100, make=make, before=nothing)
    session = QueueSession(link, source, listener, Parking(publisher, link), Occurrences())
    running = asyncio.create_task(link.run(prepare))
    try:
        session.open()
        async with asyncio.timeout(20):
            await session.opened()
        assert listener.openings == [True]
        assert next(made) == 3
    finally:
        await session.release()
        running.cancel()
        await asyncio.wait([running])
