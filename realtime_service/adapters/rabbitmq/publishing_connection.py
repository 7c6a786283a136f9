"""The AMQP connection a publisher has: aio-pika's plain one, which can be dropped."""

import asyncio
from typing import Any, Final

from aio_pika.connection import Connection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from realtime_service.adapters.rabbitmq.amqp.opening import HEARTBEAT_SECONDS
from realtime_service.adapters.rabbitmq.connecting import CONNECT_SECONDS, translated

CLOSE_SECONDS: Final = 3.0
"""A broker that does not answer a close is not waited for."""


class PublishingConnection(Connection):
    """A plain connection (not a robust one) that can be dropped.

    aiormq 7.2 waits in `close` until the broker has read what was written to it, for ever if it stopped reading; and
    `asyncio.run` waits with it.
    """

    def __init__(self, amqp_url: str, name: str) -> None:
        url = URL(amqp_url)
        if "heartbeat" not in url.query:
            url = url.update_query(heartbeat=HEARTBEAT_SECONDS)
        super().__init__(url, client_properties={"connection_name": name})
        self._socket = self.kwargs["transport_factory"] = _Socket()

    def abort(self) -> None:
        """Drop the connection without a word; what was not sent yet is lost."""
        self._socket.abort()


class _Socket(TransportFactory):
    """Opens TCP or TLS as aiormq does, and keeps hold of it."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, self._writer = await factory.create(url, **kwargs)
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


async def connect(amqp_url: str, *, name: str) -> PublishingConnection:
    """Open a connection; its `name` is what operators see. Raises BrokerUnavailable, after at most CONNECT_SECONDS."""
    connection = PublishingConnection(amqp_url, name)
    try:
        with translated("it cannot be reached"):
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
    except BaseException:
        connection.abort()
        await connection.close()  # or its __del__ would start a task whenever it is collected
        raise
    return connection


async def close(connection: PublishingConnection) -> None:
    """Close; errors do not matter any more, and a broker that does not answer is not waited for."""
    closing = asyncio.ensure_future(connection.close())  # aio-pika 10.2 cannot be cancelled here
    try:
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    finally:
        connection.abort()
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)
        if closing.done() and not closing.cancelled():
            closing.exception()  # seen
