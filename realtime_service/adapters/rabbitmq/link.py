"""The connection this replica consumes on, kept up by a supervisor of our own.

Law: plain connections, never the robust kind: that restores channel after channel, declares for ever and loops on one
406 (aio-pika 10.2). Desired state is kept by those who consume; the link only says when there is a connection and when
it is gone. Nothing is published here: a memory alarm blocks connections that publish, and acknowledgements must not
freeze with them (RabbitMQ, *Alarms*).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
from aiormq.abc import AbstractChannel

from realtime_service.adapters.rabbitmq import connecting
from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection
from realtime_service.adapters.rabbitmq.unreadable import survive_unreadable_properties
from realtime_service.domain.errors import BrokerUnavailable

log = structlog.get_logger(__name__)

RPC_TIMEOUT_SECONDS: Final = 10.0
OPENING_AT_ONCE: Final = 16
"""Sessions opened concurrently after a loss: the broker is not to be stormed."""
FIRST_DELAY_SECONDS: Final = 0.2
LONGEST_DELAY_SECONDS: Final = 5.0


class Acknowledging(Protocol):
    """A session with something to tell the broker."""

    async def acknowledge(self) -> None:
        """Write it."""


Prepare = Callable[[BrokerConnection], Awaitable[None]]


class BrokerLink:
    """Keeps one AMQP connection; `run` owns it."""

    def __init__(self, amqp_url: str, name: str, on_state: Callable[[bool], None] = lambda _: None) -> None:
        self._url = amqp_url
        self._name = name
        self._on_state = on_state
        self._dropping: asyncio.Task[None] | None = None
        self._connection: BrokerConnection | None = None
        self._up = asyncio.Event()
        self._settled: dict[Acknowledging, None] = {}
        self._to_acknowledge = asyncio.Event()
        self.opening = asyncio.Semaphore(OPENING_AT_ONCE)

    @property
    def connection(self) -> BrokerConnection | None:
        """The connection, or None while there is none."""
        return self._connection

    @property
    def is_up(self) -> bool:
        """Whether there is a connection that is prepared."""
        return self._up.is_set()

    async def wait_up(self) -> None:
        """Return as soon as there is a connection that is prepared."""
        await self._up.wait()

    async def channel(self) -> AbstractChannel:
        """A new channel without publisher confirms. Raises BrokerUnavailable."""
        if self._connection is None:
            raise BrokerUnavailable("no connection to the broker")
        return await new_channel(self._connection)

    def acknowledge_soon(self, session: Acknowledging) -> None:
        """Let the session acknowledge in a moment; what it settles meanwhile goes along."""
        self._settled[session] = None
        self._to_acknowledge.set()

    async def _acknowledge(self) -> None:
        """One task for all sessions of a connection: none for each event, and none left behind."""
        while True:
            await self._to_acknowledge.wait()
            self._to_acknowledge.clear()
            while self._settled:
                session = next(iter(self._settled))
                del self._settled[session]
                await session.acknowledge()

    def depend_on(self, channel: AbstractChannel, connection: BrokerConnection) -> None:
        """A consumer that every replica must have runs on this channel: if it ends, the connection is made anew."""

        def drop(_: object) -> None:
            if self._connection is connection:
                log.warning("replica_consumer_lost")
                self._dropping = asyncio.create_task(connecting.close(connection))

        channel.closing.add_done_callback(drop)
        channel.on_consumer_cancel_callbacks.add(drop)

    async def run(self, prepare: Prepare) -> None:
        """Connect, `prepare` (topology, the consumers every replica has), hold until lost, and again, for ever."""
        survive_unreadable_properties()
        pauses = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
        while True:
            try:
                connection = await connecting.connect(self._url, name=self._name)
                acknowledging = asyncio.create_task(self._acknowledge())
                try:
                    with connecting.translated():
                        await prepare(connection)
                    self._connection = connection
                    self._up.set()
                    self._on_state(True)
                    log.info("broker_connected")
                    pauses = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
                    await _until_closed(connection)
                finally:
                    self._connection = None
                    self._up.clear()
                    self._on_state(False)
                    acknowledging.cancel()
                    await connecting.close(connection)
                log.warning("broker_lost")
            except BrokerUnavailable as error:
                log.warning("broker_unavailable", reason=str(error))
            except Exception as error:
                log.exception("broker_link_failed", error=type(error).__name__)
            await asyncio.sleep(next(pauses))


async def new_channel(connection: BrokerConnection) -> AbstractChannel:
    """A channel of aiormq, beneath aio-pika: consuming on it costs half of what it costs above."""
    if connection.transport is None:
        raise BrokerUnavailable("no connection to the broker")
    return await connection.transport.connection.channel(
        publisher_confirms=False, timeout=RPC_TIMEOUT_SECONDS
    )


async def _until_closed(connection: BrokerConnection) -> None:
    if connection.transport is not None:
        await asyncio.wait([connection.transport.connection.closing])
