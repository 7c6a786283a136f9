"""What upstream tasks might publish by mistake, and other programs on purpose: bodies, properties, where to.

Bodies of events carry `"diagnosis_id": DIAGNOSIS`, and so do messages between replicas: what is drawn here does not
know yet which one it is. Each body is made unique when it is published: by that its fate is found out.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import strategies as st

from contracts.replicas import MESSAGES
from tests.fuzz.properties import KEYS, VALUES, table, text, write

SECRET_TEXT: Final = "c0nf1dential"
"""Stands in payloads, and never in a log."""
DIAGNOSIS: Final = 4_815_162_342
"""Stands for the diagnosis that is watched."""
OUTER: Final = (b"diagnosis.recommendation", b"diagnosis.effectiveness", b"diagnosis.feedback")
WATCHED: Final = b"<watched>"
"""The routing key of the diagnosis that is watched."""
NODE: Final = b"<node>"
"""The replica's node queue."""


@dataclass(frozen=True)
class Sent:
    """A message to publish."""

    body: bytes
    exchange: bytes = OUTER[2]
    key: bytes = WATCHED
    properties: dict[str, Any] = field(default_factory=dict)
    """See `properties.write`."""
    raw: bytes | None = None
    """Property flags and list as they are, instead."""

    @property
    def written(self) -> bytes:
        """Property flags and list."""
        return write(**self.properties) if self.raw is None else self.raw


RARELY: Final = st.integers(0, 19).map(lambda number: number == 7)  # Hypothesis is fond of bounds

# JSON, and what is nearly that

NUMBERS: Final = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 5, 2**63 - 1, 2**63, 2**64, 10**400, -(10**4299), 0.5, 1.0, -0.0, 1e308, 5e-324]),
)
SCALARS: Final = st.none() | st.booleans() | NUMBERS | st.text(max_size=20)
JSON: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
LITERALS: Final = st.sampled_from(
    [
        b"NaN", b"-Infinity", b"1e999", b"-1e999", b"1E400", b"9" * 5000, b"0x10", b"1.", b"01", b"-", b"'a'",
        b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\x00"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\x"', b'"',
        b"[" * 150 + b"]" * 150, b"[" * 199 + b"]" * 199, b"[" * 260 + b"]" * 260, b"[" * 30_000,
        b'{"a":' * 150 + b"1" + b"}" * 150, b'{"":1,"":2}', b"// a comment\n1", b"\xef\xbb\xbf1", b"",
    ]
)  # fmt: skip
"""Written into a body in the place of a value."""
_PLACE: Final = '"<place>"'


def _text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


def _fields(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"diagnosis_id": st.just(DIAGNOSIS), **values})


_RATIO: Final = st.floats(0, 1) | st.integers(0, 1)
_ID: Final = st.integers(0, 2**63 - 1)
GOOD: Final = {
    OUTER[0]: _fields(
        old_data=st.dictionaries(st.text(max_size=6), JSON, max_size=3),
        new_data=st.dictionaries(st.text(max_size=6), JSON, max_size=3),
        reason=st.text(max_size=20).map(lambda words: SECRET_TEXT + words),
    ),
    OUTER[1]: _fields(recommendation_id=_ID, effectiveness=_RATIO, confidence=_RATIO, sample_size=_ID),
    OUTER[2]: _fields(feedback_id=_ID, rating=st.integers(1, 5), effectiveness=_RATIO),
}
"""Bodies that are events, or nearly: `JSON` may hold NaN."""


@st.composite
def _nearly(draw: st.DrawFn, good: st.SearchStrategy[dict[str, Any]]) -> bytes:
    """An object with one field odd, missing, or more than there should be."""
    body = draw(good)
    name = draw(st.sampled_from([*body, SECRET_TEXT]))
    if draw(st.booleans()):
        body[name] = draw(SCALARS | JSON)
    elif draw(st.booleans()):
        body.pop(name, None)
    else:
        body[name] = "<place>"
        return _text(body).replace(_PLACE.encode(), draw(LITERALS), 1)
    return _text(body)


@st.composite
def _mutilated(draw: st.DrawFn, good: st.SearchStrategy[dict[str, Any]]) -> bytes:
    """JSON with some bytes cut out, and others put there."""
    body = _text(draw(good))
    start = draw(st.integers(0, len(body)))
    return body[:start] + draw(st.binary(max_size=6)) + body[start + draw(st.integers(0, 6)) :]


