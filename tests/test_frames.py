"""Server frames, read back by wsproto: what is written is what an independent implementation reads."""

import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode

from realtime_service.frames import ping_frame, pong_frame, text_frame


def read(data: bytes) -> tuple[Opcode, bytes, bool]:
    """The one frame that `data` is."""
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(data)
    opcode, payload, finished = None, b"", False
    for frame in protocol.received_frames():
        opcode = opcode or frame.opcode
        assert not isinstance(frame.payload, tuple)
        payload += frame.payload.encode() if isinstance(frame.payload, str) else frame.payload
        finished = frame.message_finished
    assert opcode is not None
    return opcode, payload, finished


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_a_text_of_any_length_is_one_whole_message(size: int) -> None:
    payload = b"x" * size
    assert read(text_frame(payload)) == (Opcode.TEXT, payload, True)


def test_text_is_utf8() -> None:
    payload = "früh 💊 \N{ZERO WIDTH JOINER}".encode()
    assert read(text_frame(payload)) == (Opcode.TEXT, payload, True)


@pytest.mark.parametrize("size", [0, 1, 125])
def test_pings_and_pongs_carry_up_to_125_bytes(size: int) -> None:
    payload = bytes(range(size))
    assert read(ping_frame(payload)) == (Opcode.PING, payload, True)
    assert read(pong_frame(payload)) == (Opcode.PONG, payload, True)


def test_frames_written_together_stay_apart() -> None:
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(text_frame(b"one") + ping_frame(b"7") + text_frame(b"two"))
    frames = [(frame.opcode, frame.payload) for frame in protocol.received_frames()]
    assert frames == [(Opcode.TEXT, "one"), (Opcode.PING, b"7"), (Opcode.TEXT, "two")]
