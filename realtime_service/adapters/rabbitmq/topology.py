"""Declares what the contract fixes in RabbitMQ: exchanges, the two common queues, and what binds them.

Law: what exists is never changed or deleted. An object with other arguments is used as it is, and named in a warning;
RabbitMQ would answer a declaration with 406 for ever. Who may not declare only needs to find everything in place.

    outer exchanges ─ diagnosis.* ─► diagnosis.events, diagnosis.devices        realtime.nodes
           └ alternate ─► diagnosis.unrouted ◄─ alternate ┘                     queue diagnosis.parked
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Final

from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelClosed,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)
from pamqp.common import FieldValue

from contracts import topology
from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, translated
from realtime_service.domain.errors import BrokerUnavailable

DECLARE_SECONDS: Final = 30.0
"""All declarations together; they take some 10 ms unless the broker is in trouble."""

NOT_AS_DECLARED: Final = (ChannelAccessRefused, ChannelLockedResource, ChannelPreconditionFailed)
"""403, 405, 406: the object may well be there. Each of them closes the AMQP channel."""


@dataclass(frozen=True, slots=True)
class _Exchange:
    name: str
    kind: str = "topic"
    internal: bool = False
    alternate: str | None = None

    def __str__(self) -> str:
        return f"exchange {self.name!r}"

    async def declare(self, channel: Channel, *, passive: bool = False) -> None:
        arguments: dict[str, FieldValue] = {"alternate-exchange": self.alternate} if self.alternate else {}
        await channel.exchange_declare(
            self.name,
            exchange_type=self.kind,
            durable=True,
            internal=self.internal,
            arguments=arguments,
            passive=passive,
        )


@dataclass(frozen=True, slots=True)
class _Queue:
    name: str
    arguments: topology.Arguments

    def __str__(self) -> str:
        return f"queue {self.name!r}"

    async def declare(self, channel: Channel, *, passive: bool = False) -> None:
        await channel.queue_declare(self.name, durable=True, arguments=dict(self.arguments), passive=passive)


@dataclass(frozen=True, slots=True)
class _Binding:
    source: _Exchange
    target: _Exchange | _Queue
    key: str = ""

    def __str__(self) -> str:
        return f"binding of {self.target} to {self.source}"

    async def declare(self, channel: Channel) -> None:
        bind = channel.exchange_bind if isinstance(self.target, _Exchange) else channel.queue_bind
        await bind(self.target.name, self.source.name, self.key)


_Declared = _Exchange | _Queue | _Binding

_UNROUTED = _Exchange(topology.UNROUTED, kind="fanout")
_UNROUTED_QUEUE = _Queue(topology.UNROUTED, topology.UNROUTED_ARGUMENTS)
_EVENTS = _Exchange(topology.EVENTS, internal=True, alternate=topology.UNROUTED)
_DEVICES = _Exchange(topology.DEVICES, internal=True)
_OUTER = tuple(_Exchange(name, alternate=topology.UNROUTED) for name in topology.EXCHANGES.values())

FIXED: Final[tuple[_Declared, ...]] = (
    _UNROUTED,
    _UNROUTED_QUEUE,
    _Binding(_UNROUTED, _UNROUTED_QUEUE),
    _Queue(topology.PARKED, topology.PARKED_ARGUMENTS),
    _Exchange(topology.NODES),
    _EVENTS,
    _DEVICES,
    *_OUTER,
    *(_Binding(outer, inner, topology.ANY_DIAGNOSIS) for outer in _OUTER for inner in (_EVENTS, _DEVICES)),
)
"""In an order in which nothing is lost meanwhile: first where unrouted events end, then what leads there."""

EXCHANGES: Final = frozenset(declared.name for declared in FIXED if isinstance(declared, _Exchange))
"""Names of the exchanges that `declare_topology` declares."""


async def declare_topology(connection: BrokerConnection) -> list[str]:
    """Declare everything that is fixed; what is there already stays as it is.

    Returns a line for each object that exists otherwise than declared, or that this user may not declare. Raises
    BrokerUnavailable when an object is missing and may not be declared, or the broker fails or takes over 30 s.
    """
    warnings: list[str] = []
    channel: Channel | None = None
    with translated():
        async with asyncio.timeout(DECLARE_SECONDS):
            for declared in FIXED:
                channel = channel or connection.channel()
                try:
                    await declared.declare(channel)
                except NOT_AS_DECLARED as error:
                    channel = None
                    warnings.append(await _use_as_it_is(connection, declared, error))
            if channel is not None:
                await channel.close()
    return warnings


async def _use_as_it_is(connection: BrokerConnection, declared: _Declared, error: ChannelClosed) -> str:
    """Say what is odd about an object that exists. Raises BrokerUnavailable if it does not."""
    refused = isinstance(error, ChannelAccessRefused)
    if isinstance(declared, _Binding):
        return f"{declared} may not be made by this user; it is taken to be there"
    channel = connection.channel()
    try:
        await declared.declare(channel, passive=True)
        await channel.close()
    except ChannelNotFoundEntity:
        why = "this user may not declare it" if refused else "the broker refuses to declare it"
        raise BrokerUnavailable(f"{declared} does not exist, and {why}") from error
    except NOT_AS_DECLARED:
        return f"{declared} exists, but belongs to another connection alone; events will not pass through it"
    if refused:
        return f"{declared} may not be declared by this user; it is used as it is"
    return f"{declared} exists with {_difference(error)}; it is used as it is"


def _difference(error: ChannelClosed) -> str:
    argument = re.search(r"inequivalent arg '([\w-]+)'", str(error))
    return f"another {argument[1]!r}" if argument else "other arguments"
