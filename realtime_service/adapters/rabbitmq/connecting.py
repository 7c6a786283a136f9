"""Opening and closing one AMQP connection, and saying in our own words what is wrong with it.

aiormq 7.2 rejects pending calls with whatever ended the connection. For a broker that stopped answering that is a
`CancelledError`, which a task cannot tell from being cancelled itself: `translated` can.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aio_pika.connection import Connection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from pamqp.exceptions import PAMQPException
from yarl import URL

from realtime_service.domain.errors import BrokerUnavailable

DEFAULT_PORTS: Final = {"amqp": 5672, "amqps": 5671}
HEARTBEAT_SECONDS: Final = 5
"""aiormq gives a silent broker up after three of these plus one second each: 18 s."""
CONNECT_SECONDS: Final = 10.0
"""TCP, TLS and the AMQP hand-shake together; a broker that is stopped still accepts TCP."""
CLOSE_SECONDS: Final = 3.0
"""A broker that does not answer a close is not waited for."""

BROKER_ERRORS: Final = (AMQPError, PAMQPException, OSError, RuntimeError)
"""What aio-pika and aiormq raise when the broker is away or an AMQP channel is closed."""

_VHOST: Final = "it refused the virtual host, or takes no more connections"
_PLAIN: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (ProbableAuthenticationError, "it refused the user name or the password"),
    (AuthenticationError, "it offers no way of authentication that is known here"),
    (ConnectionNotAllowed, _VHOST),
    (InvalidFrameError, _VHOST),  # aiormq 7.2 found Connection.Close where it expected Connection.OpenOk
    (ssl.SSLError, "the TLS hand-shake failed"),
    (socket.gaierror, "its host name does not resolve"),
    (ConnectionRefusedError, "connection refused"),
    (TimeoutError, "no answer in time"),
    (ChannelAccessRefused, "access refused"),
    (ChannelNotFoundEntity, "not found"),
    (ChannelPreconditionFailed, "precondition failed"),
)


def broker_address(amqp_url: str) -> str:
    """`host:port` of an AMQP URL, for messages. Raises ValueError, without quoting the URL, if it is none."""
    try:
        url = URL(amqp_url)
        if url.scheme in DEFAULT_PORTS and url.host:
            return f"{url.host}:{url.port or DEFAULT_PORTS[url.scheme]}"
    except ValueError:
        pass  # its text would quote parts of the URL
    raise ValueError("the AMQP URL must look like amqp://user:password@host:5672/vhost")


class BrokerConnection(Connection):
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


async def connect(amqp_url: str, *, name: str) -> BrokerConnection:
    """Open a connection; its `name` is what operators see. Raises BrokerUnavailable, after at most CONNECT_SECONDS."""
    connection = BrokerConnection(amqp_url, name)
    try:
        with translated("it cannot be reached"):
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
    except BaseException:
        connection.abort()
        await connection.close()  # or its __del__ would start a task whenever it is collected
        raise
    return connection


async def close(connection: BrokerConnection) -> None:
    """Close; errors do not matter any more, and a broker that does not answer is not waited for."""
    closing = asyncio.ensure_future(connection.close())  # aio-pika 10.2 cannot be cancelled here
    try:
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    finally:
        connection.abort()
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)
        if closing.done() and not closing.cancelled():
            closing.exception()  # seen


def reason_of(error: BaseException | None, otherwise: str = "the connection was lost") -> str:
    """Why a connection or AMQP channel failed, in our words: the broker's own may name users and hosts."""
    cause = error
    while cause is not None:
        for kind, text in _PLAIN:
            if isinstance(cause, kind):
                return text
        cause = cause.__cause__
    return otherwise


def names(error: BaseException, exchange: str) -> bool:
    """Whether the broker closed an AMQP channel because of this exchange; every call pending there gets the error."""
    return f"'{exchange}'" in str(error)


@contextmanager
def translated(otherwise: str = "the connection was lost") -> Iterator[None]:
    """Raise BrokerUnavailable for what the broker or its client library causes; let real cancellation through."""
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    try:
        yield
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > cancelled_before:
            raise
        raise BrokerUnavailable(otherwise) from error
    except Exception as error:
        if not is_broker_error(error):
            raise
        raise BrokerUnavailable(reason_of(error, otherwise)) from error


def is_broker_error(error: Exception) -> bool:
    """Whether this is how aio-pika and aiormq say that the broker is away or an AMQP channel is closed.

    A bare `Exception` is what aiormq rejects pending calls with when the broker closed the socket without a word.
    """
    return isinstance(error, BROKER_ERRORS) or type(error) is Exception
