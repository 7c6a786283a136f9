"""An AMQP connection: frames in, frames out, heartbeats, and how it ends.

Law: it ends once, for a reason that every channel is told. What is not AMQP ends it (501, 502, 505), and so does a
broker that is silent for three heartbeats, plus a second each; what one consumer does never ends it. Nothing waits for
the socket: acknowledgements are few, calls have their time, and a broker that reads nothing delivers nothing either.
"""

import asyncio
import struct
from typing import Final, cast

import structlog
from aiormq import exceptions as amqp
from aiormq.connection import exception_by_code
from pamqp import frame as frames
from pamqp.base import Frame
from pamqp.commands import Connection as Command
from pamqp.common import FieldTable
from pamqp.constants import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_MAX_SIZE, FRAME_METHOD
from pamqp.exceptions import PAMQPException
from pamqp.header import ProtocolHeader
from pamqp.heartbeat import Heartbeat

from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.domain.errors import BrokerUnavailable

log = structlog.get_logger(__name__)

CLOSE_SECONDS: Final = 3.0
"""A broker that does not answer a close is not waited for."""
MOST_CHANNELS: Final = 65535
BEATS_MISSED: Final = 3
RUSH_READS: Final = 8
RUSH_SECONDS: Final = 0.001
"""So many reads that bring deliveries, each at most so long after the one before was dealt with: that is a rush. A
longer pause halves their number."""
REST_SECONDS: Final = 0.002
"""In a rush the socket is read this often at most: what came meanwhile is dealt with, sent on, proven and settled
together. That halves what an event costs here, and in the broker (1,000 queues, RabbitMQ 3.10)."""

_FRAME: Final = struct.Struct(">BHI")
_AROUND: Final = _FRAME.size + 1
_DELIVER: Final = struct.pack(">HH", 60, 60)
_BEAT: Final = Heartbeat().marshal()


