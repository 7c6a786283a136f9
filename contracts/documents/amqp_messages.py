"""What passes through RabbitMQ: events, and events that were refused.

AMQP binding 0.3.0 has no place for the basic properties of a message: they stand in `x-amqp-properties`.
"""

from typing import Final

from contracts.documents.examples import AMQP_HEADERS, AMQP_PROPERTIES, EXAMPLES
from contracts.documents.shapes import SHAPES, Json
from contracts.events import MAX_BODY_BYTES, EventType
from contracts.ids import MAX_EVENT_ID, MAX_ID
from contracts.topology import EXCHANGES, Header

BINDING: Final = "0.3.0"

PROPERTIES: Final[Json] = {
    "type": "object",
    "description": "AMQP basic properties of an event.",
    "required": ["content_type", "delivery_mode"],
    "properties": {
        "message_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_EVENT_ID,
            "description": "The event id: printable characters, kept as they are. Publishing again under the "
            "same id lets clients drop the repeat. Without one the id is derived from exchange, key, "
            "timestamp and body.",
        },
        "timestamp": {"type": "integer", "minimum": 0, "description": "Unix time in seconds."},
        "content_type": {"const": "application/json"},
        "delivery_mode": {"const": 2, "description": "Persistent: survives a restart of the broker."},
        "type": {
            "type": "string",
            "description": "For people who look into a queue. It is not trusted: the exchange says the kind.",
        },
        "app_id": {"type": "string", "description": "The program that published, for people."},
    },
}

HEADERS: Final[Json] = {
    "type": "object",
    "description": "AMQP headers of an event; all are optional.",
    "properties": {
        Header.TIMESTAMP_MS.value: {
            "type": "integer",
            "minimum": 0,
            "description": "Unix time in milliseconds; the property `timestamp` has seconds only.",
        },
        Header.TRACEPARENT.value: {
            "type": "string",
            "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            "description": "W3C Trace Context of the publisher.",
        },
        Header.USER_ID.value: {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_ID},
                {"type": "string", "pattern": "^[0-9]{1,19}$"},
            ],
            "description": "A personal event: for this user alone, who must own the diagnosis. A string of "
            "digits serves tools that can send no integer.",
        },
        Header.EXCLUDE_CONNECTION.value: {
            "type": "string",
            "description": "The `connection_id` of a client that is not sent this event: it caused it.",
        },
        Header.ORIGIN_EXCHANGE.value: {
            "enum": list(EXCHANGES.values()),
            "description": "Set by the service when it publishes an event again: where it was first.",
        },
    },
}

_PARK_HEADERS: Final[Json] = {
    "type": "object",
    "required": [Header.PARK_REASON.value, Header.ORIGIN_EXCHANGE.value, Header.ORIGIN_KEY.value],
    "properties": {
        Header.PARK_REASON.value: {
            "type": "string",
            "description": "Why; never a value that was in the event.",
        },
        Header.ORIGIN_EXCHANGE.value: {"type": "string", "description": "Where it was published."},
        Header.ORIGIN_KEY.value: {"type": "string", "description": "The routing key it was published with."},
    },
}

PARKED: Final = "event.parked"

_PARKED: Final[Json] = {
    "name": "parked",
    "title": "Refused event",
    "summary": "An event that could not be delivered, its body as it was published.",
    "contentType": "application/octet-stream",
    "headers": _PARK_HEADERS,
    "payload": {"description": "Whatever was published."},
    "bindings": {"amqp": {"bindingVersion": BINDING}},
}


def schemas() -> dict[str, Json]:
    """What the messages refer to beside their bodies."""
    return {"amqp.properties": PROPERTIES, "amqp.headers": HEADERS}


def messages() -> dict[str, Json]:
    """The events by name, and the event that was refused."""
    return {f"event.{kind}": _event(kind) for kind in EventType} | {PARKED: _PARKED}


def _event(kind: EventType) -> Json:
    name = f"event.{kind}"
    schema = SHAPES[name].schema()
    return {
        "name": kind.value,
        "title": schema["title"],
        "summary": schema["description"],
        "description": f"At most {MAX_BODY_BYTES // 1024} KiB of JSON. Unknown fields are dropped.",
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/amqp.headers"},
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": {
            "amqp": {"contentEncoding": "utf-8", "messageType": kind.value, "bindingVersion": BINDING}
        },
        "examples": [{"name": kind.value, "headers": AMQP_HEADERS, "payload": EXAMPLES[name]}],
        "x-amqp-properties": PROPERTIES | {"examples": [AMQP_PROPERTIES | {"type": kind.value}]},
    }
