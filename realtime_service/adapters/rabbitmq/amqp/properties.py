"""The properties of a delivery, read by hand: pamqp would take longer than all the rest.

Law: properties that cannot be read make a bad event like any other, not the end of the connection. The broker would
hand the same message out again on the next one, and so on for ever: one publisher's mistake would stop every diagnosis.
Timestamps beyond the year 9999 (nanoseconds will do), text that is no UTF-8, headers of an unknown type or nested too
deeply cannot be read.
"""

import struct
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from pamqp import decode
from pamqp.common import FieldTable

UNREADABLE: Final = "x-unreadable-properties"
"""The one header of a delivery whose properties cannot be read; `reading.declared_id` refuses it."""

_FLAGS: Final = struct.Struct(">H")
_LENGTH: Final = struct.Struct(">I")
_NUMBER: Final = struct.Struct(">q")


class Properties:
    """What a publisher said about a message; None: nothing."""

    content_type: str | None = None
    headers: FieldTable | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    message_type: str | None = None
    app_id: str | None = None


def read_properties(data: bytes, at: int, end: int) -> Properties:
    """Read property flags and list, which begin at `at`; those that cannot be read are marked UNREADABLE."""
    properties = Properties()
    try:
        (flags,) = _FLAGS.unpack_from(data, at)
        at += 2
        for name, read in _list_of(flags):
            value, at = read(data, at)
            setattr(properties, name, value)
        if at > end:
            raise ValueError("the properties are longer than their frame")
    except Exception:  # ValueError, OverflowError, OSError, RecursionError …
        properties = Properties()
        properties.headers = {UNREADABLE: True}
    return properties


_Read = Callable[[bytes, int], tuple[Any, int]]


def _octet(data: bytes, at: int) -> tuple[int, int]:
    return data[at], at + 1


def _short_string(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(), end


def _timestamp(data: bytes, at: int) -> tuple[datetime, int]:
    return decode.timestamp(data[at : at + 8])[1], at + 8


def _headers(data: bytes, at: int) -> tuple[FieldTable, int]:
    """A table. Of text and 64-bit numbers it is read here, any other by pamqp."""
    table: FieldTable = {}
    next_at = at + 4
    end = next_at + _LENGTH.unpack_from(data, at)[0]
    while next_at < end:
        name, next_at = _short_string(data, next_at)
        kind, next_at = data[next_at], next_at + 1
        if kind == ord("S"):
            start = next_at + 4
            next_at = start + _LENGTH.unpack_from(data, next_at)[0]
            try:
                table[name] = data[start:next_at].decode()
            except UnicodeDecodeError:
                table[name] = data[start:next_at]
        elif kind == ord("l"):
            table[name] = _NUMBER.unpack_from(data, next_at)[0]
            next_at += 8
        else:
            return decode.field_table(data[at:end])[1], end
    if next_at > end:
        raise ValueError("a header is longer than their table")
    return table, end


_LIST: Final[tuple[tuple[str, _Read], ...]] = (
    ("content_type", _short_string),
    ("content_encoding", _short_string),
    ("headers", _headers),
    ("delivery_mode", _octet),
    ("priority", _octet),
    ("correlation_id", _short_string),
    ("reply_to", _short_string),
    ("expiration", _short_string),
    ("message_id", _short_string),
    ("timestamp", _timestamp),
    ("message_type", _short_string),
    ("user_id", _short_string),
    ("app_id", _short_string),
    ("cluster_id", _short_string),
)
"""In the order of their flags, from the highest bit."""


@lru_cache(maxsize=256)
def _list_of(flags: int) -> tuple[tuple[str, _Read], ...]:
    if flags & 0b11:
        raise ValueError("there are no such properties")
    return tuple(field for bit, field in enumerate(_LIST) if flags & 0x8000 >> bit)
