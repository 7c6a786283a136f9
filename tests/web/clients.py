"""Clients of other people's making: `websockets`, which does what apps do, and wsproto, which does what it is told."""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
)

LIMIT_SECONDS: Final = 20.0

Ending = tuple[int | None, str]
"""Close code and reason; 1006 for a socket that was cut."""


class Client:
    """An app's connection: reads JSON frames, answers PINGs by itself."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    @classmethod
    async def open(cls, url: str, **arguments: Any) -> Self:
        """Connect; `arguments` are those of `websockets.connect`."""
        chosen = {
            "ping_interval": None,
            "close_timeout": 2,
            "proxy": None,
            "max_size": None,
            "max_queue": None,
            **arguments,
        }
        return cls(await connect(url, **chosen))

    async def frame(self) -> Any:
        """The next frame, decoded. Raises ConnectionClosed."""
        async with asyncio.timeout(LIMIT_SECONDS):
            return json.loads(await self.socket.recv())

    async def welcome(self) -> Any:
        """`data` of the next frame, which is the welcome."""
        frame = await self.frame()
        assert frame["type"] == "connect", frame
        return frame["data"]

    async def events(self, count: int) -> list[Any]:
        """The next frames, all of them events."""
        frames = [await self.frame() for _ in range(count)]
        assert all(frame["type"].endswith("_update") for frame in frames), frames
        return frames

    async def numbers(self, count: int) -> list[int]:
        """What the next events carry; see `Replica.feedback`."""
        return [event["data"]["feedback_id"] for event in await self.events(count)]

    async def send(self, frame: object) -> None:
        """Send an object as JSON, or text and bytes as they are."""
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def ping(self) -> None:
        """Return once a `ping` frame was answered: everything sent before has been handled."""
        await self.send("ping")
        while (await self.frame())["type"] != "pong":
            pass

    async def closed(self) -> Ending:
        """Read until the server ends the connection; how it does."""
        try:
            while True:
                await self.frame()
        except ConnectionClosed as end:
            return (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")

    async def leave(self) -> None:
        """Close politely."""
        await self.socket.close()


class RawClient:
    """A connection on which nothing happens by itself: no PING is answered, no close returned."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: WSConnection
    ) -> None:
        self.protocol = protocol
        self.pings: list[bytes] = []
        """Payloads of the PINGs read so far."""
        self._reader = reader
        self._writer = writer
        self._events: list[Event] = []

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        receive_buffer: int | None = None,
    ) -> Self:
        """Connect and shake hands. Raises ConnectionRefusedError with the HTTP status if the server would not."""
        link = socket.socket()
        link.setblocking(False)
        if receive_buffer is not None:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", port))
        # With a small receive buffer nothing must be read ahead either.
        limit = receive_buffer or 2**16
        client = cls(
            *await asyncio.open_connection(sock=link, limit=limit), WSConnection(ConnectionType.CLIENT)
        )
        extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        request = Request(
            host=f"127.0.0.1:{port}", target=path, subprotocols=list(subprotocols), extra_headers=extra
        )
        await client.write(client.protocol.send(request))
        answer = await client.event()
        while isinstance(answer, RejectConnection | RejectData):
            if isinstance(answer, RejectConnection):
                await client.abort()
                raise ConnectionRefusedError(answer.status_code)
            answer = await client.event()
        assert isinstance(answer, AcceptConnection), answer
        return client

    async def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def send(self, opcode: int, payload: bytes, *, final: bool = True, masked: bool = True) -> None:
        """Send one frame, good or bad."""
        await self.write(frame(opcode, payload, final=final, masked=masked))

    async def pong(self, payload: bytes) -> None:
        await self.write(self.protocol.send(Pong(payload=payload)))

    async def event(self) -> Event:
        """What the server sends next. Raises EOFError when it sends no more."""
        while not self._events:
            async with asyncio.timeout(LIMIT_SECONDS):
                data = await self._reader.read(2**16)
            if not data:
                raise EOFError
            self.protocol.receive_data(data)
            self._events += self.protocol.events()
        event = self._events.pop(0)
        if isinstance(event, Ping):
            self.pings.append(bytes(event.payload))
        return event

    async def ping(self) -> bytes:
        """The payload of the next PING; frames before it are read over."""
        while not isinstance(event := await self.event(), Ping):
            assert isinstance(event, Message | Pong), event
        return bytes(event.payload)

    async def message(self) -> Any:
        """The next text frame, decoded; PINGs before it go to `pings`, unanswered."""
        text = ""
        while True:
            event = await self.event()
            if isinstance(event, Message):
                text += str(event.data)
                if event.message_finished:
                    return json.loads(text)
            assert isinstance(event, Message | Ping | Pong), event

    async def closed(self) -> Ending:
        """Read until the server says good-bye; how it does."""
        try:
            while not isinstance(event := await self.event(), CloseConnection):
                pass
        except (EOFError, ConnectionError):
            return (1006, "")
        return (event.code, event.reason or "")

    async def abort(self) -> None:
        """Cut the socket."""
        self._writer.transport.abort()


def frame(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True) -> bytes:
    """A client's frame (RFC 6455 §5.2), masked with zeros so that it can be read in a trace."""
    first = opcode | (0x80 if final else 0)
    mask = 0x80 if masked else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, mask | len(payload))
    elif len(payload) < 2**16:
        head = struct.pack("!BBH", first, mask | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, mask | 127, len(payload))
    return head + (bytes(4) if masked else b"") + payload
