"""The AsyncAPI 3.0.0 document: what tasks publish, what clients are sent, and the queues in between.

`send` and `receive` are said of this service (AsyncAPI 3.0.0, Operation Object): it receives what tasks send.
"""

from typing import Final

from contracts.documents import amqp_channels, amqp_messages, websocket
from contracts.documents.shapes import INTEGERS, SHAPES, Json
from contracts.events import EventType
from contracts.topology import BACKLOG_LIMIT, BACKLOG_TTL_MS, DAY_MS

CONTRACT_VERSION: Final = "1.0.0"
"""Of the wire, not of the program: the major number is that of the sub-protocol."""

_DESCRIPTION: Final = f"""\
Events about a diagnosis, from the tasks that compute them to the phones and browsers that show them.

A task publishes JSON to one of three topic exchanges with the routing key `diagnosis.<id>`, and waits for the
broker's confirm. The service delivers it, in order, to every client of that diagnosis, at least once; what no
client has proved to have waits in a durable queue: at most {BACKLOG_LIMIT} events, for at most
{BACKLOG_TTL_MS // DAY_MS} days.

{INTEGERS} Ids may be greater than 2**53, which JavaScript's `JSON.parse` rounds.
"""


def asyncapi() -> Json:
    """The document."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:realtime-service:v1",
        "info": {"title": "realtime-service", "version": CONTRACT_VERSION, "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": {"connection": websocket.channel()} | amqp_channels.channels(),
        "operations": _operations(),
        "components": {
            "schemas": _schemas(),
            "messages": websocket.messages() | amqp_messages.messages(),
            "parameters": amqp_channels.PARAMETERS,
            "securitySchemes": websocket.SECURITY | {"broker": {"type": "userPassword"}},
        },
    }


def _schemas() -> dict[str, Json]:
    own = {name: shape.schema() for name, shape in SHAPES.items() if not name.startswith("http.")}
    return own | amqp_messages.schemas()


def _servers() -> Json:
    return {
        "websocket": {
            "host": "{host}",
            "protocol": "ws",
            "description": "The service. Behind a proxy that ends TLS: wss.",
            "variables": {"host": {"default": "127.0.0.1:8000", "description": "Host and port."}},
            "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in websocket.SECURITY],
        },
        "rabbitmq": {
            "host": "{broker}",
            "protocol": "amqp",
            "protocolVersion": "0.9.1",
            "description": "RabbitMQ. With TLS: amqps.",
            "variables": {"broker": {"default": "127.0.0.1:5672", "description": "Host and port."}},
            "security": [{"$ref": "#/components/securitySchemes/broker"}],
        },
    }


def _operations() -> Json:
    publish = {
        f"receive_{kind}": _operation(
            "receive",
            amqp_channels.OUTER[kind],
            [f"event.{kind}"],
            f"Receive the {amqp_channels.OUTER[kind]} events that tasks publish.",
            deliveryMode=2,
            timestamp=True,
        )
        for kind in EventType
    }
    events = [f"event.{kind}" for kind in EventType]
    return publish | {
        "deliver_shared": _operation(
            "receive", "shared_queue", events, "Deliver what no client has proved to have.", ack=True
        ),
        "deliver_to_device": _operation(
            "receive", "device_queue", events, "Deliver what a device has not proved to have.", ack=True
        ),
        "open_backlog": _operation(
            "receive", "unrouted_queue", events, "Make the queue of a diagnosis at its first event.", ack=True
        ),
        "park_event": _operation(
            "send", "parked_queue", [amqp_messages.PARKED], "Put a refused event aside.", deliveryMode=2
        ),
        "send_messages": _operation(
            "send", "connection", websocket.frames("server"), "Send a client its messages."
        ),
        "receive_frames": _operation(
            "receive", "connection", websocket.frames("client"), "Receive a client's frames."
        ),
    }


def _operation(action: str, channel: str, messages: list[str], summary: str, **amqp: object) -> Json:
    bindings = {"bindings": {"amqp": amqp | {"bindingVersion": amqp_messages.BINDING}}} if amqp else {}
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    } | bindings
