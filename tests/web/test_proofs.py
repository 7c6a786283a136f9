"""web.proofs: proofs are taken out of the stream, and nothing else, in whatever pieces it comes."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_service.web.proofs import ProofsFirst

PONG, PING, TEXT, BINARY, CLOSE = 0x8A, 0x89, 0x81, 0x82, 0x88


class After:
    """aiohttp's parser, which only notes what it gets."""

    def __init__(self) -> None:
        self.got = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        assert data
        self.got += data
        return False, b""

    def feed_eof(self) -> None:
        self.got += b"EOF"


class Uses:
    """Uses PONGs, or not, and acknowledgements of known events; notes which it was asked about."""

    def __init__(self, *known: str, pongs: bool = True) -> None:
        self.pongs: list[bytes] = []
        self.acks: list[str] = []
        self._known = known
        self._uses_pongs = pongs

    def proof(self, payload: bytes) -> bool:
        self.pongs.append(payload)
        return self._uses_pongs

    def acknowledged(self, events: list[str]) -> bool:
        self.acks.append(" ".join(events))
        return events[-1] in self._known


def frame(first: int, payload: bytes, *, masked: bool = True) -> bytes:
    size = len(payload)
    if size < 126:
        header = bytes((first, size | (0x80 if masked else 0)))
    elif size < 1 << 16:
        header = bytes((first, 126 | (0x80 if masked else 0))) + size.to_bytes(2, "big")
    else:
        header = bytes((first, 127 | (0x80 if masked else 0))) + size.to_bytes(8, "big")
    if not masked:
        return header + payload
    mask = os.urandom(4)
    return header + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


frames = st.builds(
    frame,
    st.sampled_from([PONG, PONG, PING, TEXT, BINARY, CLOSE, 0x01, 0x80, 0x0A, 0xCA]),
    st.one_of(st.binary(max_size=130), st.integers(60_000, 70_000).map(lambda n: b"x" * n)),
    masked=st.sampled_from([True, True, True, False]),
)


def test_whole_pongs_are_used_and_the_rest_goes_on_in_order() -> None:
    used = Uses()
    after = After()
    parser = ProofsFirst(after, used)
    text, binary = frame(TEXT, b"ping"), frame(BINARY, b"\0" * 300)
    parser.feed_data(frame(PONG, b"a.1") + text + frame(PONG, b"") + frame(PONG, b"b" * 125) + binary)
    assert used.pongs == [b"a.1", b"", b"b" * 125]
    assert after.got == text + binary
    parser.feed_eof()
    assert after.got.endswith(b"EOF")


def test_a_pong_that_nobody_uses_goes_on() -> None:
    after = After()
    pong = frame(PONG, b"unsolicited")
    ProofsFirst(after, Uses(pongs=False)).feed_data(pong)
    assert after.got == pong


def test_what_looks_like_a_pong_inside_another_frame_is_none() -> None:
    after = After()
    inner = frame(TEXT, frame(PONG, b"a.1"), masked=False)
    parser = ProofsFirst(after, Uses())
    for cut in range(len(inner)):
        parser.feed_data(inner[:cut] or b"")
        parser.feed_data(inner[cut:])
    assert after.got == inner * len(inner)


@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_in_whatever_pieces_it_comes_no_byte_is_lost_or_moved(whole: list[bytes], sizes: list[int]) -> None:
    used = Uses()
    after = After()
    parser = ProofsFirst(after, used)
    stream, at, turn = b"".join(whole), 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)] if turn < 2000 else len(stream)
        parser.feed_data(stream[at : at + size])
        at, turn = at + size, turn + 1
    kept = iter(whole)
    rest = after.got
    taken = 0
    for each in kept:
        if rest.startswith(each):
            rest = rest[len(each) :]
        else:
            assert each[0] == PONG
            taken += 1
    assert rest == b""
    assert taken == len(used.pongs)


@pytest.mark.parametrize(
    "text",
    [
        b"ping",
        b"[1]",
        b"{",
        b"\xff",
        b'{"type": "ping"}',
        b'{"type": "ack"}',
        b'{"type": "ack", "event_id": 1}',
        b'{"type": "auth", "event_id": "a"}',
    ],
)
def test_text_that_is_no_acknowledgement_is_not_asked_about(text: bytes) -> None:
    after, asked = After(), Uses()
    alone = frame(TEXT, text)
    data = ack("a") + alone + ack("b")
    ProofsFirst(after, asked).feed_data(alone)
    assert asked.acks == []
    ProofsFirst(after, asked).feed_data(data)
    assert asked.acks == ["a", "b"]
    assert after.got == alone + data


def ack(event: str) -> bytes:
    return frame(TEXT, json.dumps({"type": "ack", "event_id": event}).encode())


@pytest.mark.parametrize("proves", [True, False])
def test_an_acknowledgement_that_proves_something_is_used_up(proves: bool) -> None:
    after, asked = After(), Uses(*["a"] * proves)
    text = ack("a")
    ProofsFirst(after, asked).feed_data(text)
    assert asked.acks == ["a"]
    assert after.got == (b"" if proves else text)


def test_acknowledgements_that_come_together_are_told_together() -> None:
    after, asked = After(), Uses("a", "b", "c")
    ProofsFirst(after, asked).feed_data(ack("a") + ack("b") + ack("c"))
    assert asked.acks == ["a b c"]
    assert after.got == b""


def test_where_the_last_one_proves_nothing_each_is_asked_about() -> None:
    after, asked = After(), Uses("a", "b")
    unknown = ack("unknown")
    ProofsFirst(after, asked).feed_data(ack("a") + ack("b") + unknown)
    assert asked.acks == ["a b unknown", "a", "b", "unknown"]
    assert after.got == unknown


def test_what_else_comes_between_acknowledgements_goes_on_in_order() -> None:
    after, used = After(), Uses("a", "b")
    ping, in_two = frame(TEXT, b"ping"), ack("c")
    parser = ProofsFirst(after, used)
    parser.feed_data(ack("a") + ping + frame(PONG, b"1") + ack("b") + in_two[:9])
    parser.feed_data(in_two[9:] + ping)
    assert used.acks == ["a", "b"]
    assert used.pongs == [b"1"]
    assert after.got == ping + in_two + ping
