"""A broker that the tests of this folder may kill, freeze and empty."""

from collections.abc import AsyncIterator, Iterator

import pytest
from aio_pika.abc import AbstractChannel

from contracts import topology
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ, start_private_rabbitmq
from tests.support.amqp import KEY, QUEUE, connected, make_topology, remove_topology


@pytest.fixture(scope="session")
def node() -> Iterator[PrivateRabbitMQ]:
    """A private node; a test that harms it heals it."""
    node = start_private_rabbitmq()
    yield node
    node.stop()


@pytest.fixture
async def channel(node: PrivateRabbitMQ) -> AsyncIterator[AbstractChannel]:
    """An AMQP channel to a broker that has nothing of ours yet."""
    async with connected(node.amqp_url) as (_, channel):
        await remove_topology(channel)
        yield channel


@pytest.fixture
async def queue(node: PrivateRabbitMQ, channel: AbstractChannel) -> str:
    """The topology, and an empty durable queue that gets the events of one diagnosis."""
    await make_topology(node.amqp_url)
    durable = await channel.declare_queue(QUEUE, durable=True)
    await durable.bind(topology.EVENTS, KEY)
    return QUEUE


@pytest.fixture
async def publisher(node: PrivateRabbitMQ) -> AsyncIterator[ConfirmedPublisher]:
    """An open publisher."""
    async with ConfirmedPublisher(node.amqp_url, name="publisher test") as publisher:
        yield publisher
