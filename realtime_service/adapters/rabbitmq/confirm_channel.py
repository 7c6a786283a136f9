"""The one AMQP channel a publisher has, kept open over every loss by a supervisor of its own.

The connection belongs to it alone: a memory alarm blocks connections that publish, and nobody's acknowledgements should
freeze with it. Those who need the channel take turns: after a loss the oldest go first, so that what was published
first arrives first.
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from aiormq.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity

from realtime_service.adapters.rabbitmq import connecting
from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.adapters.rabbitmq.connecting import broker_address, names, reason_of, translated
from realtime_service.adapters.rabbitmq.publishing_connection import PublishingConnection, close, connect
from realtime_service.adapters.rabbitmq.topology import EXCHANGES, declare_topology
from realtime_service.domain.errors import BrokerUnavailable, PublishError
from realtime_service.domain.finding import Severity

FIRST_DELAY_SECONDS: Final = 0.2
LONGEST_DELAY_SECONDS: Final = 3.0
"""Several attempts fit into the 10 s an upstream task usually waits."""
STABLE_SECONDS: Final = 5.0
"""A connection that lived this long was a good one: back-off starts anew after it."""
OPEN_SECONDS: Final = 10.0
"""Opening an AMQP channel: two round trips."""

OnStateChange = Callable[[bool], None]

log = logging.getLogger(__name__)


class ConfirmChannel:
    """Keeps an AMQP channel in confirm mode; `async with` opens and closes it, without waiting for the broker."""

    def __init__(self, amqp_url: str, name: str, on_state_change: OnStateChange | None) -> None:
        """`name` is the connection's name in RabbitMQ. Raises ValueError for a URL that is none."""
        self.address = broker_address(amqp_url)
        """`host:port`, for messages."""
        self.problem = "it was not asked yet"
        """Why there is no connection, in our words."""
        self.undeclared = ""
        """Why a missing exchange could not be declared, in our words."""
        self._url = amqp_url
        self._name = name
        self._on_state_change = on_state_change
        self._supervisor: asyncio.Task[None] | None = None
        self._connection: PublishingConnection | None = None
        self._channel: AbstractChannel | None = None
        self._waiting: dict[int, asyncio.Future[AbstractChannel]] = {}
        self._missing = False
        self._told = False

    async def __aenter__(self) -> Self:
        # A context of its own: the supervisor outlives the call that happened to come first, and its trace with it.
        self._supervisor = asyncio.get_running_loop().create_task(
            self._supervise(), name=self._name, context=contextvars.Context()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])

    @property
    def connected(self) -> bool:
        """Whether a message published now would go out at once."""
        return self._channel is not None and not self._channel.is_closed

    # -- Taking turns --------------------------------------------------------------------------------------------------

    async def acquire(self, turn: int) -> AbstractChannel:
        """The AMQP channel, as soon as there is one; lower turns get it first.

        Waits without limit. Raises PublishError when there will be none.
        """
        if self._channel is not None:
            return self._channel
        if self._supervisor is None or self._supervisor.done() or self._supervisor.cancelling():
            raise PublishError("the publisher is not open: publish inside its `async with`")
        future: asyncio.Future[AbstractChannel] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = future
        try:
            return await future
        finally:
            self._waiting.pop(turn, None)

    def failed(self, channel: AbstractChannel) -> None:
        """A publish found this channel closed: it is given to nobody any more."""
        if self._channel is channel:
            self._channel = None

    async def is_blocked(self) -> bool:
        """Whether the broker told this connection that its memory or disk alarm lasts (`connection.blocked`)."""
        if self._connection is None or self._connection.transport is None:
            return False
        try:
            async with asyncio.timeout(0):
                await (
                    self._connection.transport.ready()
                )  # aiormq has no other way to ask; without alarm it is at once
        except TimeoutError:
            return True
        return False

    async def unblocked(self, channel: AbstractChannel) -> None:
        """Wait while an alarm lasts and the channel is open: what is written meanwhile would only fill buffers."""
        if not await self.is_blocked() or self._connection is None or self._connection.transport is None:
            return
        ready, closing = asyncio.ensure_future(self._connection.transport.ready()), channel.closing
        try:
            await asyncio.wait([ready, closing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            closing.cancel()

    def _admit(self, channel: AbstractChannel) -> None:
        """Let those who wait go first, in the order of their turns; open the door when nobody waits any more."""
        if channel.is_closed:
            return
        if not self._waiting:
            self._channel = channel
            self._tell(connected=True)
            return
        for turn in sorted(self._waiting):
            if not (future := self._waiting.pop(turn)).done():
                future.set_result(channel)
        asyncio.get_running_loop().call_soon(self._admit, channel)

    # -- Keeping it open -----------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        pauses = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection = await connect(self._url, name=self._name)
                    opened = loop.time()
                    await self._keep_connection(connection)
                    if loop.time() - opened > STABLE_SECONDS:
                        pauses = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
                except BrokerUnavailable as error:
                    self.problem = str(error)
                except Exception:
                    log.exception("publisher failed and starts again")
                await asyncio.sleep(next(pauses))
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(
                        PublishError("the publisher was closed before the message was confirmed")
                    )

    async def _keep_connection(self, connection: PublishingConnection) -> None:
        """Keep an AMQP channel open on it until it is lost. Raises BrokerUnavailable."""
        self._connection = connection
        try:
            with translated():
                if self._missing:
                    await self._declare()
                reason = await self._keep_channel(connection)
            self._missing = isinstance(reason, ChannelNotFoundEntity) and any(
                names(reason, exchange) for exchange in EXCHANGES
            )
            self.problem = reason_of(reason)
            log.warning("publisher disconnected from %s: %s", self.address, self.problem)
        finally:
            self._connection = None
            self._tell(connected=False)
            await close(connection)

    async def _keep_channel(self, connection: PublishingConnection) -> BaseException | None:
        """Open an AMQP channel, let the publishes in, and return why it closed.

        If the broker closed the channel alone, the connection goes too: aiormq 7.2 may have written another message to
        the closed channel, for which the broker closes the connection (504), whatever else is done on it by then.
        """
        assert connection.transport is not None
        async with asyncio.timeout(OPEN_SECONDS):
            channel = await connection.transport.connection.channel(on_return_raises=True)
        self._admit(channel)
        closing = channel.closing
        await asyncio.wait([closing])
        return None if closing.cancelled() else closing.exception()

    async def _declare(self) -> None:
        """An exchange is missing: upstream tasks may start before the service ever ran.

        Raises BrokerUnavailable if the broker is; what may not be declared is left to the publishes to say.
        """
        declaring = await connecting.connect(self._url, name=f"{self._name} declares")
        try:
            findings = await declare_topology(declaring)
            for finding in findings:
                log.warning("%s", finding)
            wrong = next((one for one in findings if one.severity is Severity.ERROR), None)
            self.undeclared = f" ({wrong.object}: {wrong.found}, and {wrong.problem})" if wrong else ""
        finally:
            await connecting.close(declaring)

    def _tell(self, *, connected: bool) -> None:
        if not connected:
            self._channel = None
        if connected is self._told:
            return
        self._told = connected
        if self._on_state_change is not None:
            try:
                self._on_state_change(connected)
            except Exception:
                log.exception("on_state_change failed")
