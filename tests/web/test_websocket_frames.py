"""What clients say: keep-alives, nonsense, too much of it, and how they are answered."""

import json
from collections.abc import Callable

import pytest
from wsproto.events import Pong
from wsproto.frame_protocol import Opcode

from contracts.close_codes import REASONS, CloseCode
from contracts.messages import MAX_AUTH_FRAME_BYTES, MAX_FRAME_BYTES
from tests.web.replica import Replica, Visitors, token

NONSENSE = {
    "no JSON": "hello",
    "nothing": "",
    "half an object": '{"type":',
    "two objects": '{"type":"ping"}{"type":"ping"}',
    "an array": "[]",
    "a number": "1",
    "a string": '"ping"',
    "null": "null",
    "no type": "{}",
    "an unknown type": '{"type":"subscribe"}',
    "a type of the server's": '{"type":"connect"}',
    "a type that is no text": '{"type":1}',
    "a type that is a table": '{"type":{"a":1}}',
    "an ack of nothing": '{"type":"ack"}',
    "an ack of a number": '{"type":"ack","event_id":1}',
    "an ack of too long an id": json.dumps({"type": "ack", "event_id": "x" * 129}),
    "an auth without token": '{"type":"auth"}',
    "NaN": '{"type":"ack","event_id":NaN}',
    "nested deeply": "[" * 2000 + "]" * 2000,
    "half a surrogate": '{"type":"\\ud800"}',
    "a zero byte": "\0",
    "binary": b"\x00\x01",
    "a binary ping": b"ping",
}


@pytest.mark.parametrize("frame", ["ping", '{"type":"ping"}', '{"type": "ping", "more": [1]}'])
async def test_a_ping_is_answered_with_pong(replica: Replica, visitors: Visitors, frame: str) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    await client.send(frame)
    pong = await client.frame()
    assert pong.pop("timestamp").endswith("Z")
    assert pong == {"type": "pong", "diagnosis_id": diagnosis, "data": {}}


