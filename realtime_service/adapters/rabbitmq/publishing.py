"""Publishing that tells the truth: `publish` returns after the broker's confirm, or raises.

1. A message is confirmed, or its publisher is told that it was not: nothing is dropped in between.
2. A lost connection is the supervisor's business: a publish waits for the next one and sends the same message, with the
   same id, until its own time is up. So a message may arrive twice, and consumers go by its id.
3. Messages reach the broker in the order of the calls, also those sent again after a loss.
4. Nothing one caller does harms another: a cancelled publish leaves the AMQP channel alone, and a publish that makes
   the broker close the channel (404, 403) costs the others a retry, no error.
"""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic
from pamqp.common import FieldValue

from realtime_service.adapters.rabbitmq.confirm_channel import ConfirmChannel, OnStateChange
from realtime_service.adapters.rabbitmq.connecting import names, reason_of, translated
from realtime_service.adapters.rabbitmq.topology import EXCHANGES
from realtime_service.domain.errors import BrokerUnavailable, PublishError

MOST_CLOSURES: Final = 3
"""A publish that saw the channel closed this often, and not for somebody else's exchange, is taken to be the reason."""
PERSISTENT: Final = 2
"""AMQP `delivery_mode`: on disk before the confirm, in durable queues."""

Headers = Mapping[str, FieldValue]


@dataclass(slots=True)
class _Message:
    turn: int
    """Its place in the order of the calls."""
    exchange: str
    routing_key: str
    body: bytes
    properties: Basic.Properties
    mandatory: bool
    id: str
    sent: bool = False
    """It was written to a connection at least once, so it may have arrived."""
    closures: int = 0
    """How often the broker closed the channel, perhaps because of it."""

    def refused(self, what: str) -> PublishError:
        return PublishError(f"message {self.id!r} to exchange {self.exchange!r} was not confirmed: {what}")


class ConfirmedPublisher:
    """Publishes with confirms, over a connection it keeps up itself; `async with` opens and closes it.

    Opening does not wait for the broker; the first publish does, within its own time.
    """

    def __init__(
        self, amqp_url: str, *, name: str = "realtime publisher", on_state_change: OnStateChange | None = None
    ) -> None:
        """`name` is the connection's name in RabbitMQ. `on_state_change` hears True and False, in the event loop.

        Raises ValueError for a URL that is none; its text does not quote it.
        """
        self._channel = ConfirmChannel(amqp_url, name, on_state_change)
        self._turns = itertools.count()
        self._mandatory: dict[str, asyncio.Future[None]] = {}
        self._held_up: dict[
            tuple[str, str], asyncio.Future[None]
        ] = {}  # the last that waits, by where it goes

    @property
    def connected(self) -> bool:
        """Whether a message published now would go out at once."""
        return self._channel.connected

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.__aexit__(kind, error, trace)

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        message_id: str,
        timeout_seconds: float,
        mandatory: bool = False,
        message_type: str | None = None,
        app_id: str | None = None,
        timestamp: datetime | None = None,
        content_type: str = "application/json",
        headers: Headers | None = None,
    ) -> None:
        """Return once every queue that the message was routed to has it, on disk where the queue is durable.

        Waits at most `timeout_seconds`, lost connections included. `mandatory`: no queue at all is an error too.
        Raises PublishError, saying in one line what happened and what to do; after a timeout the message may still
        arrive, so publish it again under the same `message_id`.
        """
        properties = Basic.Properties(
            content_type=content_type,
            headers=dict(headers or {}),
            delivery_mode=PERSISTENT,
            message_id=message_id,
            timestamp=timestamp,
            message_type=message_type,
            app_id=app_id,
        )
        turn = next(self._turns)
        message = _Message(turn, exchange, routing_key, body, properties, mandatory=mandatory, id=message_id)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._publish_alone(message)
        except TimeoutError as error:
            raise message.refused(await self._why_late(message, timeout_seconds)) from error

    async def _publish_alone(self, message: _Message) -> None:
        """aiormq tells by its id which message came back as unroutable: while one may, no other of that id goes."""
        await self._until_its_turn(message)
        if not message.mandatory:
            await self._publish(message)
            return
        done = self._mandatory[message.id] = asyncio.get_running_loop().create_future()
        try:
            await self._publish(message)
        finally:
            del self._mandatory[message.id]
            done.set_result(None)

    async def _until_its_turn(self, message: _Message) -> None:
        """Who waits for an id holds up those that go the same way behind it, or they would overtake it."""
        way = (message.exchange, message.routing_key)
        before = self._held_up.get(way)
        if before is None and message.id not in self._mandatory:
            return
        mine = self._held_up[way] = asyncio.get_running_loop().create_future()
        try:
            if before is not None:
                await asyncio.wait([before])
            while (ahead := self._mandatory.get(message.id)) is not None:
                await asyncio.wait([ahead])
        finally:
            if self._held_up[way] is mine:
                del self._held_up[way]
            mine.set_result(None)

    async def _publish(self, message: _Message) -> None:
        while True:
            channel = await self._channel.acquire(message.turn)
            try:
                with translated():
                    await self._channel.unblocked(channel)
                    message.sent = True
                    await channel.basic_publish(
                        message.body,
                        exchange=message.exchange,
                        routing_key=message.routing_key,
                        properties=message.properties,
                        mandatory=message.mandatory,
                    )
                return
            except BrokerUnavailable as outage:
                self._raise_if_final(message, channel, outage.__cause__)
                self._channel.failed(channel)

    def _raise_if_final(
        self, message: _Message, channel: AbstractChannel, error: BaseException | None
    ) -> None:
        """Raise PublishError if trying again on another channel would not help."""
        match error:
            case amqp.PublishError():
                what = f"no queue is bound for key {message.routing_key!r}. Check the key and the bindings"
                raise message.refused(what) from error
            case amqp.DeliveryError():
                what = "a queue refused it (nack): it is full with x-overflow=reject-publish, or its node is down"
                raise message.refused(f"{what}. Consume what waits there or raise its limit") from error
            case amqp.ChannelAccessRefused() if names(error, message.exchange):
                what = "this user may not publish there. Grant write permission, and publish to no internal exchange"
                raise message.refused(what) from error
            case amqp.ChannelNotFoundEntity() if names(error, message.exchange):
                message.closures += 1
                hopeless = message.exchange not in EXCHANGES or (
                    message.closures > 1 and self._channel.undeclared
                )
                if hopeless or message.closures == MOST_CLOSURES:
                    what = f"the exchange does not exist{self._channel.undeclared}. Declare it, or start the service"
                    raise message.refused(what) from error
            case amqp.ChannelAccessRefused() | amqp.ChannelNotFoundEntity():
                pass  # another publish's fault
            case amqp.AMQPChannelError():
                message.closures += 1
        if message.closures == MOST_CLOSURES or not channel.is_closed:
            raise message.refused(f"the broker does not take it: {reason_of(error)}") from error

    async def _why_late(self, message: _Message, timeout_seconds: float) -> str:
        broker = f"the broker at {self._channel.address}"
        if not self.connected:
            what = f"no connection to {broker} within {timeout_seconds:g} s, {self._channel.problem}. Check that it"
            what += " runs there and that the AMQP URL is right"
        elif await self._channel.is_blocked():
            what = (
                f"{broker} takes no messages while its memory or disk alarm lasts. Free memory or disk there"
            )
        else:
            what = f"{broker} did not answer within {timeout_seconds:g} s. Check its load and its queues"
        return what + (
            ". It may have arrived all the same: publish it again with the same id" if message.sent else ""
        )
