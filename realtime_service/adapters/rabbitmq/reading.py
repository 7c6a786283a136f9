"""A RabbitMQ delivery becomes an `Event`, or is refused with the reason an operator will read.

Past this module there are no AMQP properties. The exchange says which kind an event is; the publisher's `type` is never
trusted. Publishers that set no `message_id` (any shell tool) get an id made of exchange, key, timestamp and body, and a
number that tells the same content published twice apart.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from contracts import topology
from contracts.events import BodyInvalid, EventType, read_body
from contracts.ids import MAX_ID, ConnectionId, DiagnosisId, EventId, UserId, parse_event_id
from contracts.messages import event_message, rfc3339
from contracts.topology import Header
from realtime_service.adapters.rabbitmq.amqp.channel import Delivery
from realtime_service.adapters.rabbitmq.amqp.properties import UNREADABLE
from realtime_service.domain.errors import EventInvalid
from realtime_service.domain.event import Event

REMEMBERED: Final = 1024
"""Contents without a `message_id` a queue's occurrences are counted for."""
_LATEST: Final = 253_402_300_799  # 9999-12-31, the last second RFC 3339 can write


class Origin(NamedTuple):
    """Where an event was published first."""

    exchange: str
    key: str


def headers_of(message: Delivery) -> Mapping[str, Any]:
    """The AMQP headers, whatever a publisher left out."""
    return message.properties.headers or {}


def origin_of(message: Delivery, *, published_to: str | None = None) -> Origin:
    """Where the event was published: an event that was forwarded through the default exchange carries it along.

    `published_to`: the exchange before the event was dead-lettered.
    """
    exchange = message.exchange if published_to is None else published_to
    if not exchange:
        forwarded_from = headers_of(message).get(Header.ORIGIN_EXCHANGE)
        exchange = forwarded_from if isinstance(forwarded_from, str) else ""
    return Origin(exchange, message.routing_key)


def event_type_of(origin: Origin) -> EventType:
    """The kind of event an exchange carries. Raises EventInvalid."""
    if (kind := topology.EVENT_TYPES.get(origin.exchange)) is None:
        raise EventInvalid(
            f"published to {origin.exchange or 'the default exchange'!r}, which carries no events"
        )
    return kind


def declared_id(message: Delivery) -> EventId | None:
    """The publisher's `message_id`. Raises EventInvalid when there is one that cannot be an event id."""
    if UNREADABLE in headers_of(message):
        raise EventInvalid("the AMQP properties cannot be read")
    text = message.properties.message_id
    if not text:
        return None
    if (event_id := parse_event_id(text)) is None:
        raise EventInvalid("message_id must be 1 to 128 printable characters")
    return event_id


def content_key(message: Delivery, origin: Origin, salt: str = "") -> str:
    """What stands for an event without `message_id`: a hash of exchange, key, timestamp and body."""
    properties = message.properties
    stamp = headers_of(message).get(Header.TIMESTAMP_MS) or properties.timestamp
    digest = hashlib.sha256(f"{salt}\n{origin.exchange}\n{origin.key}\n{stamp}\n".encode())
    digest.update(message.body)
    return digest.hexdigest()[:32]


def published_at(message: Delivery, otherwise: float) -> float:
    """Unix seconds at which the event was published; `otherwise` where the publisher did not say."""
    stamp = headers_of(message).get(Header.TIMESTAMP_MS)
    if isinstance(stamp, int) and not isinstance(stamp, bool) and 0 < stamp <= _LATEST * 1000:
        return stamp / 1000
    moment = message.properties.timestamp
    if isinstance(moment, datetime) and 0 < (seconds := moment.timestamp()) <= _LATEST:
        return seconds
    return otherwise


def read_event(message: Delivery, diagnosis: DiagnosisId, event_id: EventId, now: float) -> Event:
    """Read a delivery of a diagnosis' queue. Raises EventInvalid with a reason that quotes nothing of the body."""
    kind = event_type_of(origin_of(message))
    try:
        body, data = read_body(kind, message.body)
    except BodyInvalid as error:
        raise EventInvalid(str(error)) from error
    if body.diagnosis_id != diagnosis:
        raise EventInvalid("the routing key names another diagnosis than the body")
    headers = headers_of(message)
    published = published_at(message, 0.0)
    text = event_message(kind, diagnosis, event_id, rfc3339(published or now), data)
    if not headers:
        return Event(event_id, diagnosis, text, published=published)
    return Event(event_id, diagnosis, text, _user(headers), _excluded(headers), published, _trace(headers))


def _trace(headers: Mapping[str, Any]) -> str | None:
    value = headers.get(Header.TRACEPARENT)
    return value if isinstance(value, str) else None


def _user(headers: Mapping[str, Any]) -> UserId | None:
    value = headers.get(Header.USER_ID)
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_ID:
        raise EventInvalid(f"header {Header.USER_ID} must be a user id")
    return UserId(value)


def _excluded(headers: Mapping[str, Any]) -> ConnectionId | None:
    value = headers.get(Header.EXCLUDE_CONNECTION)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= 128:
        raise EventInvalid(f"header {Header.EXCLUDE_CONNECTION} must be a connection id")
    return ConnectionId(value)


class Occurrences:
    """Numbers deliveries of the same content on one queue, so that each event keeps its number when delivered again.

    A delivery that is not flagged redelivered is a new occurrence: somebody ran the same command twice and means it.
    After a lost channel the unsettled ones come again, in order, and take up their numbers.
    """

    __slots__ = ("_again", "_before", "_next", "_unsettled")

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._again: dict[str, list[int]] = {}
        self._unsettled: dict[int, tuple[str, int]] = {}

    def number(self, content: str, tag: int, *, redelivered: bool) -> int:
        """The occurrence number of the delivery `tag`, from 0."""
        if redelivered and (again := self._again.get(content)):
            number = again.pop(0)
        elif redelivered and content in self._before:
            number = self._before[content] - 1  # settled here, but the broker did not hear of it
        else:
            number = self._next.get(content, 0)
            self._next[content] = number + 1
            if len(self._next) > REMEMBERED:
                del self._next[next(iter(self._next))]
        self._unsettled[tag] = (content, number)
        return number

    def settled(self, tag: int) -> None:
        """All deliveries up to `tag` are settled."""
        while self._unsettled and (first := next(iter(self._unsettled))) <= tag:
            del self._unsettled[first]

    def settled_one(self, tag: int) -> None:
        """The delivery `tag` alone is settled."""
        self._unsettled.pop(tag, None)

    def lost(self) -> None:
        """The channel is gone."""
        self._again = {}
        for content, number in self._unsettled.values():
            self._again.setdefault(content, []).append(number)
        self._before = self._next.copy()
        self._unsettled.clear()


def event_id_of(content: str, number: int) -> EventId:
    """The id of an event whose publisher gave it none."""
    return EventId(f"{content}-{number}" if number else content)