def bodies(good: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    """Good ones, bad ones, and bytes."""
    large = st.integers(60_000, 200_000).map(lambda size: SECRET_TEXT.encode() + b"x" * size)
    return st.one_of(
        good.map(_text),
        good.map(_text),
        good.map(_text),
        _nearly(good),
        _mutilated(good),
        st.binary(max_size=64).map(lambda some: SECRET_TEXT.encode() + some),
        st.binary(max_size=64),
        JSON.map(_text),
        LITERALS,
        large,
    )


# Properties

_SHORT: Final = st.one_of(
    st.binary(max_size=16),
    st.text(max_size=16).map(lambda words: words.encode(errors="surrogatepass")),
    st.sampled_from([b"", b"\0", b"\xff" * 255, b"x" * 255, "é".encode() * 127, SECRET_TEXT.encode()]),
)
UNIQUE: Final = b"<unique>"
"""A message id that nothing else has: what comes under a known one has been sent already."""
_MESSAGE_ID: Final = st.sampled_from(
    [UNIQUE, UNIQUE, UNIQUE, b"", b"x" * 129, b"a\nb", b"\xff", "\u2028".encode()]
)
_STAMP: Final = st.sampled_from([0, 1, 2**31, 253_402_300_799, 253_402_300_800, 2**62, 2**63, 2**64 - 1])
_IDS: Final = st.sampled_from([100, 101, 0, 1]).map(lambda user: b"l" + user.to_bytes(8, "big"))
_DEATHS: Final = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {b"queue": VALUES | KEYS.map(text), b"exchange": VALUES | st.sampled_from(OUTER).map(text)}
    ).map(lambda death: b"A" + (b"F" + table(death)).__len__().to_bytes(4, "big") + b"F" + table(death)),
)
OURS: Final = {
    b"x-death": _DEATHS,
    b"x-origin-exchange": st.sampled_from([*OUTER, b"", b"\xff", SECRET_TEXT.encode()]).map(text) | VALUES,
    b"x-origin-routing-key": VALUES,
    b"x-park-reason": VALUES,
    b"x-reply-to": st.sampled_from([b"", b"x" * 300, "ä".encode() * 200, b"\xff", b"nobody"]).map(text)
    | VALUES,
    b"x-unreadable-properties": VALUES,
    b"user_id": _IDS | VALUES | st.sampled_from([b"100", b"0100", b"1" * 30, "٣".encode()]).map(text),
    b"exclude_connection_id": VALUES | KEYS.map(text),
    b"timestamp_in_ms": VALUES | st.sampled_from([b"l" + b"\x7f" * 8, b"l" + b"\xff" * 8]),
    b"traceparent": VALUES,
    SECRET_TEXT.encode(): VALUES,
}
"""Headers that mean something to the service, and what they might hold."""
_LARGE: Final = st.sampled_from([1000, 60_000, 66_000, 130_700, 130_950]).map(lambda size: text(b"y" * size))
HEADERS: Final = st.one_of(
    st.fixed_dictionaries({}, optional=OURS),
    st.dictionaries(KEYS.filter(lambda key: key.upper() not in (b"CC", b"BCC")), VALUES, max_size=4),
    st.dictionaries(st.just(b"large"), _LARGE, min_size=1),
)
_PROPERTIES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "headers": HEADERS.map(table),
    "message_id": _MESSAGE_ID,
    "timestamp": _STAMP | st.integers(0, 2**64 - 1),
    "type": _SHORT | st.sampled_from([b"feedback_update", b"provision", b"relay"]),
    "content_type": _SHORT,
    "content_encoding": _SHORT,
    "delivery_mode": st.sampled_from([1, 2]),
    "priority": st.integers(0, 255),
    "correlation_id": _SHORT,
    "reply_to": _SHORT,
    "app_id": _SHORT,
    "cluster_id": _SHORT,
    "expiration": st.just(b"3600000"),
}
_REFUSED: Final = st.sampled_from(
    [("delivery_mode", 0), ("expiration", b"soon"), ("expiration", b"-1"), ("user_id", b"somebody")]
)
"""What RabbitMQ itself looks at, and closes the channel for."""


@st.composite
def properties(draw: st.DrawFn) -> dict[str, Any]:
    """Some of them; more would hide each other's faults."""
    names = draw(st.lists(st.sampled_from(list(_PROPERTIES)), max_size=4, unique=True))
    drawn = {name: draw(_PROPERTIES[name]) for name in names}
    return drawn | dict([draw(_REFUSED)]) if draw(RARELY) else drawn


