"""What publishers get wrong is parked with the reason, and the queue goes on: nobody waits behind a bad event."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import pika.exceptions
import pytest

from contracts import topology
from contracts.events import MAX_BODY_BYTES
from contracts.ids import MAX_EVENT_ID
from tests.web.replica import FEEDBACK, Parked, Replica, Visitors, feedback_body


@dataclass(frozen=True)
class Bad:
    """A message that is no event; without a body of its own its body is a good one, but for `changed`."""

    reason: str
    body: bytes | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    exchange: str = FEEDBACK

    def body_for(self, diagnosis: int) -> bytes:
        if self.body is not None:
            return self.body.replace(b"ID", str(diagnosis).encode())
        return json.dumps(feedback_body(diagnosis, **self.changed)).encode()


class Latin1(str):
    """Text as a careless program writes it."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return super().encode("latin-1")


def nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for _ in range(depth):
        table = {"deeper": table}
    return table


BAD: Final[Mapping[str, Bad]] = {
    "no JSON": Bad("not JSON", b'{"diagnosis_id": ID, "feedback_id"'),
    "nothing": Bad("not JSON", b""),
    "no UTF-8": Bad("not JSON", b'{"diagnosis_id": ID, "feedback_id": "\xff"}'),
    "NaN": Bad("not JSON", b'{"diagnosis_id": ID, "feedback_id": 1, "rating": 5, "effectiveness": NaN}'),
    "infinity": Bad(
        "not JSON", b'{"diagnosis_id": ID, "feedback_id": 1, "rating": 5, "effectiveness": Infinity}'
    ),
    "an endless number": Bad("not JSON", b'{"diagnosis_id": ID, "feedback_id": ' + b"9" * 5000 + b"}"),
    "nested without end": Bad(
        "not JSON", b'{"diagnosis_id": ID, "a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    ),
    "an array": Bad("body", b"[ID]"),
    "a string for a number": Bad("rating", changed={"rating": "5"}),
    "a truth value for a number": Bad("rating", changed={"rating": True}),
    "null": Bad("effectiveness", changed={"effectiveness": None}),
    "out of range": Bad("effectiveness", changed={"effectiveness": 1.01}),
    "an id beyond 63 bits": Bad("feedback_id", changed={"feedback_id": 2**63}),
    "fields of another kind": Bad("new_data", exchange="diagnosis.recommendation"),
    "another diagnosis than the key": Bad("another diagnosis", changed={"diagnosis_id": 1}),
    "too large": Bad("larger", changed={"reason": "x" * MAX_BODY_BYTES}),
    "message_id too long": Bad("message_id", properties={"message_id": "x" * (MAX_EVENT_ID + 1)}),
    "message_id not printable": Bad("message_id", properties={"message_id": "a\nb"}),
    "message_id no UTF-8": Bad("cannot be read", properties={"message_id": b"\xff"}),
    "a timestamp in nanoseconds": Bad("cannot be read", properties={"timestamp": 1_795_341_600 * 10**9}),
    "a timestamp without end": Bad("cannot be read", properties={"timestamp": 2**64 - 1}),
    "user_id no number": Bad("user_id", properties={"headers": {"user_id": "alice"}}),
    "user_id true": Bad("user_id", properties={"headers": {"user_id": True}}),
    "user_id negative": Bad("user_id", properties={"headers": {"user_id": -1}}),
    "user_id a table": Bad("user_id", properties={"headers": {"user_id": {"a": 1}}}),
    "exclude_connection_id a number": Bad(
        "exclude_connection_id", properties={"headers": {"exclude_connection_id": 7}}
    ),
    "exclude_connection_id empty": Bad(
        "exclude_connection_id", properties={"headers": {"exclude_connection_id": ""}}
    ),
}

ODD_BUT_GOOD: Final[Mapping[str, Mapping[str, Any]]] = {
    "no properties at all": {},
    "headers of every type": {
        "headers": {
            "text": "früh",
            "bytes": b"\xff\x00",
            "big": 2**63 - 1,
            "negative": -(2**63),
            "decimal": Decimal("-1.5"),
            "date": datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC),
            "none": None,
            "list": [1, "a", None, {"b": [True]}],
            "table": {"a": {"b": {"c": 1}}},
            "": "an empty key",
            "k" * 100: "a long key",
        }
    },
    "headers nested deeply": {"headers": nested(450)},
    "a header that is no UTF-8": {"headers": {"name": Latin1("früh")}},
    "timestamp_in_ms of another type": {"headers": {"timestamp_in_ms": "soon"}},
    "timestamp_in_ms before 1970": {"headers": {"timestamp_in_ms": -1}},
    "timestamp_in_ms beyond all years": {"headers": {"timestamp_in_ms": 2**62}},
    "timestamp zero": {"timestamp": 0},
    "all other properties": {
        "content_type": "text/plain",
        "content_encoding": "rot13",
        "delivery_mode": 1,
        "priority": 9,
        "correlation_id": "x",
        "reply_to": "somewhere",
        "expiration": "60000",
        "type": "provision",
        "app_id": "x" * 255,
    },
    "headers of ours": {
        "headers": {
            "x-death": [{"queue": "diagnosis.1", "exchange": FEEDBACK, "reason": "maxlen"}],
            "x-reply-to": "diagnosis.parked",
            "x-origin-exchange": "diagnosis.recommendation",
            "x-park-reason": "none",
        }
    },
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_event_is_parked_and_those_behind_it_arrive(
    replica: Replica, visitors: Visitors, bad: Bad
) -> None:
    diagnosis = replica.diagnoses.add()
    key, body = f"diagnosis.{diagnosis}", bad.body_for(diagnosis)
    clients = [await visitors.welcomed(diagnosis), await visitors.welcomed(diagnosis, client_id="phone")]
    await replica.feedback(diagnosis, 1)
    await replica.amqp.publish(bad.exchange, key, body, **bad.properties)
    await replica.feedback(diagnosis, 2)
    assert [await client.numbers(2) for client in clients] == [[1, 2], [1, 2]]
    await assert_parked(replica, bad, key, body)
    await replica.nothing_waits(diagnosis)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_event_as_the_first_of_its_diagnosis_is_parked_too(
    replica: Replica, visitors: Visitors, bad: Bad
) -> None:
    diagnosis = replica.diagnoses.add()
    key, body = f"diagnosis.{diagnosis}", bad.body_for(diagnosis)
    await replica.amqp.publish(bad.exchange, key, body, **bad.properties)
    await replica.feedback(diagnosis, 1)
    await assert_parked(replica, bad, key, body)
    client = await visitors.welcomed(diagnosis)
    assert await client.numbers(1) == [1]


@pytest.mark.parametrize("properties", ODD_BUT_GOOD.values(), ids=ODD_BUT_GOOD)
async def test_odd_properties_are_no_reason_to_refuse_an_event(
    replica: Replica, visitors: Visitors, properties: Mapping[str, Any]
) -> None:
    diagnosis = replica.diagnoses.add()
    key = f"diagnosis.{diagnosis}"
    await replica.amqp.publish(FEEDBACK, key, feedback_body(diagnosis, 1), **properties)
    await replica.amqp.has_depth(key, 1)
    client = await visitors.welcomed(diagnosis)
    await replica.amqp.publish(FEEDBACK, key, feedback_body(diagnosis, 2), **properties)
    assert await client.numbers(2) == [1, 2]


@pytest.mark.parametrize("properties", ODD_BUT_GOOD.values(), ids=ODD_BUT_GOOD)
async def test_a_bad_body_with_odd_properties_is_parked(
    replica: Replica, visitors: Visitors, properties: Mapping[str, Any]
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    key, bad = f"diagnosis.{diagnosis}", Bad("not JSON", b"")
    await replica.amqp.publish(FEEDBACK, key, b"", **properties)
    await assert_parked(replica, bad, key, b"")
    await replica.feedback(diagnosis, 1)
    assert await client.numbers(1) == [1]


@pytest.mark.parametrize(
    "key", ["foo", "", "diagnosis", "diagnosis.", "diagnosis.abc", "diagnosis.01", "diagnosis.1.2"]
)
async def test_an_event_with_a_wrong_routing_key_is_parked(replica: Replica, key: str) -> None:
    marker = f"wrong key {replica.diagnoses.add()}"
    await replica.amqp.publish(FEEDBACK, key, feedback_body(1), message_id=marker)
    parked = await replica.amqp.find_parked(lambda message: message.message_id == marker)
    assert (parked.exchange, parked.routing_key) == (FEEDBACK, key)
    assert "routing key" in parked.reason


async def test_an_event_that_was_published_past_the_exchanges_is_parked(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    queue = f"diagnosis.{diagnosis}"
    marker = f"default exchange {diagnosis}"
    await replica.amqp.publish("", queue, feedback_body(diagnosis), message_id=marker)
    parked = await replica.amqp.find_parked(lambda message: message.message_id == marker)
    assert (parked.exchange, parked.routing_key) == ("", queue)
    assert "carries no events" in parked.reason
    await replica.feedback(diagnosis, 1)
    assert await client.numbers(1) == [1]


@pytest.mark.parametrize("exchange", [topology.EVENTS, topology.DEVICES])
async def test_nobody_can_publish_to_the_inner_exchanges(replica: Replica, exchange: str) -> None:
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        await replica.amqp.publish(exchange, "diagnosis.1", feedback_body(1))


async def test_an_event_of_a_diagnosis_that_does_not_exist_waits_for_it(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.unknown()
    await replica.feedback(diagnosis, 1)
    replica.diagnoses.add(id=diagnosis)
    await replica.amqp.has_depth(f"diagnosis.{diagnosis}", 1)
    client = await visitors.welcomed(diagnosis)
    assert await client.numbers(1) == [1]


async def test_a_request_to_provision_nothing_is_parked(replica: Replica) -> None:
    marker = f"provision {replica.diagnoses.add()}"
    await replica.amqp.publish("", topology.UNROUTED, b"../1", type="provision", message_id=marker)
    parked = await replica.amqp.find_parked(lambda message: message.message_id == marker)
    assert "provision" in parked.reason


async def test_many_bad_events_among_good_ones_lose_none_of_them(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    key = f"diagnosis.{diagnosis}"
    for number in range(40):
        await replica.amqp.publish(FEEDBACK, key, b"bad", message_id=f"bad {diagnosis} {number}")
        await replica.feedback(diagnosis, number)
    assert await client.numbers(40) == list(range(40))
    await replica.nothing_waits(diagnosis)
    await replica.amqp.find_parked(lambda message: message.message_id == f"bad {diagnosis} 39")
    parked = [message for message in replica.amqp.parked if message.routing_key == key]
    assert [message.message_id for message in parked] == [f"bad {diagnosis} {number}" for number in range(40)]


async def assert_parked(replica: Replica, bad: Bad, key: str, body: bytes) -> None:
    def wanted(message: Parked) -> bool:
        return message.routing_key == key

    parked = await replica.amqp.find_parked(wanted)
    assert bad.reason in parked.reason
    assert parked.exchange == bad.exchange
    assert parked.body == body
