"""Opening and closing one AMQP connection, and saying in our own words what is wrong with it.

On connections to publish on, aiormq 7.2 rejects pending calls with whatever ended the connection. For a broker that
stopped answering that is a `CancelledError`, which a task cannot tell from being cancelled itself: `translated` can.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

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

from realtime_service.adapters.rabbitmq.amqp.connection import Connection as BrokerConnection
from realtime_service.adapters.rabbitmq.amqp.opening import DEFAULT_PORTS, open_connection
from realtime_service.domain.errors import BrokerUnavailable

__all__ = [
    "BrokerConnection",
    "broker_address",
    "close",
    "connect",
    "is_broker_error",
    "names",
    "reason_of",
    "translated",
]

CONNECT_SECONDS: Final = 10.0
"""TCP, TLS and the AMQP hand-shake together; a broker that is stopped still accepts TCP."""

BROKER_ERRORS: Final = (AMQPError, PAMQPException, OSError, RuntimeError, StopAsyncIteration)
"""What is raised when the broker is away or an AMQP channel is closed; the last by aiormq 7.2, for one that hung up
before it was said a word."""

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


async def connect(amqp_url: str, *, name: str) -> BrokerConnection:
    """Open a connection to consume on; its `name` is what operators see.

    Raises BrokerUnavailable, after at most CONNECT_SECONDS.
    """
    with translated("it cannot be reached"):
        async with asyncio.timeout(CONNECT_SECONDS):
            return await open_connection(amqp_url, name=name)


async def close(connection: BrokerConnection) -> None:
    """Close; errors do not matter any more, and a broker that does not answer is not waited for."""
    await connection.close()


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
    return f"'{exchange or 'amq.default'}'" in str(error)  # what RabbitMQ calls the one without a name


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
