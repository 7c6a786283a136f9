"""AMQP 0-9-1 by hand: bytes go out as they are, also those that every client library refuses to write.

The broker is the judge of what is AMQP: a publish returns after its confirm, or raises `Refused` where the broker
closed the channel or the connection over it. Then the message was not published, and a new connection is needed.
"""

import asyncio
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import unquote, urlsplit

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END: Final = b"\xce"
FRAME_MAX: Final = 131_072
"""RabbitMQ's own bound: a header frame is one frame, so that properties fit into it or nowhere."""
LIMIT_SECONDS: Final = 20.0

START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK = (10, 11), (10, 30), (10, 31), (10, 40), (10, 41)
CONNECTION_CLOSE, CHANNEL_OPEN, CHANNEL_OPEN_OK, CHANNEL_CLOSE = (10, 50), (20, 10), (20, 11), (20, 40)
DECLARE, DECLARE_OK, PUBLISH, GET, GET_OK, GET_EMPTY = (
    (50, 10),
    (50, 11),
    (60, 40),
    (60, 70),
    (60, 71),
    (60, 72),
)
BIND, BIND_OK, ACK, CONFIRM_SELECT, CONFIRM_SELECT_OK = (50, 20), (50, 21), (60, 80), (85, 10), (85, 11)

Method = tuple[int, int]


class Refused(Exception):
    """The broker closed the channel or the connection, and said why."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that `basic.get` took."""

    properties: bytes
    """Property flags and list, as they came."""
    body: bytes


def short(text: bytes) -> bytes:
    """A short string."""
    return struct.pack("!B", len(text)) + text


def long(text: bytes) -> bytes:
    """A long string."""
    return struct.pack("!I", len(text)) + text


class RawAmqp:
    """One connection with one channel in confirm mode. It dies of what the broker refuses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.dead = False

    @classmethod
    async def open(cls, amqp_url: str) -> Self:
        """Connect and log in."""
        url = urlsplit(amqp_url)
        made = cls(*await asyncio.open_connection(url.hostname, url.port))
        user, password = (unquote(part or "guest").encode() for part in (url.username, url.password))
        made._writer.write(b"AMQP\x00\x00\x09\x01")
        await made._next()
        login = long(b"\0" + user + b"\0" + password)
        made._method(0, START_OK, struct.pack("!I", 0) + short(b"PLAIN") + login + short(b"en_US"))
        await made._answer(TUNE)
        made._method(0, TUNE_OK, struct.pack("!HIH", 1, FRAME_MAX, 0))
        made._method(0, OPEN, short(unquote(url.path[1:] or "/").encode()) + b"\0\0")
        await made._answer(OPEN_OK)
        made._method(1, CHANNEL_OPEN, b"\0")
        await made._answer(CHANNEL_OPEN_OK)
        made._method(1, CONFIRM_SELECT, b"\0")
        await made._answer(CONFIRM_SELECT_OK)
        return made

    async def publish(self, exchange: bytes, key: bytes, properties: bytes, body: bytes) -> None:
        """Publish; `properties` are the property flags and the property list. Raises Refused."""
        self._method(1, PUBLISH, b"\0\0" + short(exchange) + short(key) + b"\0")
        self._frame(HEADER, 1, struct.pack("!HHQ", 60, 0, len(body)) + properties)
        for start in range(0, len(body), FRAME_MAX - 8):
            self._frame(BODY, 1, body[start : start + FRAME_MAX - 8])
        await self._answer(ACK)

    async def get(self, queue: str) -> Taken | None:
        """Take the first message of a queue, acknowledged; None when there is none."""
        self._method(1, GET, b"\0\0" + short(queue.encode()) + b"\1")
        if await self._answer(GET_OK, GET_EMPTY) == GET_EMPTY:
            return None
        _, header = await self._next()
        size = struct.unpack_from("!Q", header, 4)[0]
        body = b""
        while len(body) < size:
            body += (await self._next())[1]
        return Taken(header[12:], body)

    async def depth(self, queue: str) -> int:
        """Messages that are ready in a queue. Raises Refused where there is none of this name."""
        self._method(1, DECLARE, b"\0\0" + short(queue.encode()) + b"\1" + struct.pack("!I", 0))
        await self._answer(DECLARE_OK)
        return int(struct.unpack_from("!I", self._last, 5 + len(queue.encode()))[0])

    async def own_queue(self, name: str) -> None:
        """Declare a queue that is gone with this connection."""
        self._method(1, DECLARE, b"\0\0" + short(name.encode()) + b"\4" + struct.pack("!I", 0))
        await self._answer(DECLARE_OK)

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue."""
        names = b"".join(short(name.encode()) for name in (queue, exchange, key))
        self._method(1, BIND, b"\0\0" + names + b"\0" + struct.pack("!I", 0))
        await self._answer(BIND_OK)

    async def close(self) -> None:
        """Cut the connection."""
        self.dead = True
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def _method(self, channel: int, method: Method, arguments: bytes) -> None:
        self._frame(METHOD, channel, struct.pack("!HH", *method) + arguments)

    def _frame(self, kind: int, channel: int, payload: bytes) -> None:
        self._writer.write(struct.pack("!BHI", kind, channel, len(payload)) + payload + FRAME_END)

    async def _answer(self, *wanted: Method) -> Method:
        """The next method, which is one of those wanted. Raises Refused."""
        kind, self._last = await self._next()
        method: Method = struct.unpack_from("!HH", self._last)
        if method in wanted and kind == METHOD:
            return method
        await self.close()
        if method not in (CONNECTION_CLOSE, CHANNEL_CLOSE):
            raise AssertionError(f"RabbitMQ answered {method}, and not {wanted}")
        code, length = struct.unpack_from("!HB", self._last, 4)
        raise Refused(f"{code} {self._last[7 : 7 + length].decode(errors='replace')}")

    async def _next(self) -> tuple[int, bytes]:
        """Kind and payload of the next frame that is no heartbeat. Raises Refused where there is none."""
        kind = HEARTBEAT
        payload = b""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                while kind == HEARTBEAT:
                    kind, _, size = struct.unpack("!BHI", await self._reader.readexactly(7))
                    payload = (await self._reader.readexactly(size + 1))[:-1]
        except (asyncio.IncompleteReadError, ConnectionError) as end:
            await self.close()
            raise Refused("the broker hung up") from end
        return kind, payload
