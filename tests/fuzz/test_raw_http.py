"""Bytes on the HTTP port: a 4xx or a closed connection, never a 500, and nothing of it in the log."""

import asyncio
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.messages import SECRET_TEXT
from tests.fuzz.subject import TIMEOUT, Subject, examples
from tests.service.harness.world import PATIENT, token

pytestmark = pytest.mark.timeout(TIMEOUT)

LIMIT_SECONDS: Final = 20.0
SECRET: Final = SECRET_TEXT.encode()

METHODS: Final = st.sampled_from(
    [b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"CONNECT", b"TRACE", b"get", b"P\xc3\xa4T", b"", b"PRI"]
)
TARGETS: Final = st.one_of(
    st.sampled_from(
        [
            b"/", b"*", b"/livez", b"/readyz", b"/metrics", b"/openapi.json", b"/ws/status", b"/ws/1",
            b"/ws/%ff", b"/ws/\xff", b"/ws/" + b"9" * 300, b"/ws/broadcast-feedback-update", b"//",
            b"/../livez", b"http://[::1/livez", b"http://x:y/livez", b"http://x:99999999/livez", b"x:443",
            b"/%", b"/%00", b"/livez?%zz=%", b"/metrics?name[]=%ff", b"/livez#x", b"", b"/" + b"x" * 30_000,
            b"/livez?" + b"&" * 2000, b"/metrics?" + b"name[]=x&" * 500, b"http://\xff/",
            b"/ws/1?token=\xff",
        ]
    ),
    st.binary(max_size=30).map(lambda some: b"/" + some),
)  # fmt: skip
VERSIONS: Final = st.sampled_from(
    [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.", b"ICY", b""]
)
NAMES: Final = st.one_of(
    st.sampled_from(
        [
            b"Host", b"Authorization", b"Content-Length", b"Transfer-Encoding", b"Content-Encoding",
            b"Content-Type", b"Connection", b"Upgrade", b"Expect", b"Accept", b"Accept-Encoding", b"Range",
            b"If-None-Match", b"Cookie", b"Idempotency-Key", b"traceparent", b"Sec-WebSocket-Key",
            b"Sec-WebSocket-Version", b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions",
            b"X-Forwarded-For", b"If-Modified-Since", b"TE", b"Trailer",
        ]
    ),
    st.binary(max_size=10),
)  # fmt: skip
CONTENTS: Final = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=20).map(lambda some: b"Bearer " + some),
    st.sampled_from(
        [
            b"", b"\xff", b"chunked", b"chunked, chunked", b"gzip", b"deflate", b"br", b"zstd", b"identity",
            b"x, gzip", b"0", b"5", b"-1", b"+5", b"1e3", b"5, 5", b"9" * 40, b"0x5", b"close", b"upgrade",
            b"Upgrade, close", b"websocket", b"h2c", b"13", b"AAAAAAAAAAAAAAAAAAAAAA==", b"\xc3\xa4" * 12,
            b"AAAA", b"100-continue", b"101-continue", b"*/*", b"application/json",
            b"application/openmetrics-text; version=1.0.0; escaping=\xff", b"application/json; charset=\xff",
            b"text/plain; q=x", b'"a", W/"b', b'"', b"W/", b"bytes=0-",
            b"permessage-deflate; server_max_window_bits=99", b"bearer.\xff, realtime.v1", b"x" * 9000,
            b"x" * 25_000, b"a=b; \xff=c", b"Bearer " + token(PATIENT).encode(), b"Bearer a.b.c",
            b"Basic \xff", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01", SECRET,
        ]
    ),
)  # fmt: skip
BODIES: Final = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhel", b"xyz\r\n", b"-5\r\nhello\r\n",
            b"fffffffffffffffff\r\n", b"5;x=\xff\r\nhello\r\n0\r\n\r\n", b"0\r\nA: b\r\n\r\n",
            b"5\nhello\n0\n\n", b"\x1f\x8b\x08\x00", b"{}", b'{"diagnosis_id": "' + SECRET + b'"}',
            b"x" * 70_000, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
            b"10000\r\n" + b"x" * 65_536 + b"\r\n0\r\n\r\n",
        ]
    ),
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Nearly requests."""
    line = b" ".join(draw(st.tuples(METHODS, TARGETS, VERSIONS)))
    headers = [name + b": " + value for name, value in draw(st.lists(st.tuples(NAMES, CONTENTS), max_size=6))]
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]))
    return end.join([line, *headers, b"", b""]) + draw(BODIES)


def handshake(key: bytes) -> bytes:
    """A WebSocket handshake with this key."""
    headers = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    return b"GET /ws/1 HTTP/1.1\r\nHost: x\r\n" + headers + key + b"\r\n\r\n"


@given(sent=st.lists(requests() | st.binary(max_size=60), min_size=1, max_size=3).map(b"".join))
@example(sent=handshake("ä".encode() * 12))
@example(sent=handshake(b"\xff" * 24))
@example(sent=b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n")
@example(sent=b"GET /ws/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
@example(sent=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
@examples(80)
async def test_bytes_are_answered_or_hung_up_on(subject: Subject, sent: bytes) -> None:
    async with subject.unharmed():
        for status in statuses(await answers(subject, sent)):
            assert 100 <= status < 500, status


async def answers(subject: Subject, sent: bytes) -> bytes:
    """Send this and no more; what comes until the server hangs up."""
    host, _, port = subject.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    received = b""
    try:
        with suppress(OSError):
            writer.write(sent)
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(LIMIT_SECONDS):
                while chunk := await reader.read(65_536):
                    received += chunk
    finally:
        writer.transport.abort()
    return received


def statuses(received: bytes) -> list[int]:
    """The statuses of all answers; a body could only look like one on purpose."""
    lines = [line for line in received.split(b"\r\n") if line.startswith((b"HTTP/1.0 ", b"HTTP/1.1 "))]
    assert lines or not received, received[:200]
    return [int(line.split(b" ")[1]) for line in lines]
