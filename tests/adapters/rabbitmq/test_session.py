"""A session's queue: what happens when it vanishes, and when much is settled at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from pamqp.commands import Connection as Command
from structlog.testing import capture_logs

from contracts.ids import DiagnosisId
from realtime_service.adapters.rabbitmq import connecting
from realtime_service.adapters.rabbitmq import link as links
from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.amqp.connection import Connection
from realtime_service.adapters.rabbitmq.link import CLOSING_AT_ONCE, BrokerLink
from realtime_service.adapters.rabbitmq.parking import Parking
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.reading import Occurrences
from realtime_service.adapters.rabbitmq.session import SOON_EVENTS, MakeQueue, QueueSession, Source
from realtime_service.domain.window import WINDOW_EVENTS
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.proxy import Proxy
from tests.support.amqp import QUEUE, address_of, through, until
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
async def linked(node: PrivateRabbitMQ) -> AsyncIterator[BrokerLink]:
    """A link that is up."""
    link = BrokerLink(node.amqp_url, "session test")
    running = asyncio.create_task(link.run(nothing))
    try:
        async with asyncio.timeout(20):
            await link.wait_up()
        yield link
    finally:
        running.cancel()
        await asyncio.wait([running])


@pytest.fixture
async def make(channel: AbstractChannel) -> MakeQueue:
    """Makes the queue."""

    async def declare(_: Source) -> None:
        await channel.declare_queue(QUEUE, durable=True)

    return declare


@asynccontextmanager
async def consuming(
    node: PrivateRabbitMQ, publisher: ConfirmedPublisher, make: MakeQueue
) -> AsyncIterator[tuple[QueueSession, Listener, BrokerLink]]:
    """An open session on QUEUE."""
    listener = Listener()
    async with linked(node) as link:
        session = session_of(link, publisher, make, listener)
        try:
            session.open()
            async with asyncio.timeout(20):
                await session.opened()
            yield session, listener, link
        finally:
            await session.release()


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
    make: MakeQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


async def test_what_was_settled_on_a_lost_channel_is_not_acknowledged_on_the_next_one(
    node: PrivateRabbitMQ, channel: AbstractChannel, publisher: ConfirmedPublisher, make: MakeQueue
) -> None:
    """A new channel's first delivery has the number of an old one's; what was proven of the old is no proof of it."""

    class Settling(Listener):
        """Goes on settling what it knew of when the channel was lost."""

        is_lost = False

        def lost(self) -> None:
            self.is_lost = True

        async def until_opened_again(self) -> None:
            await until(lambda: self.is_lost)
            while len(self.openings) < 2:
                session.settle(1, 5)
                session.acknowledge()
                await asyncio.sleep(0.001)

    queue = await channel.declare_queue(QUEUE, durable=True)
    for _ in range(10):
        await channel.default_exchange.publish(Message(b"anything"), QUEUE)
    listener = Settling()
    async with Proxy(address_of(node.amqp_url)) as wire:
        link = BrokerLink(through(node.amqp_url, wire), "session test")
        running = asyncio.create_task(link.run(nothing))
        session = session_of(link, publisher, make, listener)
        try:
            session.open()
            await until(lambda: len(listener.tags) == 10)
            session.settle(1, 3)
            session.acknowledge()
            wire.delay_seconds = 0.05
            session.renew()
            await listener.until_opened_again()
            await until(lambda: len(listener.tags) == 17)
        finally:
            await session.release()
            running.cancel()
            await asyncio.wait([running])
    left = await channel.declare_queue(QUEUE, durable=True, passive=True)
    assert left.declaration_result.message_count == 7
    await queue.purge()


async def test_of_many_that_are_released_a_few_close_at_a_time(
    node: PrivateRabbitMQ, publisher: ConfirmedPublisher, make: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, most, close = 0, 0, Channel.close

    async def counted(closed: Channel, **options: float) -> None:
        nonlocal closing, most
        closing += 1
        most = max(most, closing)
        await close(closed, **options)
        closing -= 1

    async with linked(node) as link:
        sessions = [session_of(link, publisher, make, Listener()) for _ in range(3 * CLOSING_AT_ONCE)]
        for session in sessions:
            session.open()
        async with asyncio.timeout(20):
            await asyncio.gather(*(session.opened() for session in sessions))
            monkeypatch.setattr(Channel, "close", counted)
            await asyncio.gather(*(session.release() for session in sessions))
    assert most == CLOSING_AT_ONCE


async def test_while_others_take_their_time_to_close_one_opens_and_one_closes(
    node: PrivateRabbitMQ, publisher: ConfirmedPublisher, make: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that does not exist yet: the broker closes the first channel itself, which has no turn to wait for."""
    async with linked(node) as link, asyncio.timeout(20):
        for _ in range(CLOSING_AT_ONCE):
            await link._closing.acquire()
        monkeypatch.setattr(links, "TURN_SECONDS", 3600.0)
        session = session_of(link, publisher, make, Listener())
        session.open()
        await session.opened()
        monkeypatch.setattr(links, "TURN_SECONDS", 0.05)
        channel = session._channel
        await session.release()
        assert channel is not None
        assert channel.is_closed


@pytest.mark.parametrize("how", ["aborted", "silent", "closed by the broker"])
async def test_a_lost_connection_is_met_with_one_and_not_a_word_of_each_session(
    node: PrivateRabbitMQ,
    publisher: ConfirmedPublisher,
    make: MakeQueue,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    connects, connect, up = list[str](), connecting.connect, asyncio.Event()

    async def noted(url: str, *, name: str) -> Connection:
        connects.append(name)
        await up.wait()
        return await connect(url, name=name)

    async with linked(node) as link, asyncio.timeout(30):
        listeners = [Listener() for _ in range(40)]
        sessions = [session_of(link, publisher, make, listener) for listener in listeners]
        for session in sessions:
            session.open()
        await asyncio.gather(*(session.opened() for session in sessions))
        monkeypatch.setattr(connecting, "connect", noted)
        connection = link.connection
        assert connection is not None
        with capture_logs() as logs:
            if how == "silent":
                connection._lose(TimeoutError("the broker is silent"))
            if how == "closed by the broker":
                connection._method(0, Command.Close(reply_code=320, reply_text="", class_id=0, method_id=0))
            else:
                connection.abort()
            await until(lambda: connects)
            up.set()
            await until(lambda: all(len(listener.openings) == 2 for listener in listeners))
        assert connects == ["session test"]
        assert [entry["event"] for entry in logs if "session" in entry["event"]] == []
        for session in sessions:
            await session.release()


async def test_a_queue_is_made_once_also_when_the_channel_is_lost_while_it_is_opened(
    node: PrivateRabbitMQ, publisher: ConfirmedPublisher, make: MakeQueue
) -> None:
    class Unlucky(Listener):
        """Loses the connection as soon as its queue is found."""

        def opened(self, generation: int, ready: int, *, full: bool, made: bool) -> None:
            super().opened(generation, ready, full=full, made=made)
            if generation == 1 and link.connection is not None:
                link.connection.abort()

    listener = Unlucky()
    async with linked(node) as link:
        session = session_of(link, publisher, make, listener)
        session.open()
        await until(lambda: len(listener.openings) == 2)
        await session.opened()
        await session.release()
    assert listener.openings == [True, False]
