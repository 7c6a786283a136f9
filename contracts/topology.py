"""Every name and argument this system has in RabbitMQ. They stand here and nowhere else.

    recommendation ─┐ diagnosis.*  ┌─► diagnosis.events  ─ diagnosis.<id> ─► queue diagnosis.<id>
    effectiveness  ─┼──────────────┤       └ nobody bound: diagnosis.unrouted ─► queue diagnosis.unrouted
    feedback       ─┘              └─► diagnosis.devices ─ diagnosis.<id> ─► queue diagnosis.<id>.device.<key>

A running system cannot change the arguments of a queue that exists (RabbitMQ answers 406), so they are part
of the contract like the names.
"""

import hashlib
import re
from enum import StrEnum
from typing import Final, Literal

from contracts.events import EventType
from contracts.ids import ClientId, DiagnosisId, UserId, parse_diagnosis_id

DAY_MS: Final = 24 * 60 * 60 * 1000

EXCHANGES: Final[dict[EventType, str]] = {
    EventType.RECOMMENDATION: "diagnosis.recommendation",
    EventType.EFFECTIVENESS: "diagnosis.effectiveness",
    EventType.FEEDBACK: "diagnosis.feedback",
}
"""Where tasks publish: topic, durable, routing key `diagnosis.<id>`. The exchange says an event's kind."""

EVENT_TYPES: Final[dict[str, EventType]] = {exchange: kind for kind, exchange in EXCHANGES.items()}

EVENTS: Final = "diagnosis.events"
"""Inner topic exchange: shared queues bind here. Its alternate exchange is UNROUTED."""
DEVICES: Final = "diagnosis.devices"
"""Inner topic exchange: device queues bind here. It has no alternate exchange."""
UNROUTED: Final = "diagnosis.unrouted"
"""Fanout exchange and the queue behind it: events of diagnoses without a queue, and wrong routing keys."""
PARKED: Final = "diagnosis.parked"
"""Queue of refused events, with the reason in their headers."""
NODES: Final = "realtime.nodes"
"""Topic exchange between replicas, and the backlogs' dead-letter exchange: so evictions are heard of."""

ANY_DIAGNOSIS: Final = "diagnosis.*"

BACKLOG_LIMIT: Final = 100
"""Waiting events a queue keeps; the newest stay."""
BACKLOG_TTL_MS: Final = 30 * DAY_MS
"""Medical data are not kept for ever."""
DEVICE_EXPIRES_MS: Final = 30 * DAY_MS
"""A device queue that nobody consumed from for this long is deleted."""
UNROUTED_LIMIT: Final = 100_000
PARKED_LIMIT: Final = 10_000
PARKED_TTL_MS: Final = 14 * DAY_MS
NODE_EXPIRES_MS: Final = 60_000
NODE_LIMIT: Final = 10_000

QUORUM_DELIVERY_LIMIT: Final = 1_000_000
"""Without one, a quorum queue of RabbitMQ 3.x puts returned events at its back (4.x: drops them after 20)."""

QueueType = Literal["classic", "quorum"]
Arguments = dict[str, str | int | bool]


class Header(StrEnum):
    """AMQP headers with a meaning of ours."""

    ORIGIN_EXCHANGE = "x-origin-exchange"
    """Where a republished event was published first; it says the event's kind."""
    ORIGIN_KEY = "x-origin-routing-key"
    PARK_REASON = "x-park-reason"
    TIMESTAMP_MS = "timestamp_in_ms"
    USER_ID = "user_id"
    """A personal event: for this user alone."""
    EXCLUDE_CONNECTION = "exclude_connection_id"
    TRACEPARENT = "traceparent"
    REPLY_TO = "x-reply-to"
    """Between replicas: the queue that an answer goes to."""
    DEATH = "x-death"


_NODE_QUEUE = re.compile(r"realtime\.node\.[!-~]{1,100}\Z")


def routing_key(diagnosis: DiagnosisId) -> str:
    """The key a task publishes with; also the binding of the diagnosis' queues."""
    return f"diagnosis.{diagnosis}"


def parse_routing_key(key: str) -> DiagnosisId | None:
    """The diagnosis a key names, or None for a key that names none."""
    prefix, dot, number = key.partition(".")
    return parse_diagnosis_id(number) if prefix == "diagnosis" and dot else None


def shared_queue(diagnosis: DiagnosisId) -> str:
    """The queue that holds what nobody has received."""
    return f"diagnosis.{diagnosis}"


def device_key(user: UserId, client: ClientId) -> str:
    """Hash of user and device name: bounded in length and characters, not to be guessed from one alone."""
    return hashlib.sha256(f"{user}\n{client}".encode()).hexdigest()[:32]


def device_queue(diagnosis: DiagnosisId, key: str) -> str:
    """The queue that holds what one device has not received since the queue was made."""
    return f"diagnosis.{diagnosis}.device.{key}"


def parse_queue(name: str) -> tuple[DiagnosisId, str | None] | None:
    """The diagnosis and, for a device queue, the device key that a queue's name carries."""
    number, device, key = name.removeprefix("diagnosis.").partition(".device.")
    diagnosis = parse_diagnosis_id(number) if name.startswith("diagnosis.") else None
    return None if diagnosis is None or (device and not key) else (diagnosis, key or None)


def node_queue(replica: str) -> str:
    """The queue a replica is spoken to through."""
    return f"realtime.node.{replica}"


def is_node_queue(name: str) -> bool:
    """Whether a name that somebody gave can be a node queue's: nothing else is answered to."""
    return _NODE_QUEUE.match(name) is not None


def backlog_arguments(*, limit: int = BACKLOG_LIMIT, queue_type: QueueType = "classic") -> Arguments:
    """Arguments of a shared queue."""
    arguments: Arguments = {
        "x-single-active-consumer": True,
        "x-max-length": limit,
        "x-overflow": "drop-head",
        "x-message-ttl": BACKLOG_TTL_MS,
        "x-dead-letter-exchange": NODES,
    }
    if queue_type == "quorum":
        arguments |= {"x-queue-type": "quorum", "x-delivery-limit": QUORUM_DELIVERY_LIMIT}
    return arguments


def device_arguments(*, limit: int = BACKLOG_LIMIT, queue_type: QueueType = "classic") -> Arguments:
    """Arguments of a device queue."""
    return backlog_arguments(limit=limit, queue_type=queue_type) | {"x-expires": DEVICE_EXPIRES_MS}


OUTER_ARGUMENTS: Final[Arguments] = {"alternate-exchange": UNROUTED}
"""Of the three exchanges that tasks publish to: a wrong routing key ends in UNROUTED, not nowhere."""
EVENTS_ARGUMENTS: Final[Arguments] = {"alternate-exchange": UNROUTED}
"""Of EVENTS: an event of a diagnosis without a shared queue ends in UNROUTED."""

UNROUTED_ARGUMENTS: Final[Arguments] = {"x-single-active-consumer": True, "x-max-length": UNROUTED_LIMIT}
PARKED_ARGUMENTS: Final[Arguments] = {"x-max-length": PARKED_LIMIT, "x-message-ttl": PARKED_TTL_MS}
NODE_ARGUMENTS: Final[Arguments] = {"x-expires": NODE_EXPIRES_MS, "x-max-length": NODE_LIMIT}