async def test_a_websocket_ping_is_answered_with_its_payload(replica: Replica, visitors: Visitors) -> None:
    client = await visitors.raw(replica.diagnoses.add())
    await client.send(Opcode.PING, b"p" * 125)
    while not isinstance(event := await client.event(), Pong):
        pass
    assert event.payload == b"p" * 125


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_is_answered_and_the_connection_lives(
    replica: Replica, visitors: Visitors, nonsense: str | bytes
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    await client.send(nonsense)
    error = await client.frame()
    assert error.pop("timestamp").endswith("Z")
    assert (error["type"], error["diagnosis_id"]) == ("error", diagnosis)
    assert error["data"]["code"] == "bad_frame"
    await replica.feedback(diagnosis, 1)
    assert await client.numbers(1) == [1]


async def test_an_error_does_not_quote_the_frame(replica: Replica, visitors: Visitors) -> None:
    client = await visitors.welcomed(replica.diagnoses.add())
    await client.send('{"type":"auth","token":["sesame"],"sesame":"sesame"}')
    assert "sesame" not in json.dumps(await client.frame())


@pytest.mark.parametrize("payload", [b"\xff", b'{"type":"\xed\xa0\x80"}', b"\xc3"])
async def test_text_that_is_no_utf8_ends_the_connection(
    replica: Replica, visitors: Visitors, payload: bytes
) -> None:
    """RFC 6455 §8.1."""
    client = await visitors.raw(replica.diagnoses.add())
    await client.message()
    await client.send(Opcode.TEXT, payload)
    assert (await client.closed())[0] == 1007


@pytest.mark.parametrize(
    "frame",
    [
        b"\x83\x80" + bytes(4),  # a reserved opcode
        b"\xc1\x80" + bytes(4),  # a reserved bit: no extension was agreed on
        b"\x09\x80" + bytes(4),  # a PING in pieces
        b"\x80\x80" + bytes(4),  # the rest of nothing
        b"\x89\xfe\x00\x7e" + bytes(4 + 126),  # a PING of 126 bytes
        b"\x88\x81" + bytes(4) + b"x",  # half a close code
    ],
)
async def test_what_is_no_websocket_ends_the_connection(
    replica: Replica, visitors: Visitors, frame: bytes
) -> None:
    """RFC 6455 §5.2, §5.4, §5.5."""
    client = await visitors.raw(replica.diagnoses.add())
    await client.message()
    await client.write(frame)
    assert (await client.closed())[0] == 1002


async def test_a_frame_in_pieces_is_one_frame(replica: Replica, visitors: Visitors) -> None:
    client = await visitors.raw(replica.diagnoses.add())
    await client.message()
    await client.send(Opcode.TEXT, b'{"type":', final=False)
    await client.send(Opcode.PING, b"in between")
    await client.send(Opcode.CONTINUATION, b'"ping"}')
    assert (await client.message())["type"] == "pong"


@pytest.mark.parametrize("kind", [str, str.encode])
async def test_a_frame_of_4_kib_is_read_and_a_larger_one_ends_the_connection(
    replica: Replica, visitors: Visitors, kind: Callable[[str], str | bytes]
) -> None:
    client = await visitors.welcomed(replica.diagnoses.add())
    await client.send(kind("x" * MAX_FRAME_BYTES))
    assert (await client.frame())["type"] == "error"
    await client.send(kind("x" * (MAX_FRAME_BYTES + 1)))
    assert await client.closed() == (1009, REASONS[CloseCode.FRAME_TOO_LARGE])


async def test_the_size_of_a_frame_is_counted_in_bytes(replica: Replica, visitors: Visitors) -> None:
    client = await visitors.welcomed(replica.diagnoses.add())
    await client.send("é" * (MAX_FRAME_BYTES // 2 + 1))
    assert (await client.closed())[0] == 1009


async def test_a_large_frame_of_another_type_ends_the_connection(
    replica: Replica, visitors: Visitors
) -> None:
    client = await visitors.welcomed(replica.diagnoses.add())
    await client.send({"type": "ping", "padding": "x" * MAX_FRAME_BYTES})
    assert (await client.closed())[0] == 1009


async def test_an_auth_frame_may_have_16_kib(replica: Replica, visitors: Visitors) -> None:
    client = await visitors.welcomed(replica.diagnoses.add())
    renewal = json.dumps({"type": "auth", "token": token(), "padding": ""})
    await client.send(renewal.replace('""', f'"{"x" * (MAX_AUTH_FRAME_BYTES - len(renewal))}"'))
    await client.send("ping")
    assert (await client.frame())["type"] == "pong"
    await client.send(renewal.replace('""', f'"{"x" * (MAX_AUTH_FRAME_BYTES - len(renewal) + 1)}"'))
    assert (await client.closed())[0] == 1009


async def test_a_frame_without_end_ends_the_connection_before_it_is_read(
    replica: Replica, visitors: Visitors
) -> None:
    client = await visitors.raw(replica.diagnoses.add())
    await client.message()
    await client.write(b"\x81\xff" + (2**62).to_bytes(8, "big") + bytes(4) + b"x")
    assert (await client.closed())[0] == 1009


async def test_a_frame_in_endless_pieces_ends_the_connection(replica: Replica, visitors: Visitors) -> None:
    client = await visitors.raw(replica.diagnoses.add())
    await client.message()
    await client.send(Opcode.TEXT, b"x" * 4096, final=False)
    for _ in range(4):
        await client.send(Opcode.CONTINUATION, b"x" * 4096, final=False)
    assert (await client.closed())[0] == 1009


async def test_a_flood_ends_the_connection(replica: Replica, visitors: Visitors) -> None:
    client = await visitors.welcomed(replica.diagnoses.add())
    for _ in range(150):
        await client.socket.send("ping")
    assert await client.closed() == (4429, REASONS[CloseCode.TOO_MANY_FRAMES])


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG, Opcode.BINARY])
async def test_a_flood_of_any_frames_ends_the_connection(
    replica: Replica, visitors: Visitors, opcode: Opcode
) -> None:
    client = await visitors.raw(replica.diagnoses.add())
    await client.message()
    for _ in range(150):
        await client.send(opcode, b"1.1")
    assert (await client.closed())[0] == 4429


async def test_a_pong_that_is_repeated_counts_like_any_other_frame(
    replica: Replica, visitors: Visitors
) -> None:
    client = await visitors.raw(replica.diagnoses.add())
    payload = await client.ping()
    for _ in range(150):
        await client.pong(payload)
    assert (await client.closed())[0] == 4429


async def test_frames_that_prove_events_are_not_counted(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.raw(diagnosis)
    acknowledging = await visitors.welcomed(diagnosis, receipts="ack")
    await client.message()
    await client.pong(client.pings.pop())
    for number in range(200):
        await replica.feedback(diagnosis, number)
        [event] = await acknowledging.events(1)
        await acknowledging.send({"type": "ack", "event_id": event["event_id"]})
        assert (await client.message())["data"]["feedback_id"] == number
        await client.pong(client.pings.pop() if client.pings else await client.ping())
    await acknowledging.ping()
    await client.send(Opcode.TEXT, b"ping")
    assert (await client.message())["type"] == "pong"