RAW: Final = st.tuples(st.binary(min_size=2, max_size=2), st.binary(max_size=30)).map(b"".join)


# Where to

_WRONG_KEYS: Final = st.one_of(
    st.binary(max_size=255),
    st.binary(max_size=20).map(lambda some: b"diagnosis." + some),
    st.sampled_from(
        [b"diagnosis.\xff", b"diagnosis.0", b"diagnosis.01", b"diagnosis.9" * 20, b"\xff" * 255, b"#"]
    ),
).filter(lambda key: not key.removeprefix(b"diagnosis.").isdigit())


@st.composite
def events(draw: st.DrawFn) -> Sent:
    """Anything, to where events go, and to where they do not."""
    kind = draw(st.sampled_from(OUTER))
    exchange, key = draw(
        st.one_of(
            st.tuples(st.just(kind), st.just(WATCHED)),
            st.tuples(st.sampled_from(OUTER), _WRONG_KEYS),
            st.sampled_from(
                [
                    (b"", WATCHED),
                    (b"", b"diagnosis.unrouted"),
                    (b"diagnosis.unrouted", b""),
                    (OUTER[0], WATCHED),
                ]
            ),
        )
    )
    body = draw(bodies(GOOD[kind]))
    if draw(RARELY):
        return Sent(body, exchange, key, raw=draw(RAW))
    return Sent(body, exchange, key, draw(properties()))


# Between replicas

_SENDERS: Final = st.sampled_from(
    ["realtime.node.x", "realtime.node.y", "x" * 300, "ä" * 200, "", "\0", SECRET_TEXT]
)
_WORDS: Final = st.text(max_size=8) | st.just(SECRET_TEXT)
_COUNTS: Final = st.dictionaries(
    st.sampled_from([str(DIAGNOSIS), "0", "-1", "x", "9" * 30]), NUMBERS, max_size=2
)
_RELAYED: Final = st.fixed_dictionaries(
    {
        "event_id": _WORDS,
        "message": st.sampled_from(["{}", "", SECRET_TEXT]) | st.text(max_size=8),
        "epoch": st.integers(-5, 2**40) | st.sampled_from([2**63, 2**70]),
        "sequence": st.integers(-5, 20) | st.just(2**70),
    },
    optional={"user_id": st.sampled_from([100, 7, -1]), "exclude_connection_id": _WORDS},
)
SAID: Final = st.fixed_dictionaries(
    {"sender": _SENDERS, "diagnosis_id": st.just(DIAGNOSIS)},
    optional={
        "kind": st.sampled_from(list(MESSAGES)),
        "ask_id": _WORDS,
        "everybody": st.booleans(),
        "epoch": st.integers(-5, 2**40),
        "sequence": st.integers(-5, 20),
        "consuming": st.booleans(),
        "leading": st.booleans(),
        "events": st.lists(_RELAYED, max_size=3),
        "proven_ids": st.lists(_WORDS, max_size=3),
        "event": _RELAYED,
        "event_ids": st.lists(_WORDS, max_size=3),
        "device_key": _WORDS,
        "connection_id": _WORDS,
        "connected_at": NUMBERS,
        "replica": _WORDS,
        "leaving": st.booleans(),
        "connections": _COUNTS,
        "unsettled": _COUNTS,
    },
).map(lambda said: {name: value for name, value in said.items() if value is not None})
"""A message of any kind, and all its fields: whoever reads it takes what is of its kind."""


@st.composite
def words(draw: st.DrawFn) -> Sent:
    """Anything, to where replicas speak to each other."""
    exchange, key = draw(
        st.sampled_from([(b"", NODE), (b"realtime.nodes", b"replicas"), (b"realtime.nodes", WATCHED)])
    )
    chosen = draw(properties())
    if draw(st.integers(0, 4)):
        chosen["type"] = draw(
            st.sampled_from([*(kind.encode() for kind in MESSAGES), b"provisioned", b"news"])
        )
    return Sent(draw(bodies(SAID)), exchange, key, chosen)


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """Requests to provision, good and bad."""
    body = draw(
        st.sampled_from([str(DIAGNOSIS).encode(), b"0", b"-1", b"", b"\xff", b"9" * 30, b"77", b"1\n"])
        | st.binary()
    )
    chosen = draw(properties()) | {"type": b"provision"}
    return Sent(body, b"", b"diagnosis.unrouted", chosen)
