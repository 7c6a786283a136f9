"""Server-to-client WebSocket frames as bytes, encoded once for all who get them.

RFC 6455 §5.2: a server's frames are not masked, so every client gets the same bytes. No extension is negotiated.
"""

from typing import Final

_TEXT: Final = 0x81  # FIN, opcode 1
_PING: Final = 0x89
_PONG: Final = 0x8A


def text_frame(payload: bytes) -> bytes:
    """A whole text message; `payload` is UTF-8."""
    return _frame(_TEXT, payload)


def ping_frame(payload: bytes) -> bytes:
    """A PING; at most 125 bytes (RFC 6455 §5.5)."""
    return _frame(_PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """The answer to a PING with this payload."""
    return _frame(_PONG, payload)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
