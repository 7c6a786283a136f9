"""AMQP properties as bytes, good and bad: every field type, nested, and what no client library would write.

Law: what is drawn here is well-formed for RabbitMQ as far as it looks; whether it goes in, it says itself.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final

from hypothesis import strategies as st

from tests.fuzz.raw_amqp import long, short

FLAGS: Final = {
    "content_type": 15,
    "content_encoding": 14,
    "headers": 13,
    "delivery_mode": 12,
    "priority": 11,
    "correlation_id": 10,
    "reply_to": 9,
    "expiration": 8,
    "message_id": 7,
    "timestamp": 6,
    "type": 5,
    "user_id": 4,
    "app_id": 3,
    "cluster_id": 2,
}
"""Bit of each property, in the order in which they are written (AMQP 0-9-1 §4.2.6.1)."""


def write(**properties: bytes | int) -> bytes:
    """Flags and list: an int is `delivery_mode`, `priority` or `timestamp`, `headers` is a `table`."""
    flags, written = 0, b""
    for name, bit in FLAGS.items():
        if (value := properties.get(name)) is None:
            continue
        flags |= 1 << bit
        if isinstance(value, int):
            written += struct.pack("!Q" if name == "timestamp" else "!B", value)
        else:
            written += value if name == "headers" else short(value)
    return struct.pack("!H", flags) + written


def table(fields: Mapping[bytes, bytes]) -> bytes:
    """A field table; each value begins with its type."""
    return long(b"".join(short(key) + value for key, value in fields.items()))


def array(values: list[bytes]) -> bytes:
    """A field array with its type."""
    return b"A" + long(b"".join(values))


def text(value: bytes) -> bytes:
    """A long string with its type."""
    return b"S" + long(value)


def nested(depth: int, *, tables: bool) -> bytes:
    """A value within many others."""
    value = b"t\1"
    for _ in range(depth):
        value = b"F" + table({b"": value}) if tables else array([value])
    return value


def _packed(kind: bytes, shape: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return values.map(lambda value: kind + struct.pack(f"!{shape}", value))


def _integers(kind: bytes, shape: str) -> st.SearchStrategy[bytes]:
    bits = 8 * struct.calcsize(shape)
    low, high = (0, 2**bits - 1) if shape.isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return _packed(kind, shape, st.sampled_from([low, high, 0, 1]) | st.integers(low, high))


LEAVES: Final = st.one_of(
    st.just(b"V"),
    _packed(b"t", "B", st.integers(0, 255)),
    _integers(b"b", "b"),
    _integers(b"B", "B"),
    _integers(b"s", "h"),
    _integers(b"u", "H"),
    _integers(b"I", "i"),
    _integers(b"i", "I"),
    _integers(b"l", "q"),
    _integers(b"T", "Q"),
    _packed(b"f", "f", st.floats(width=32)),
    _packed(b"d", "d", st.floats()),
    st.tuples(st.integers(0, 255), st.integers(-(2**31), 2**31 - 1)).map(
        lambda d: b"D" + struct.pack("!Bi", *d)
    ),
    st.one_of(
        st.binary(max_size=12), st.text(max_size=12).map(lambda s: s.encode(errors="surrogatepass"))
    ).map(text),
    st.binary(max_size=12).map(lambda value: b"x" + long(value)),
    st.builds(nested, st.integers(0, 600), tables=st.booleans()),
)
"""Values of every type that RabbitMQ knows."""
KEYS: Final = st.binary(max_size=8) | st.text(max_size=4).map(lambda key: key.encode(errors="surrogatepass"))
VALUES: Final = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3).map(array)
        | st.dictionaries(KEYS, inner, max_size=3).map(lambda fields: b"F" + table(fields))
    ),
    max_leaves=6,
)
