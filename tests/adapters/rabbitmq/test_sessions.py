"""What a session does about a queue that is not there: it asks at the door, and waits for its answer."""

import asyncio
from itertools import count

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from contracts import topology
from contracts.ids import DiagnosisId
from realtime_service.adapters.rabbitmq.first_contact import PROVISION
from realtime_service.adapters.rabbitmq.link import BrokerLink
from realtime_service.adapters.rabbitmq.node import PROVISIONED, NodeQueue
from realtime_service.adapters.rabbitmq.parking import Parking
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.sessions import RabbitSessions
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.support.amqp import connected, make_topology, remove_topology
from tests.support.listener import Listener

DIAGNOSIS = DiagnosisId(2_000_001)


async def test_a_queue_is_not_consumed_before_the_door_is_done_with_it(
    node: PrivateRabbitMQ, publisher: ConfirmedPublisher
) -> None:
    """The door makes the queue at once, lets the first request unanswered, and puts an event in meanwhile."""
    requests, queue = count(1), topology.shared_queue(DIAGNOSIS)
    link = BrokerLink(node.amqp_url, "sessions test")
    own = NodeQueue(link, lambda *_: None, lambda _: None)
    parking = Parking(publisher, link)
    sessions = RabbitSessions(link, own, publisher, parking, backlog_limit=100, queue_type="classic")
    listener = Listener()
    async with connected(node.amqp_url) as (_, channel):
        await remove_topology(channel)
        await make_topology(node.amqp_url)
        await channel.queue_delete(queue)

        async def answer(message: AbstractIncomingMessage) -> None:
            await message.ack()
            assert message.type == PROVISION
            await channel.declare_queue(queue, durable=True)
            if next(requests) == 2:
                await channel.default_exchange.publish(aio_pika.Message(b"an event"), queue)
                done = aio_pika.Message(str(DIAGNOSIS).encode(), type=PROVISIONED)
                await channel.default_exchange.publish(done, own.name)

        await (await channel.get_queue(topology.UNROUTED)).consume(answer)

        running = asyncio.create_task(link.run(own.prepare))
        own.watch(DIAGNOSIS)
        session = sessions.shared(DIAGNOSIS, listener)
        try:
            session.open()
            async with asyncio.timeout(20):
                await session.opened()
            assert listener.ready == [1]
        finally:
            await session.release()
            await own.delete()
            running.cancel()
            await asyncio.wait([running])
            await channel.queue_delete(queue)
