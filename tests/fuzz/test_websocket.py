"""Whatever frames a client sends: its connection lives or ends with a documented code, and nobody else notices."""

import asyncio
import base64
import json
import struct
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.close_codes import CloseCode
from tests.fuzz.messages import JSON, LITERALS, SECRET_TEXT
from tests.fuzz.subject import TIMEOUT, Subject, examples
from tests.service.harness.world import PATIENT, token

pytestmark = pytest.mark.timeout(TIMEOUT)

PROTOCOL_ERROR, NOT_UTF8 = 1002, 1007
CODES: Final = {*map(int, CloseCode), PROTOCOL_ERROR, NOT_UTF8}
"""What a connection may end with: the contract's codes, and RFC 6455's for what is no WebSocket frame."""
LIMIT_SECONDS: Final = 20.0
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
SIZES: Final = (
    *(0, 1, 125, 126, 127, 4095, 4096, 4097, 16_383, 16_384, 16_385, 65_535, 65_536),
    *(2**31, 2**63 - 1, 2**64 - 1),
)


def frame(
    opcode: int, payload: bytes, *, bits: int = 0b1000, masked: bool = True, size: int | None = None
) -> bytes:
    """A frame: `bits` are FIN and the reserved ones, `size` is what it says it holds."""
    size = len(payload) if size is None else size
    mask = 0x80 if masked else 0
    head = struct.pack("!B", bits << 4 | opcode)
    if size < 126:
        head += struct.pack("!B", mask | size)
    elif size < 2**16:
        head += struct.pack("!BH", mask | 126, size)
    else:
        head += struct.pack("!BQ", mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload


def said(value: object) -> bytes:
    """A text frame with JSON."""
    return frame(TEXT, json.dumps(value).encode())


PAYLOADS: Final = st.one_of(
    st.binary(max_size=130),
    st.sampled_from(SIZES[:11]).map(lambda size: b"x" * size),
    st.sampled_from(SIZES[:11]).map(lambda size: b'"' + b"\xc3\xa4" * (size // 2) + b'"'),
    st.text(max_size=40).map(lambda words: words.encode(errors="surrogatepass")),
    JSON.map(lambda value: json.dumps(value).encode(errors="surrogatepass")),
    LITERALS,
    st.sampled_from([b"ping", b"PING", b"ping\n", b"\xff", b"\0"]),
    st.sampled_from([b"\x03\xe8", b"\x03\xed", b"\x0f\xa0bye", b"\xff\xff\xff"]),  # what a close says
)
TYPES: Final[st.SearchStrategy[object]] = st.sampled_from(
    ["ping", "ack", "auth", "pong", "connect", "", None, 1, [], SECRET_TEXT]
)
WORDS: Final = st.one_of(
    st.text(max_size=20),
    st.none(),
    st.integers(),
    st.sampled_from(["x" * 129, "x" * 4100, "\0", token(PATIENT), token(7), SECRET_TEXT, "a.b.c", "ä" * 100]),
)
FRAMES: Final = st.one_of(
    st.builds(
        frame,
        st.integers(0, 15),
        PAYLOADS,
        bits=st.sampled_from([0b1000, 0b1000, 0b0000, 0b1100, 0b1010, 0b1001, 0b0111]),
        masked=st.sampled_from([True, True, True, False]),
        size=st.none() | st.none() | st.sampled_from(SIZES),
    ),
    st.builds(frame, st.sampled_from([TEXT, CLOSE, PING, PONG]), PAYLOADS),
    st.fixed_dictionaries(
        {}, optional={"type": TYPES, "event_id": WORDS, "token": WORDS, SECRET_TEXT: JSON}
    ).map(said),
    st.binary(max_size=20),
)


@given(frames=st.lists(FRAMES, max_size=12))
@example(frames=[frame(TEXT, b'"\xff"')])
@example(frames=[frame(PING, b"x" * 126)])
@example(frames=[frame(TEXT, b"{", bits=0), frame(PING, b"between"), frame(0, b"}")])
@example(frames=[frame(TEXT, b"", size=2**64 - 1)])
@examples(60)
async def test_a_client_that_is_known_hurts_itself_alone(subject: Subject, frames: list[bytes]) -> None:
    async with subject.unharmed():
        assert await ending(subject, f"?token={token(PATIENT)}", frames) in CODES | {None}


@given(frames=st.lists(FRAMES, max_size=6), name=st.binary(max_size=40), offered=st.binary(max_size=40))
@example(frames=[said({"type": "auth", "token": token(PATIENT)}), said([])], name=b"tablet", offered=b"")
@example(frames=[], name=b"\xff\0%00", offered=b"bearer.\xff")
@examples(40)
async def test_a_stranger_hurts_itself_alone(
    subject: Subject, frames: list[bytes], name: bytes, offered: bytes
) -> None:
    query = "?client_id=" + "".join(f"%{byte:02x}" for byte in name)
    protocols = bytes(byte for byte in offered if byte not in b"\r\n\0")
    async with subject.unharmed():
        assert await ending(subject, query, frames, protocols) in CODES | {None}


async def ending(subject: Subject, query: str, frames: list[bytes], offered: bytes = b"") -> int | None:
    """Shake hands, send these, leave. Returns the code that the server ended with, None if it did not say one."""
    host, _, port = subject.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET /ws/{subject.diagnosis}{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n"
    protocols = b"Sec-WebSocket-Protocol: " + offered + b"\r\n" if offered else b""
    try:
        writer.write(head.encode() + protocols + b"\r\n")
        async with asyncio.timeout(LIMIT_SECONDS):
            status = await reader.readline()
            if b" 101 " not in status:
                assert b" 400 " in status, status
                return None
            await reader.readuntil(b"\r\n\r\n")
            with suppress(OSError):  # it may have hung up already
                for each in frames:
                    writer.write(each)
                    await writer.drain()
                writer.write_eof()
            return close_code(await everything(reader))
    finally:
        writer.transport.abort()


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server hangs up, politely or not."""
    received = b""
    with suppress(OSError):
        while chunk := await reader.read(65_536):
            received += chunk
    return received


def close_code(received: bytes) -> int | None:
    """The code of the last frame, if that is a close; every byte before it belongs to a whole frame."""
    code = None
    while received:
        opcode, size, start = received[0] & 0xF, received[1] & 0x7F, 2
        assert received[0] >> 4 == 0b1000, "the server neither fragments nor uses reserved bits"
        if size == 126:
            size, start = struct.unpack_from("!H", received, 2)[0], 4
        payload, received = received[start : start + size], received[start + size :]
        assert len(payload) == size
        assert code is None, "nothing follows a close"
        if opcode == CLOSE:
            code = struct.unpack_from("!H", payload)[0]
    return code