class Connection(asyncio.Protocol):
    """One connection; `opening.open_connection` makes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done once the socket is closed."""
        self.is_closed = False
        """It is closed, or about to be."""
        self.reason: Exception = amqp.AMQPConnectionError("the broker closed the socket without a word")
        """Why it is closed."""
        self.server: FieldTable = {}
        """What the broker said of itself: `product`, `version`."""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Frame] | None = None  # to the hand-shake
        self._channels: dict[int, Channel] = {}
        self._free: list[int] = []
        self._most_channels = MOST_CHANNELS
        self._largest_frame = FRAME_MAX_SIZE
        self._buffer = bytearray()
        self._needed = _AROUND  # bytes in the buffer before a frame is whole
        self._out: list[bytes] = []
        self._heard = loop.time()
        self._delivered = False  # by what is being read
        self._rush = 0
        self._ready = 0.0  # since when there is nothing more to do
        self._silence_seconds = 0.0
        self._beat_seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # Hand-shake

    async def log_in(
        self,
        properties: Command.StartOk,
        vhost: str,
        *,
        mechanism: str,
        heartbeat_seconds: int,
        most_channels: int = MOST_CHANNELS,
    ) -> None:
        """Shake hands; `properties` answers the broker's Start. Raises AMQPError."""
        self._answer = self.loop.create_future()
        self.write(ProtocolHeader().marshal())
        start = await self._next()
        if not isinstance(start, Command.Start):
            raise amqp.ConnectionUnexpectedFrame(f"{start.name} instead of Start")
        self.server = start.server_properties
        if mechanism not in start.mechanisms.split():
            raise amqp.AuthenticationError(start.mechanisms, mechanism)
        tune = await self._ask(properties)
        if not isinstance(tune, Command.Tune):
            raise amqp.ConnectionUnexpectedFrame(f"{tune.name} instead of Tune")
        self._largest_frame = tune.frame_max or FRAME_MAX_SIZE
        self._most_channels = min(tune.channel_max or MOST_CHANNELS, most_channels)
        self.send(
            0,
            Command.TuneOk(
                channel_max=self._most_channels, frame_max=self._largest_frame, heartbeat=heartbeat_seconds
            ),
        )
        opened = await self._ask(Command.Open(virtual_host=vhost))
        if not isinstance(opened, Command.OpenOk):
            raise amqp.ConnectionUnexpectedFrame(f"{opened.name} instead of OpenOk")
        self._answer = None
        if heartbeat_seconds:
            self._silence_seconds = (heartbeat_seconds + 1) * BEATS_MISSED
            self._beat_seconds = max(1, heartbeat_seconds // 2)
            self._timer = self.loop.call_later(self._beat_seconds, self._beat)

    async def _ask(self, method: Frame) -> Frame:
        self._answer = self.loop.create_future()
        self.send(0, method)
        return await self._next()

    async def _next(self) -> Frame:
        assert self._answer is not None
        return await self._answer

    # What its user calls

    @property
    def has_room(self) -> bool:
        """Whether the broker allows another channel."""
        return not self.is_closed and (bool(self._free) or len(self._channels) < self._most_channels)

    def channel(self) -> Channel:
        """A new channel, which is opened by the way. Raises BrokerUnavailable."""
        if self.is_closed:
            raise BrokerUnavailable("no connection to the broker")
        if self._free:
            number = self._free.pop()
        elif (number := len(self._channels) + 1) > self._most_channels:
            raise BrokerUnavailable(f"it allows {self._most_channels} channels on a connection (channel_max)")
        channel = self._channels[number] = Channel(self, number)
        return channel

    def end(self) -> None:
        """Close; the broker is given CLOSE_SECONDS to say good-bye."""
        if not self.is_closed:
            self._hang_up(
                amqp.ConnectionClosed(200, "closed here"),
                Command.Close(reply_code=200, reply_text="", class_id=0, method_id=0),
            )

    async def close(self) -> None:
        """Close, and wait until it is; errors do not matter any more."""
        self.end()
        try:
            await asyncio.wait([self.closed], timeout=CLOSE_SECONDS)
        finally:
            self.abort()
        await asyncio.wait([self.closed])

    def abort(self) -> None:
        """Drop the connection without a word; what was not sent yet is lost."""
        if self._transport is not None:
            self._transport.abort()

    # What channels call

    def write(self, data: bytes) -> None:
        """Send, together with all that is written in this turn of the event loop."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(data)

    def send(self, number: int, method: Frame) -> None:
        """Write a method."""
        self.write(frames.marshal(method, number))

    def forget(self, channel: Channel) -> None:
        """Its number is free."""
        if self._channels.get(channel.number) is channel:
            del self._channels[channel.number]
            self._free.append(channel.number)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open, TLS included."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed."""
        if error is not None and not self.is_closed:
            self.reason = error
        self._lose(self.reason)
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Read every frame that is whole; keep the beginning of the next one."""
        began = self._heard = self.loop.time()
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._needed:
                return
            data = bytes(buffer)
            buffer.clear()
        try:
            read = self._read(data)
        except amqp.AMQPError as error:
            self._refuse(error)
        except (PAMQPException, struct.error, IndexError, ValueError) as error:
            syntax = amqp.ConnectionSyntaxError("a frame that cannot be read")
            syntax.__cause__ = error
            self._refuse(syntax)
        else:
            if read < len(data):
                buffer += data[read:]
            if self._delivered:
                self._delivered = False
                self._keep_pace(began)

    def _keep_pace(self, began: float) -> None:
        """Rest, in a rush. `began`: when the deliveries that were dealt with just now came."""
        rush = began - self._ready < RUSH_SECONDS
        self._rush = min(self._rush + 1, 2 * RUSH_READS) if rush else self._rush // 2
        if self._rush < RUSH_READS or self._transport is None or self._transport.is_closing():
            self._ready = self.loop.time()
        else:
            self._transport.pause_reading()
            self.loop.call_later(REST_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._ready = self.loop.time()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _read(self, data: bytes) -> int:
        """Read what is whole. Returns how many bytes that were."""
        at, end = 0, len(data)
        while end - at >= _AROUND:
            kind, number, size = _FRAME.unpack_from(data, at)
            if size + _AROUND > self._largest_frame:
                raise self._not_amqp(data, at)
            start = at + _FRAME.size
            stop = start + size
            if stop >= end:
                self._needed = size + _AROUND
                return at
            if data[stop] != FRAME_END:
                raise self._not_amqp(data, at)
            if kind == FRAME_METHOD and not data.startswith(_DELIVER, start):
                self._method(number, frames.unmarshal(data[at : stop + 1])[2])
            elif (channel := self._channels.get(number)) is not None:
                if kind == FRAME_METHOD:
                    self._delivered = True
                    channel.deliver(data, start + 4)
                elif kind == FRAME_HEADER:
                    channel.header(data, start, stop)
                elif kind == FRAME_BODY:
                    channel.body(data[start:stop])
                else:
                    raise self._not_amqp(data, at)
            elif kind not in (FRAME_HEARTBEAT, FRAME_METHOD, FRAME_HEADER, FRAME_BODY):
                raise self._not_amqp(data, at)
            at = stop + 1
        self._needed = _AROUND
        return at

    def _not_amqp(self, data: bytes, at: int) -> Exception:
        if data[at : at + 4] == b"AMQP":
            return amqp.IncompatibleProtocolError("the broker speaks another version of AMQP")
        return amqp.ConnectionFrameError("what came is no frame, or too large a one")

    def _method(self, number: int, method: object) -> None:
        assert isinstance(method, Frame)
        if number:
            if (channel := self._channels.get(number)) is not None:
                channel.answered(method)
            return
        match method:
            case Command.Close():
                refused = method.reply_code == 403  # where else: it may also name the user
                why = (
                    amqp.ProbableAuthenticationError(method.reply_text)
                    if refused
                    else exception_by_code(method)
                )
                self._hang_up(why, Command.CloseOk())
                self._close_socket()
            case Command.CloseOk():
                self._close_socket()
            case Command.Blocked() | Command.Unblocked():
                pass  # nothing is published here
            case _ if self._answer is not None and not self._answer.done():
                self._answer.set_result(method)
            case _:
                raise amqp.ConnectionUnexpectedFrame(f"{method.name} was not asked for")

    # Endings

    def _beat(self) -> None:
        if self.loop.time() - self._heard > self._silence_seconds:
            self._lose(TimeoutError("the broker is silent"))
            self.abort()
            return
        self.write(_BEAT)
        self._timer = self.loop.call_later(self._beat_seconds, self._beat)

    def _refuse(self, error: Exception) -> None:
        """The broker does not keep to the protocol."""
        log.warning("amqp_violated", error=str(error))
        code = next((code for kind, code in _CODES if isinstance(error, kind)), 501)
        self._hang_up(error, Command.Close(reply_code=code, reply_text="", class_id=0, method_id=0))
        self._close_socket()

    def _hang_up(self, reason: Exception, last: Frame) -> None:
        """Say the last word, and give the broker a moment."""
        if not self.is_closed:
            self.send(0, last)
            self._lose(reason)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(CLOSE_SECONDS, self.abort)

    def _close_socket(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _lose(self, reason: Exception) -> None:
        if self.is_closed:
            return
        self.is_closed, self.reason = True, reason
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(reason)
        for channel in list(self._channels.values()):
            channel.lost(reason)


_CODES: Final = (
    (amqp.ConnectionSyntaxError, 502),
    (amqp.ConnectionUnexpectedFrame, 505),
)
