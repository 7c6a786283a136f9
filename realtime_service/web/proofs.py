"""Proofs are read where they arrive.

A PONG, or an `ack` frame, is the answer to most of what a client is sent, and aiohttp 3.14 brings each to the handler
through a queue and a task: more work than all else that is done for its event. This stands before aiohttp's parser and
takes out those that prove something; every other byte goes on as it came. Acknowledgements that came together are told
together: the last one mostly says what those before it say. (RFC 6455 §5.2 for the shape of a frame; §5.5: control
frames are never fragmented, and at most 125 bytes long.)
"""

from functools import lru_cache
from typing import Final, Protocol

from aiohttp import web
from aiohttp._websocket.helpers import websocket_mask
from pydantic_core import from_json

_PONG: Final = 0x8A  # FIN, opcode 10, no reserved bits
_TEXT: Final = 0x81  # FIN, opcode 1
_MASKED: Final = 0x80
_LARGEST: Final = 125  # of a control frame, and of any whose length is in its second byte
_HEADER: Final = 6  # of a short masked frame: two bytes and the mask
_SAME: Final = 64
"""So many `ack` frames are not read anew: all clients of a room send the same."""


class Parser(Protocol):
    """What aiohttp hands the bytes of a connection to."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes. Returns whether it will take no more, and what it did not take."""

    def feed_eof(self) -> None:
        """The connection is closed."""


class Proving(Protocol):
    """Whoever is told of proofs first, and says whether it used one up."""

    def proof(self, payload: bytes) -> bool:
        """A PONG came."""

    def acknowledged(self, events: list[str]) -> bool:
        """Short `ack` frames came together, of these events' ids."""


class ProvingWebSocket(web.WebSocketResponse):
    """A WebSocket whose proofs are taken out of what it receives."""

    __slots__ = ("_first",)

    def prove_to(self, proving: Proving) -> None:
        """Tell of proofs from now on; before, they are received like any other frame."""
        self._first.proving = proving

    def let_go(self) -> None:
        """It is closed: forget what leads back here, or all of it would wait for the garbage collector.

        A client that left without a word leaves exceptions in aiohttp 3.14, which know where they were raised.
        """
        self._first.proving = None
        for error in (self.exception(), self._reader and self._reader.exception()):
            if isinstance(error, BaseException):
                error.__traceback__ = error.__context__ = None

    def _post_start(self, request: web.BaseRequest, *rest: object) -> None:
        protocol = request.protocol
        early, protocol._message_tail = protocol._message_tail, b""  # what came with the handshake
        super()._post_start(request, *rest)  # type: ignore[arg-type]
        # Of no use any more, and together some 2 KiB: what reads requests, and where they wait for each other.
        protocol._parser = None
        protocol._messages = ()  # type: ignore[assignment]
        protocol._payload_parser = self._first = ProofsFirst(protocol._payload_parser)
        if early:
            self._first.feed_data(early)


class ProofsFirst:
    """A parser before another, which gets whatever is no whole PONG or `ack` frame, or one that nobody used."""

    __slots__ = ("_after", "_header", "_rest", "proving")

    def __init__(self, after: Parser, proving: Proving | None = None) -> None:
        self.proving = proving
        self._after = after
        self._rest = 0
        """Bytes to come of a frame that the other parser got the beginning of."""
        self._header = b""
        """The beginning of a frame, too short to know its length."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes, in whatever pieces they come; of a proof that comes in two, the other parser gets both."""
        if self._header:
            data, self._header = self._header + data, b""
        elif self.proving and not self._rest and (events := _only_acknowledged(data)):
            if self.proving.acknowledged(events):
                return False, b""
            if len(events) == 1:
                return self._after.feed_data(data)
        end = len(data)
        begun = 0  # of what is not handed on yet
        at = self._rest  # where a frame begins
        while at < end:
            size = _size(data, at)
            if size is None:
                self._header = data[at:]
                end = at
                break
            if at + size <= end and _may_prove(data, at, size) and self._use(data, at, size):
                if begun < at:
                    self._after.feed_data(data[begun:at])
                begun = at + size
            at += size
        self._rest = at - end
        return self._after.feed_data(data[begun:end]) if begun < end else (False, b"")

    def feed_eof(self) -> None:
        """The connection is closed."""
        self._after.feed_eof()

    def _use(self, data: bytes, at: int, size: int) -> bool:
        if self.proving is None:
            return False
        payload = _payload(data, at, at + size)
        if data[at] == _PONG:
            return self.proving.proof(payload)
        try:
            return self.proving.acknowledged([_acknowledged(payload)])
        except ValueError:
            return False


def _only_acknowledged(data: bytes) -> list[str]:
    """The event ids of these frames; none unless they are whole `ack` frames and nothing else."""
    events = []
    at, end = 0, len(data)
    try:
        while at < end:
            stop = at + _HEADER + data[at + 1] - _MASKED
            if data[at] != _TEXT or data[at + 1] > _MASKED + _LARGEST or not at + _HEADER <= stop <= end:
                return []
            events.append(_acknowledged(_payload(data, at, stop)))
            at = stop
    except (IndexError, ValueError):
        return []
    return events


def _may_prove(data: bytes, at: int, size: int) -> bool:
    return data[at] in (_PONG, _TEXT) and bool(data[at + 1] & _MASKED) and size <= _HEADER + _LARGEST


@lru_cache(maxsize=_SAME)
def _acknowledged(text: bytes) -> str:
    """The event id of an `ack` frame. Raises ValueError for anything else, of which nothing is kept here."""
    frame = from_json(text)
    if not isinstance(frame, dict) or frame.get("type") != "ack":
        raise ValueError
    event = frame.get("event_id")
    if not isinstance(event, str):
        raise ValueError
    return event


def _size(data: bytes, at: int) -> int | None:
    """The length of the frame that begins there, header included; None: too little of it is here."""
    if len(data) < at + 2:
        return None
    second = data[at + 1]
    length, header = second & 0x7F, 2
    if length == 126:
        header = 4
    elif length == 127:
        header = 10
    if header > 2:
        if len(data) < at + header:
            return None
        length = int.from_bytes(data[at + 2 : at + header], "big")
    return header + (4 if second & _MASKED else 0) + length


def _payload(data: bytes, at: int, stop: int) -> bytes:
    """The payload of a short masked frame (RFC 6455 §5.3)."""
    payload = bytearray(data[at + _HEADER : stop])
    websocket_mask(data[at + 2 : at + _HEADER], payload)
    return bytes(payload)
