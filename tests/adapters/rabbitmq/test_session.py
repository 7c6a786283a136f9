"""A session's queue: what happens when it vanishes, and when much is settled at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel

from contracts.ids import DiagnosisId
from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.link import CLOSING_AT_ONCE, BrokerLink
from realtime_service.adapters.rabbitmq.parking import Parking
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.reading import Occurrences
from realtime_service.adapters.rabbitmq.session import SOON_EVENTS, MakeQueue, QueueSession, Source
from realtime_service.domain.window import WINDOW_EVENTS
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.support.amqp import QUEUE, until
from tests.support.listener import Listener


async def nothing(_: object) -> None:
    """Is done at once."""


def session_of(
    link: BrokerLink, publisher: ConfirmedPublisher, make: MakeQueue, listener: Listener
) -> QueueSession:
    """A session on QUEUE."""
    source = Source(QUEUE, DiagnosisId(7), limit=100, make=make, is_ready=lambda _: True, until_ready=nothing)
    return QueueSession(link, source, listener, Parking(publisher, link), Occurrences())


@asynccontextmanager
async def consuming(
    node: PrivateRabbitMQ, publisher: ConfirmedPublisher, make: MakeQueue
) -> AsyncIterator[tuple[QueueSession, Listener, BrokerLink]]:
    """An open session on QUEUE."""
    link, listener = BrokerLink(node.amqp_url, "session test"), Listener()
    session = session_of(link, publisher, make, listener)
    running = asyncio.create_task(link.run(nothing))
    try:
        session.open()
        async with asyncio.timeout(20):
            await session.opened()
        yield session, listener, link
    finally:
        await session.release()
        running.cancel()
        await asyncio.wait([running])


async def test_a_queue_that_is_deleted_before_it_is_consumed_is_made_again(
    node: PrivateRabbitMQ, channel: AbstractChannel, publisher: ConfirmedPublisher
) -> None:
    made = count(1)

    async def make(_: Source) -> None:
        await channel.declare_queue(QUEUE, durable=True)
        if next(made) == 1:
            await channel.queue_delete(QUEUE)

    async with consuming(node, publisher, make) as (_, listener, _):
        assert listener.openings == [True]
        assert next(made) == 3


async def test_a_burst_does_not_wait_for_acknowledgements_to_be_gathered(
    node: PrivateRabbitMQ,
    channel: AbstractChannel,
    publisher: ConfirmedPublisher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def make(_: Source) -> None:
        await channel.declare_queue(QUEUE, durable=True)

    async with consuming(node, publisher, make) as (session, listener, link):
        monkeypatch.setattr(link, "acknowledge_soon", lambda _: None)
        for _ in range(WINDOW_EVENTS + SOON_EVENTS):
            await channel.default_exchange.publish(Message(b"anything"), QUEUE)
        await until(lambda: len(listener.tags) == WINDOW_EVENTS)
        for tag in listener.tags[: SOON_EVENTS - 1]:
            session.settle(1, tag)
        assert (await session.depth()).ready == SOON_EVENTS
        session.settle(1, listener.tags[SOON_EVENTS - 1])
        await until(lambda: len(listener.tags) == WINDOW_EVENTS + SOON_EVENTS)


async def test_of_many_that_are_released_a_few_close_at_a_time(
    node: PrivateRabbitMQ,
    channel: AbstractChannel,
    publisher: ConfirmedPublisher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closing, most, close = 0, 0, Channel.close

    async def counted(closed: Channel, **options: float) -> None:
        nonlocal closing, most
        closing += 1
        most = max(most, closing)
        await close(closed, **options)
        closing -= 1

    async def make(_: Source) -> None:
        await channel.declare_queue(QUEUE, durable=True)

    async with consuming(node, publisher, make) as (_, _, link):
        sessions = [session_of(link, publisher, make, Listener()) for _ in range(3 * CLOSING_AT_ONCE)]
        for session in sessions:
            session.open()
        async with asyncio.timeout(20):
            await asyncio.gather(*(session.opened() for session in sessions))
            monkeypatch.setattr(Channel, "close", counted)
            await asyncio.gather(*(session.release() for session in sessions))
        assert most == CLOSING_AT_ONCE
