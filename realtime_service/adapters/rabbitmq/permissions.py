"""What the user may do on the broker: asked for on objects that never exist, so that nothing is made, taken or lost.

RabbitMQ looks at permissions before it looks for the object. Deleting or consuming a queue that is not there, or
removing a binding that is not there, therefore tells whether the user might, and does nothing else. `diagnosis.0` is no
diagnosis (ids begin at 1), and a replica's name is no `0`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity

from contracts import topology
from contracts.ids import DiagnosisId
from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, translated
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.domain.errors import PublishError
from realtime_service.domain.finding import Finding, Severity

ASK_SECONDS: Final = 30.0
"""All questions together; they take some 10 ms."""

PUBLISH_SECONDS: Final = 3.0

_NOBODY: Final = DiagnosisId(0)
_SHARED: Final = topology.shared_queue(_NOBODY)
_DEVICE: Final = topology.device_queue(_NOBODY, "0")
_NODE: Final = topology.node_queue("0")
_SHOWN: Final = {
    _SHARED: "diagnosis.<id>",
    _DEVICE: "diagnosis.<id>.device.<key>",
    _NODE: "realtime.node.<uuid>",
}
_KEY: Final = "a key that nobody uses"
_REFUSED: Final = re.compile(r"access to (queue|exchange) '([^']*)'")


@dataclass(frozen=True, slots=True)
class _Question:
    ask: Callable[[Channel], Awaitable[object]]
    operation: dict[str, str]
    """The permission that is missing, by the name that the refusal holds."""


def _questions() -> Iterator[_Question]:
    sources = {_SHARED: topology.EVENTS, _DEVICE: topology.DEVICES, _NODE: topology.NODES}
    for queue, source in sources.items():
        yield _Question(_deleting(queue), {queue: "configure"})
        yield _Question(_unbinding(queue, source), {queue: "write", source: "read"})
        yield _Question(_consuming(queue), {queue: "read"})
    for exchange in (topology.NODES, *topology.EVENT_TYPES):
        yield _Question(_leaving(exchange), {exchange: "write", topology.EVENTS: "read"})


def _deleting(queue: str) -> Callable[[Channel], Awaitable[object]]:
    return lambda channel: channel.queue_delete(queue, if_unused=True, if_empty=True)


def _unbinding(queue: str, source: str) -> Callable[[Channel], Awaitable[object]]:
    return lambda channel: channel.queue_unbind(queue, source, _KEY)


def _consuming(queue: str) -> Callable[[Channel], Awaitable[object]]:
    return lambda channel: channel.basic_consume(queue, lambda _: None)


def _leaving(exchange: str) -> Callable[[Channel], Awaitable[object]]:
    return lambda channel: channel.exchange_unbind(exchange, topology.EVENTS, _KEY)


async def check_permissions(connection: BrokerConnection) -> list[Finding]:
    """A finding for each permission that is missing. Raises BrokerUnavailable when the broker fails."""
    findings: dict[tuple[str, str], Finding] = {}
    with translated():
        async with asyncio.timeout(ASK_SECONDS):
            for question in _questions():
                channel = connection.channel()
                try:
                    await question.ask(channel)
                    await channel.close()
                except ChannelNotFoundEntity:
                    pass  # the user might
                except ChannelAccessRefused as error:
                    finding = refusal(str(error), question.operation)
                    findings[finding.object, finding.found] = finding
    return list(findings.values())


async def check_publishing(publisher: ConfirmedPublisher) -> list[Finding]:
    """The same of publishing straight to a queue: asked with one that does not exist, from where the message returns.

    A broker that takes nothing now (an alarm) is no finding.
    """
    try:
        await publisher.publish(
            "", _NODE, b"", message_id=f"check {_NODE}", timeout_seconds=PUBLISH_SECONDS, mandatory=True
        )
    except PublishError as error:
        if isinstance(error.__cause__, ChannelAccessRefused):
            return [refusal(str(error.__cause__), {"amq.default": "write"})]
    return []


def refusal(text: str, operations: dict[str, str]) -> Finding:
    """What the broker's refusal means. `operations`: the permission it is about, by the object's name."""
    match = _REFUSED.search(text)
    kind, name = (match[1], match[2]) if match else ("object", "?")
    operation = operations.get(name, "")
    shown = _SHOWN.get(name, name)
    broadcasts = name in topology.EVENT_TYPES and operation == "write"
    return Finding(
        Severity.WARNING if broadcasts else Severity.ERROR,
        f"{kind} {shown!r}",
        f"this user has no {operation or 'sufficient'} permission",
        "the broadcast routes cannot publish; events of tasks are delivered"
        if broadcasts
        else _HARM[operation],
        f"extend the user's {operation or 'configure, write and read'} permission to names like it"
        " (rabbitmqctl set_permissions)",
    )


_HARM: Final = {
    "configure": "the service cannot declare it",
    "write": "the service cannot bind it, or publish to it",
    "read": "the service cannot bind to it, or consume from it",
    "": "the service cannot use it",
}
