"""The connection this replica consumes on, kept up by a supervisor of our own.

Law: plain connections, never the robust kind: that restores channel after channel, declares for ever and loops on one
406 (aio-pika 10.2). Desired state is kept by those who consume; the link only says when there is a connection and when
it is gone. Where a broker allows fewer channels on a connection (2047, as it comes) than there are sessions, there are
more connections, for as long as there is the first. Nothing is published here: a memory alarm blocks connections that
publish, and acknowledgements must not freeze with them (RabbitMQ, *Alarms*).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from realtime_service.adapters.rabbitmq import connecting
from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection
from realtime_service.domain.errors import BrokerUnavailable, TopologyWrong

log = structlog.get_logger(__name__)

RPC_TIMEOUT_SECONDS: Final = 10.0
OPENING_AT_ONCE: Final = 16
"""Sessions opened concurrently after a loss: the broker is not to be stormed."""
CLOSING_AT_ONCE: Final = 16
"""Sessions closed concurrently: while a broker closes thousands, it serves nobody else."""
TURN_SECONDS: Final = 2.0
"""How long a session waits for its turn to close: it holds its queue. A broker closes some 3,000 in a second."""
CLOSE_TIMEOUT_SECONDS: Final = 5.0
GATHER_SECONDS: Final = 0.02
"""How long acknowledgements of all sessions are gathered: one write to the socket costs more than all else of one, and
the broker takes many at once for half the price."""
FIRST_DELAY_SECONDS: Final = 0.2
LONGEST_DELAY_SECONDS: Final = 5.0


class Acknowledging(Protocol):
    """A session with something to tell the broker."""

    def acknowledge(self) -> None:
        """Write it."""


Prepare = Callable[[BrokerConnection], Awaitable[None]]


class BrokerLink:
    """Keeps one AMQP connection; `run` owns it."""

    def __init__(self, amqp_url: str, name: str, on_state: Callable[[bool], None] = lambda _: None) -> None:
        self._url = amqp_url
        self._name = name
        self._on_state = on_state
        self._connection: BrokerConnection | None = None
        self._more: list[BrokerConnection] = []
        self._connecting = asyncio.Lock()
        self._up = asyncio.Event()
        self._settled: dict[Acknowledging, None] = {}
        self.opening = asyncio.Semaphore(OPENING_AT_ONCE)
        self._closing = asyncio.Semaphore(CLOSING_AT_ONCE)

    @property
    def connection(self) -> BrokerConnection | None:
        """The connection, or None while there is none."""
        return self._connection

    @property
    def is_up(self) -> bool:
        """Whether there is a connection that is prepared."""
        return self._up.is_set() and self._connection is not None and not self._connection.is_closed

    async def wait_up(self) -> None:
        """Return as soon as there is a connection that is prepared."""
        while not self.is_up:
            self._up.clear()  # what it was set for is lost
            await self._up.wait()

    async def channel(self) -> Channel:
        """A new channel, on another connection if one is full. Raises BrokerUnavailable."""
        if (connection := self._with_room()) is None:
            async with self._connecting:
                if (connection := self._with_room()) is None:
                    connection = await self._connect_another()
        return connection.channel()

    def _with_room(self) -> BrokerConnection | None:
        if self._connection is None:
            raise BrokerUnavailable("no connection to the broker")
        return next((each for each in (self._connection, *self._more) if each.has_room), None)

    async def _connect_another(self) -> BrokerConnection:
        first = self._connection
        connection = await connecting.connect(self._url, name=f"{self._name} {len(self._more) + 2}")
        if self._connection is not first:
            await connecting.close(connection)
            raise BrokerUnavailable("the connection was lost")
        self._more.append(connection)
        connection.closed.add_done_callback(lambda _: self._more.remove(connection))
        log.info("broker_connected_once_more", connections=len(self._more) + 1)
        return connection

    async def close(self, channel: Channel) -> None:
        """Close a session's channel; errors do not matter any more. It is closed when this returns, or will be."""
        if channel.is_closed:
            return
        has_turn = False
        with suppress(TimeoutError):
            async with asyncio.timeout(TURN_SECONDS):
                has_turn = await self._closing.acquire()
        try:
            await channel.close(timeout=CLOSE_TIMEOUT_SECONDS)
        except Exception as error:
            log.debug("channel_not_closed", error=type(error).__name__)
        finally:
            if has_turn:
                self._closing.release()

    def acknowledge_soon(self, session: Acknowledging) -> None:
        """Let the session acknowledge in a moment; what it settles meanwhile goes along."""
        if not self._settled:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._acknowledge)
        self._settled[session] = None

    def _acknowledge(self) -> None:
        settled, self._settled = self._settled, {}
        for session in settled:
            session.acknowledge()

    def depend_on(self, channel: Channel, connection: BrokerConnection) -> None:
        """A consumer that every replica must have runs on this channel: if it ends, the connection is made anew."""

        def drop(_: object) -> None:
            if not connection.is_closed:
                log.warning("replica_consumer_lost")
                connection.end()

        channel.on_closed = channel.on_cancelled = drop

    async def run(self, prepare: Prepare) -> None:
        """Connect, `prepare` (topology, the consumers every replica has), hold until lost, and again, for ever.

        Raises TopologyWrong, when `prepare` does.
        """
        pauses = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
        while True:
            try:
                connection = await connecting.connect(self._url, name=self._name)
                try:
                    with connecting.translated():
                        await prepare(connection)
                    _heed_cancellation()
                    self._connection = connection
                    self._up.set()
                    self._on_state(True)
                    log.info("broker_connected")
                    pauses = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
                    await asyncio.wait([connection.closed])
                finally:
                    self._connection = None
                    self._up.clear()
                    self._on_state(False)
                    self._acknowledge()
                    await asyncio.gather(*(connecting.close(each) for each in (connection, *self._more)))
                log.warning("broker_lost")
            except BrokerUnavailable as error:
                log.warning("broker_unavailable", reason=str(error))
            except TopologyWrong:
                raise
            except Exception as error:
                log.exception("broker_link_failed", error=type(error).__name__)
            await asyncio.sleep(next(pauses))


def _heed_cancellation() -> None:
    """Python 3.11's `wait_for` loses a cancellation that comes together with what it waits for."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
