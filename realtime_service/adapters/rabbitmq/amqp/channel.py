"""An AMQP channel: calls answered in their order, and at most one consumer, called for each delivery.

Law: a call that takes too long or is cancelled closes its channel, so that no answer is taken for another call's. So
does a consumer that raises, a moment later: the broker hands out again what it did not settle.
"""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import structlog
from aiormq import exceptions as amqp
from aiormq.channel import exception_by_code
from pamqp import frame as frames
from pamqp.base import Frame
from pamqp.commands import Basic, Exchange, Queue
from pamqp.commands import Channel as Command
from pamqp.common import FieldTable

from realtime_service.adapters.rabbitmq.amqp import methods
from realtime_service.adapters.rabbitmq.amqp.properties import Properties, read_properties

log = structlog.get_logger(__name__)

FAILED_SECONDS: Final = 1.0
"""How long a channel whose consumer raised stays open: an event that always fails must not come in a storm."""
CONSUMER: Final = "c"
"""The tag of a channel's one consumer."""

_DELIVERY: Final = struct.Struct(">Q?B")
_HEADER: Final = struct.Struct(">HHQ")
_ACK: Final = struct.Struct(">BHIHHQBB")


class Wire(Protocol):
    """What a channel needs of its connection."""

    loop: asyncio.AbstractEventLoop

    def write(self, data: bytes) -> None:
        """Send, together with all that is written in this turn of the event loop."""

    def send(self, number: int, method: Frame) -> None:
        """Write a method."""

    def forget(self, channel: "Channel") -> None:
        """Its number is free."""


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that the broker handed over."""

    channel: "Channel"
    delivery_tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Properties
    body: bytes = b""


OnMessage = Callable[[Delivery], None]
OnChannel = Callable[["Channel"], None]


def _nothing(_: object) -> None:
    """Nobody listens."""


class _Call(NamedTuple):
    """What was asked and is not answered."""

    answers: list[str]
    """Names of the methods that answer it."""
    future: asyncio.Future[Frame] | None = None
    told: Callable[[Frame], None] = _nothing
    """Called at once, before anything that came behind the answer is read."""


_OPENED: Final = Command.Open.valid_responses
_PREFETCH_SET: Final = Basic.Qos.valid_responses
_FOUND: Final = Queue.Declare.valid_responses


def _found(answer: Frame) -> Queue.DeclareOk:
    assert isinstance(answer, Queue.DeclareOk)
    return answer


class Channel:
    """Made by `Connection.channel`, which has sent its `Channel.Open`: what is asked first tells whether it opened."""

    __slots__ = (
        "_arriving",
        "_calls",
        "_closing",
        "_missing",
        "_on_message",
        "_parts",
        "_wire",
        "is_closed",
        "number",
        "on_cancelled",
        "on_closed",
    )

    def __init__(self, wire: Wire, number: int) -> None:
        self.number = number
        self.is_closed = False
        self.on_closed: OnChannel = _nothing
        """Told once when the channel is gone, unless it was `close` that closed it."""
        self.on_cancelled: OnChannel = _nothing
        """Told when the broker cancelled the consumer: its queue was deleted, or its node is gone."""
        self._wire = wire
        self._calls: list[_Call] = []  # unanswered, in their order
        self._closing: asyncio.Future[None] | None = None
        self._on_message: OnMessage = _nothing
        self._arriving: Delivery | None = None
        self._missing = -1  # bytes of its body; negative: its header
        self._parts: list[bytes] | None = None
        self._write(methods.open_channel(number), _Call(_OPENED))

    # What its user calls. Each raises what aiormq would: `connecting.translated` knows it.

    def basic_qos(self, prefetch_count: int) -> None:
        """Bound what is delivered and not acknowledged. Not waited for: the next answer tells."""
        self._write(methods.set_prefetch(self.number, prefetch_count), _Call(_PREFETCH_SET))

    async def basic_consume(
        self, queue: str, on_message: OnMessage, *, no_ack: bool = False, timeout: float | None = None
    ) -> None:
        """Call `on_message` for each delivery, the first of them perhaps before this returns."""
        self._on_message = on_message
        await self._call(Basic.Consume(queue=queue, consumer_tag=CONSUMER, no_ack=no_ack), timeout)

    async def find_and_consume(
        self,
        queue: str,
        on_found: Callable[[int], None],
        on_message: OnMessage,
        *,
        timeout: float | None = None,
    ) -> int:
        """The same, in one round trip with two questions: what is in the queue before, and who consumes it then.

        `on_found` is told how many messages wait, before `on_message` gets any. Returns how many consume the queue,
        with those who wait for their turn if it counts them. Raises `ChannelNotFoundEntity` where there is none.
        """
        look_up = methods.look_up(self.number, queue)
        self._write(look_up, _Call(_FOUND, told=lambda answer: on_found(_found(answer).message_count or 0)))
        self._on_message = on_message
        # No `Consume-Ok`: RabbitMQ 3.10 would send it behind the answer to what is asked next.
        self._wire.write(methods.consume_at_once(self.number, queue, CONSUMER))
        return _found(await self._ask(look_up, _FOUND, timeout)).consumer_count or 0

    async def basic_cancel(self, *, timeout: float | None = None) -> None:
        """Consume no more."""
        await self._call(Basic.Cancel(consumer_tag=CONSUMER), timeout)

    def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, or all up to it. On a closed channel nothing is: they come again."""
        if not self.is_closed:
            self._wire.write(_ACK.pack(1, self.number, 13, 60, 80, delivery_tag, multiple, 0xCE))

    async def queue_declare(
        self,
        queue: str,
        *,
        passive: bool = False,
        durable: bool = False,
        arguments: FieldTable | None = None,
        timeout: float | None = None,
    ) -> Queue.DeclareOk:
        """Declare a queue; `passive`: only ask for it."""
        method = Queue.Declare(queue=queue, passive=passive, durable=durable, arguments=arguments or {})
        return _found(await self._call(method, timeout))

    async def queue_bind(
        self, queue: str, exchange: str, *routing_keys: str, timeout: float | None = None
    ) -> None:
        """Bind a queue, with each of these keys, in one round trip."""
        await self._call_each(
            [Queue.Bind(queue=queue, exchange=exchange, routing_key=key) for key in routing_keys], timeout
        )

    async def queue_unbind(
        self, queue: str, exchange: str, *routing_keys: str, timeout: float | None = None
    ) -> None:
        """Unbind it in the same way."""
        await self._call_each(
            [Queue.Unbind(queue=queue, exchange=exchange, routing_key=key) for key in routing_keys], timeout
        )

    async def queue_delete(
        self, queue: str, *, if_unused: bool = False, if_empty: bool = False, timeout: float | None = None
    ) -> None:
        """Delete a queue."""
        await self._call(Queue.Delete(queue=queue, if_unused=if_unused, if_empty=if_empty), timeout)

    async def exchange_declare(
        self,
        exchange: str,
        *,
        exchange_type: str,
        passive: bool = False,
        durable: bool = False,
        internal: bool = False,
        arguments: FieldTable | None = None,
        timeout: float | None = None,
    ) -> None:
        """Declare an exchange."""
        method = Exchange.Declare(
            exchange=exchange,
            exchange_type=exchange_type,
            passive=passive,
            durable=durable,
            internal=internal,
            arguments=arguments or {},
        )
        await self._call(method, timeout)

    async def exchange_bind(
        self, destination: str, source: str, routing_key: str, *, timeout: float | None = None
    ) -> None:
        """Bind an exchange to another one."""
        method = Exchange.Bind(destination=destination, source=source, routing_key=routing_key)
        await self._call(method, timeout)

    async def exchange_unbind(
        self, destination: str, source: str, routing_key: str, *, timeout: float | None = None
    ) -> None:
        """Remove such a binding."""
        method = Exchange.Unbind(destination=destination, source=source, routing_key=routing_key)
        await self._call(method, timeout)

    async def close(self, *, timeout: float | None = None) -> None:
        """Close, and wait until the broker did: what is unsettled is back in its queue, in its place."""
        if self.is_closed:
            return
        self.on_closed = _nothing
        self._closing = self._wire.loop.create_future()
        self.abandon()
        async with asyncio.timeout(timeout):
            await self._closing

    def abandon(self) -> None:
        """Close without waiting for the answer. Calls under way fail."""
        if not self.is_closed:
            self._wire.send(
                self.number, Command.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
            )
            self._end(amqp.ChannelClosed(200, "closed here"))

    # What its connection calls

    def deliver(self, data: bytes, at: int) -> None:
        """`Basic.Deliver`, whose arguments begin at `at`."""
        if self.is_closed:
            return
        if self._arriving is not None:
            raise amqp.ConnectionUnexpectedFrame("a delivery within another one")
        at += 1 + data[at]  # the consumer's tag
        tag, redelivered, length = _DELIVERY.unpack_from(data, at)
        key_at = at + 10 + length
        key_end = key_at + 1 + data[key_at]
        exchange = data[at + 10 : key_at].decode(errors="replace")
        key = data[key_at + 1 : key_end].decode(errors="replace")  # no good one then
        self._arriving = Delivery(self, tag, redelivered, exchange, key, _NONE)
        self._missing = -1

    def header(self, data: bytes, at: int, end: int) -> None:
        """A content header."""
        if self.is_closed:
            return
        if self._arriving is None or self._missing >= 0:
            raise amqp.ConnectionUnexpectedFrame("a header of nothing")
        _, _, self._missing = _HEADER.unpack_from(data, at)
        self._arriving.properties = read_properties(data, at + 12, end)
        if not self._missing:
            self._arrived(self._arriving)

    def body(self, part: bytes) -> None:
        """A piece of a body."""
        if self.is_closed:
            return
        if self._arriving is None or len(part) > self._missing:
            raise amqp.ConnectionUnexpectedFrame("a body of nothing")
        self._missing -= len(part)
        if self._parts is None and not self._missing:
            self._arriving.body = part
            self._arrived(self._arriving)
            return
        self._parts = self._parts or []
        self._parts.append(part)
        if not self._missing:
            self._arriving.body = b"".join(self._parts)
            self._parts = None
            self._arrived(self._arriving)

    def answered(self, method: Frame) -> None:
        """Any other method."""
        match method:
            case Command.CloseOk():
                self._wire.forget(self)
                if self._closing is not None and not self._closing.done():
                    self._closing.set_result(None)
            case Command.Close():
                self._wire.send(self.number, Command.CloseOk())
                if not self.is_closed:  # else it comes across ours, which will be answered too
                    self._wire.forget(self)
                    self._end(exception_by_code(method))
            case _ if self.is_closed:
                pass
            case Basic.Cancel():
                self._on_message = _nothing
                self._wire.loop.call_soon(self.on_cancelled, self)
            case Command.Flow():
                self._wire.send(self.number, Command.FlowOk(active=method.active))
            case _ if self._calls and method.name in self._calls[0].answers:
                self._answered(self._calls.pop(0), method)
            case _:
                raise amqp.ConnectionUnexpectedFrame(f"{method.name} was not asked for")

    def lost(self, reason: Exception) -> None:
        """The connection is gone, or will be."""
        self._end(reason)
        if self._closing is not None and not self._closing.done():
            self._closing.set_exception(reason)

    # What both lead to

    def _write(self, data: bytes, call: _Call) -> None:
        if self.is_closed:
            raise amqp.ChannelInvalidStateError("the channel is closed")
        self._wire.write(data)
        self._calls.append(call)

    async def _call(self, method: Frame, timeout: float | None) -> Frame:
        return await self._ask(frames.marshal(method, self.number), method.valid_responses, timeout)

    async def _call_each(self, calls: list[Frame], timeout: float | None) -> None:
        for method in calls[:-1]:
            self._write(frames.marshal(method, self.number), _Call(method.valid_responses))
        await self._call(calls[-1], timeout)

    async def _ask(self, data: bytes, answers: list[str], timeout: float | None) -> Frame:
        answered: asyncio.Future[Frame] = self._wire.loop.create_future()
        self._write(data, _Call(answers, answered))
        try:
            async with asyncio.timeout(timeout):
                return await answered
        except (TimeoutError, asyncio.CancelledError):
            self.abandon()
            raise
        finally:
            del answered  # an exception in it knows this frame: they would wait for the garbage collector

    def _answered(self, call: _Call, answer: Frame) -> None:
        try:
            call.told(answer)
        except Exception as error:
            log.exception("consumer_failed", error=type(error).__name__)
            self.abandon()
        if call.future is not None and not call.future.done():
            call.future.set_result(answer)

    def _arrived(self, delivery: Delivery) -> None:
        self._arriving = None
        try:
            self._on_message(delivery)
        except Exception as error:
            log.exception("consumer_failed", error=type(error).__name__)
            self._on_message = _nothing
            self._wire.loop.call_later(FAILED_SECONDS, self.abandon)

    def _end(self, reason: Exception) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        calls, self._calls = self._calls, []
        for call in calls:
            if call.future is not None and not call.future.done():
                call.future.set_exception(reason)
        self._arriving = self._parts = None
        on_closed, self.on_closed = self.on_closed, _nothing
        self._on_message = self.on_cancelled = _nothing
        self._wire.loop.call_soon(on_closed, self)  # after those who wait for an answer that came before


_NONE: Final = Properties()
