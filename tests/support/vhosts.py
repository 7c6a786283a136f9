"""A virtual host of a test's own: it may be set up as wrongly as it likes."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

from realtime_service.embedded.rabbitmq import Broker, PrivateRabbitMQ, start_private_rabbitmq


@contextmanager
def private_node(broker: Broker) -> Iterator[PrivateRabbitMQ]:
    """The node of this run, where it is a private one; else one of its own."""
    if broker.node is not None:
        yield broker.node
        return
    node = start_private_rabbitmq()
    yield node
    node.stop()


@asynccontextmanager
async def new_vhost(node: PrivateRabbitMQ) -> AsyncIterator[str]:
    """The AMQP URL of a new virtual host, which is gone afterwards, with all connections to it."""
    name = f"own-{uuid.uuid4().hex[:8]}"
    user = urlsplit(node.amqp_url).username or ""
    await asyncio.to_thread(node.ctl, "add_vhost", name)
    await asyncio.to_thread(node.ctl, "set_permissions", "-p", name, user, ".*", ".*", ".*")
    yield f"{node.amqp_url.rsplit('/', 1)[0]}/{name}"
    await asyncio.to_thread(node.ctl, "delete_vhost", name)
