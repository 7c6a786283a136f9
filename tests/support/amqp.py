"""What tests do to a broker of their own, and how they look into it."""

import asyncio
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from realtime_service.adapters.rabbitmq.connecting import close, connect
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.topology import FIXED, declare_topology
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.proxy import Proxy

FEEDBACK = "diagnosis.feedback"
KEY = "diagnosis.7"
QUEUE = "published"


@asynccontextmanager
async def connected(amqp_url: str) -> AsyncIterator[tuple[AbstractConnection, AbstractChannel]]:
    """A connection of the test's own, and a channel on it."""
    connection = await aio_pika.connect(amqp_url, timeout=20)
    async with connection:
        yield connection, await connection.channel()


async def take_all(channel: AbstractChannel, queue: str) -> list[AbstractIncomingMessage]:
    """Everything that waits in a queue, in its order; the queue is empty afterwards."""
    waiting = await channel.get_queue(queue, ensure=False)
    taken = []
    while (message := await waiting.get(fail=False, no_ack=True)) is not None:
        taken.append(message)
    return taken


async def make_topology(amqp_url: str) -> None:
    """Declare every fixed exchange, queue and binding."""
    connection = await connect(amqp_url, name="test declares")
    await declare_topology(connection)
    await close(connection)


async def remove_topology(channel: AbstractChannel) -> None:
    """Delete every fixed exchange and queue, and QUEUE."""
    await channel.queue_delete(QUEUE)
    for declared in FIXED:
        if "binding" not in (kind := str(declared)):
            name = kind.split("'")[1]
            delete = channel.queue_delete if kind.startswith("queue") else channel.exchange_delete
            await delete(name)


@asynccontextmanager
async def killed(node: PrivateRabbitMQ) -> AsyncIterator[None]:
    """The broker dies without a word, and starts again at the end."""
    await asyncio.to_thread(node.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(node.restart)


@asynccontextmanager
async def paused(node: PrivateRabbitMQ) -> AsyncIterator[None]:
    """The broker freezes: its sockets stay open, and nobody answers."""
    node.pause()
    try:
        yield
    finally:
        node.resume()


@asynccontextmanager
async def alarmed(node: PrivateRabbitMQ) -> AsyncIterator[None]:
    """The broker has a memory alarm, and reads nothing from connections that publish."""
    await ctl(node, "set_vm_memory_high_watermark", "0.0000001")
    try:
        yield
    finally:
        await ctl(node, "set_vm_memory_high_watermark", "0.4")


async def ctl(node: PrivateRabbitMQ, *arguments: str) -> str:
    """`rabbitmqctl`, without holding up the event loop."""
    return await asyncio.to_thread(node.ctl, *arguments)


async def keys_by_queue(node: PrivateRabbitMQ) -> dict[str, set[str]]:
    """What each queue is bound for, apart from its own name."""
    rows = await ctl(node, "list_bindings", "destination_name", "routing_key", "--silent")
    keys = defaultdict[str, set[str]](set)
    for queue, key in (row.split("\t") for row in rows.splitlines()):
        if key != queue:
            keys[queue].add(key)
    return keys


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


NOBODY: Final = "127.0.0.1:1"
"""An address on which nothing listens."""


def address_of(amqp_url: str) -> str:
    """`host:port`, for a proxy."""
    return urlsplit(amqp_url).netloc.rpartition("@")[2]


def through(amqp_url: str, proxy: Proxy) -> str:
    """The same broker, by way of a proxy."""
    parts = urlsplit(amqp_url)
    return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{proxy.address}").geturl()


def nobody_there() -> str:
    """An AMQP URL on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"amqp://task:sesame@127.0.0.1:{probe.getsockname()[1]}/"


async def publish(
    publisher: ConfirmedPublisher,
    exchange: str = FEEDBACK,
    key: str = KEY,
    *,
    message_id: str = "",
    seconds: float = 30,
    mandatory: bool = False,
) -> str:
    """Publish a message of no interest; returns its id."""
    message_id = message_id or uuid.uuid4().hex
    await publisher.publish(
        exchange, key, b"{}", message_id=message_id, timeout_seconds=seconds, mandatory=mandatory
    )
    return message_id


async def taken(node: PrivateRabbitMQ, queue: str = QUEUE) -> list[AbstractIncomingMessage]:
    """What `take_all` takes, over a connection of its own."""
    async with connected(node.amqp_url) as (_, channel):
        return await take_all(channel, queue)


def first_arrivals(messages: list[AbstractIncomingMessage]) -> list[str | None]:
    """The ids in the order in which each of them arrived first."""
    return list(dict.fromkeys(message.message_id for message in messages))


async def url_of_a_task(node: PrivateRabbitMQ, *, write: str = ".*") -> str:
    """A user who may read everything, write to what `write` matches, and declare nothing."""
    if "task\t" not in await ctl(node, "list_users"):
        await ctl(node, "add_user", "task", "sesame")
    await ctl(node, "set_permissions", "task", "", write, ".*")
    return f"amqp://task:sesame@127.0.0.1:{node.port}/"
