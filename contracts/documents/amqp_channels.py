"""The places in RabbitMQ: exchanges and queues, from the constants in `contracts.topology`.

AMQP binding 0.3.0 knows a place's name and kind. Arguments and bindings stand in `x-` fields.
"""

from typing import Final

from contracts import topology
from contracts.documents.amqp_messages import BINDING, PARKED
from contracts.documents.shapes import Json
from contracts.events import EventType
from contracts.topology import ANY_DIAGNOSIS, EXCHANGES, Arguments

_KEY: Final = "diagnosis.{diagnosis_id}"
_EVENTS: Final = tuple(f"event.{kind}" for kind in EventType)

PARAMETERS: Final[dict[str, Json]] = {
    "diagnosis_id": {
        "description": "The diagnosis: decimal digits, no sign, no leading zero, 1 to 2**63 - 1."
    },
    "device_key": {"description": "A hash of user id and client id, 32 characters."},
    "replica": {"description": "Names one run of one replica."},
}

OUTER: Final[dict[EventType, str]] = {kind: kind.value.removesuffix("_update") for kind in EventType}
"""The channel each kind of event is published to."""


def channels() -> dict[str, Json]:
    """The exchanges and queues by name."""
    outer = {
        OUTER[kind]: _exchange(
            exchange,
            f"Tasks publish {OUTER[kind]} events here. An event whose key names no diagnosis, or another one "
            "than its body does, is parked.",
            messages=(f"event.{kind}",),
            arguments=topology.OUTER_ARGUMENTS,
        )
        for kind, exchange in EXCHANGES.items()
    }
    return outer | _inner_exchanges() | _queues()


def _inner_exchanges() -> dict[str, Json]:
    return {
        "events": _exchange(
            topology.EVENTS,
            "Shared queues bind here, and nothing else does: an audit queue binds to the outer exchanges, or "
            "it would hide that a shared queue is missing.",
            arguments=topology.EVENTS_ARGUMENTS,
            inner=True,
        ),
        "devices": _exchange(topology.DEVICES, "Device queues bind here.", inner=True),
        "unrouted": _exchange(
            topology.UNROUTED,
            "The alternate exchange: events of diagnoses without a shared queue, and wrong routing keys.",
            kind="fanout",
        ),
        "nodes": _exchange(
            topology.NODES,
            "Between replicas, private to the service. It is the backlogs' dead-letter exchange too: a "
            "message with an `x-death` header says that an event was dropped, and nothing else.",
            messages=(),
        ),
    }


def _queues() -> dict[str, Json]:
    return {
        "shared_queue": _queue(
            _KEY,
            "What no client has proved to have. The newest events are kept.",
            topology.backlog_arguments(),
            source=(topology.EVENTS, _KEY),
        ),
        "device_queue": _queue(
            _KEY + ".device.{device_key}",
            "What this device has not proved to have since the queue was made. The newest events are kept.",
            topology.device_arguments(),
            source=(topology.DEVICES, _KEY),
        ),
        "unrouted_queue": _queue(
            topology.UNROUTED,
            "First contact: its one consumer makes the shared queues and forwards what waits here.",
            topology.UNROUTED_ARGUMENTS,
            source=(topology.UNROUTED, ""),
        ),
        "parked_queue": _queue(
            topology.PARKED,
            "Refused events, for operators: the headers say why.",
            topology.PARKED_ARGUMENTS,
            messages=(PARKED,),
        ),
        "node_queue": _queue(
            topology.node_queue("{replica}"),
            "What other replicas tell this one, and what was dropped from the backlogs it watches.",
            topology.NODE_ARGUMENTS,
            source=(topology.NODES, _KEY),
            messages=(),
        ),
    }


def _exchange(
    name: str,
    description: str,
    *,
    kind: str = "topic",
    messages: tuple[str, ...] = _EVENTS,
    arguments: Arguments | None = None,
    inner: bool = False,
) -> Json:
    """An exchange, spoken to with a diagnosis' routing key; an inner one is fed by the three outer ones."""
    exchange: Json = {"name": name, "type": kind, "durable": True, "autoDelete": False, "x-internal": inner}
    if arguments:
        exchange["x-arguments"] = arguments
    if inner:
        exchange["x-bindings"] = [
            {"source": outer, "routingKey": ANY_DIAGNOSIS} for outer in EXCHANGES.values()
        ]
    binding = {"is": "routingKey", "exchange": exchange}
    return _channel(_KEY, f"Exchange {name}", description, messages, binding)


def _queue(
    name: str,
    description: str,
    arguments: Arguments,
    *,
    source: tuple[str, str] | None = None,
    messages: tuple[str, ...] = _EVENTS,
) -> Json:
    """A queue, bound to (exchange, key) where it has a source."""
    queue: Json = {
        "name": name,
        "durable": True,
        "exclusive": False,
        "autoDelete": False,
        "x-arguments": arguments,
    }
    if source:
        queue["x-bindings"] = [{"source": source[0], "routingKey": source[1]}]
    return _channel(name, f"Queue {name}", description, messages, {"is": "queue", "queue": queue})


def _channel(address: str, title: str, description: str, messages: tuple[str, ...], binding: Json) -> Json:
    parameters = {
        name: {"$ref": f"#/components/parameters/{name}"} for name in PARAMETERS if f"{{{name}}}" in address
    }
    return {
        "address": address,
        "title": title,
        "description": description,
        "servers": [{"$ref": "#/servers/rabbitmq"}],
        "parameters": parameters,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"amqp": binding | {"bindingVersion": BINDING}},
    }
