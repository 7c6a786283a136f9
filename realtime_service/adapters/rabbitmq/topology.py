"""Declares what the contract fixes in RabbitMQ: exchanges, the two common queues, and what binds them.

Law: what exists is never changed or deleted. An object that is otherwise than declared is a finding, with what that
does to events; RabbitMQ would answer a declaration with 406 for ever. Who may not declare only needs to find everything
in place.

    outer exchanges ─ diagnosis.* ─► diagnosis.events, diagnosis.devices        realtime.nodes
           └ alternate ─► diagnosis.unrouted ◄─ alternate ┘                     queue diagnosis.parked
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final, Self

from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelClosed,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from contracts import topology
from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, translated
from realtime_service.adapters.rabbitmq.differences import (
    NONE,
    Difference,
    difference,
    end_missing,
    exchange_differs,
    missing,
    not_yet,
    of_another_connection,
    queue_differs,
    taken_to_be_there,
    used_as_it_is,
)
from realtime_service.domain.finding import Finding

DECLARE_SECONDS: Final = 30.0
"""All declarations together; they take some 10 ms unless the broker is in trouble."""

MOST_DIFFERENCES: Final = 10
"""That are looked for in one object."""

NOT_AS_DECLARED: Final = (ChannelAccessRefused, ChannelLockedResource, ChannelPreconditionFailed)
"""403, 405, 406: the object may well be there. Each of them closes the AMQP channel."""


@dataclass(frozen=True, slots=True)
class _Exchange:
    name: str
    kind: str = "topic"
    internal: bool = False
    arguments: topology.Arguments = field(default_factory=dict)
    durable: bool = True

    def __str__(self) -> str:
        return f"exchange {self.name!r}"

    async def declare(self, channel: Channel, *, passive: bool = False) -> None:
        await channel.exchange_declare(
            self.name,
            exchange_type=self.kind,
            durable=self.durable,
            internal=self.internal,
            arguments=dict(self.arguments),
            passive=passive,
        )

    def finding(self, found: Difference) -> Finding:
        """What there is to say about a difference."""
        attributes = {"type": self.kind, "durable": "true", "internal": str(self.internal).lower()}
        wanted = attributes.get(found.name) or _wanted(found, self.arguments)
        return exchange_differs(self.name, found, wanted)

    def as_found(self, found: Difference) -> Self | None:
        """The same, with what there is; None: that cannot be declared."""
        match found.name:
            case "type":
                return replace(self, kind=str(found.current))
            case "durable":
                return replace(self, durable=False)
            case "internal":
                return replace(self, internal=found.current == "true")
        arguments = _as_found(found, self.arguments)
        return None if arguments is None else replace(self, arguments=arguments)


@dataclass(frozen=True, slots=True)
class _Queue:
    name: str
    arguments: topology.Arguments
    durable: bool = True

    def __str__(self) -> str:
        return f"queue {self.name!r}"

    async def declare(self, channel: Channel, *, passive: bool = False) -> None:
        await channel.queue_declare(
            self.name, durable=self.durable, arguments=dict(self.arguments), passive=passive
        )

    def finding(self, found: Difference) -> Finding:
        """What there is to say about a difference."""
        wanted = "true" if found.name == "durable" else _wanted(found, self.arguments)
        return queue_differs(self.name, found, wanted)

    def as_found(self, found: Difference) -> Self | None:
        """The same, with what there is; None: that cannot be declared."""
        if found.name == "durable":
            return replace(self, durable=False)
        arguments = _as_found(found, self.arguments)
        return None if arguments is None else replace(self, arguments=arguments)


def _wanted(found: Difference, arguments: topology.Arguments) -> str:
    return "false" if found.name == "auto_delete" else str(arguments.get(found.name, NONE))


def _as_found(found: Difference, arguments: topology.Arguments) -> topology.Arguments | None:
    if not found.readable or found.name == "auto_delete":
        return None
    others = {name: value for name, value in arguments.items() if name != found.name}
    return others if found.current is None else {**others, found.name: found.current}


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
_EVENTS = _Exchange(topology.EVENTS, internal=True, arguments=topology.EVENTS_ARGUMENTS)
_DEVICES = _Exchange(topology.DEVICES, internal=True)
_OUTER = tuple(_Exchange(name, arguments=topology.OUTER_ARGUMENTS) for name in topology.EXCHANGES.values())

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


BINDINGS: Final = frozenset(
    (declared.source.name, declared.target.name, declared.key)
    for declared in FIXED
    if isinstance(declared, _Binding)
)
"""Source, destination and routing key of the bindings."""


async def declare_topology(connection: BrokerConnection) -> list[Finding]:
    """Declare everything that is fixed; what is there already stays as it is.

    Returns a finding for each object that is missing, exists otherwise than declared, or cannot be looked at by this
    user; none: all is well. Raises BrokerUnavailable when the broker fails or takes over 30 s.
    """
    findings: list[Finding] = []
    channel: Channel | None = None
    with translated():
        async with asyncio.timeout(DECLARE_SECONDS):
            for declared in FIXED:
                channel = channel or connection.channel()
                try:
                    await declared.declare(channel)
                except NOT_AS_DECLARED as error:
                    channel = None
                    findings += await _look(connection, declared, error)
                except ChannelNotFoundEntity:  # an end of a binding, which was found missing before
                    channel = None
                    findings.append(end_missing(str(declared)))
            if channel is not None:
                await channel.close()
    return findings


async def examine_topology(connection: BrokerConnection) -> list[Finding]:
    """The same without declaring anything: what is missing is a warning, and bindings cannot be seen."""
    findings: list[Finding] = []
    with translated():
        async with asyncio.timeout(DECLARE_SECONDS):
            for declared in FIXED:
                if isinstance(declared, _Binding):
                    continue
                channel = connection.channel()
                try:
                    await declared.declare(channel, passive=True)
                    await declared.declare(channel)
                    await channel.close()
                except ChannelNotFoundEntity:
                    findings.append(not_yet(str(declared)))
                except NOT_AS_DECLARED as error:
                    findings += await _look(connection, declared, error)
    return findings


async def _look(connection: BrokerConnection, declared: _Declared, error: ChannelClosed) -> list[Finding]:
    """What there is where the broker refused a declaration."""
    if isinstance(declared, _Binding):
        return [taken_to_be_there(str(declared))]
    channel = connection.channel()
    try:
        await declared.declare(channel, passive=True)
        await channel.close()
    except ChannelNotFoundEntity:
        return [missing(str(declared), refused=isinstance(error, ChannelAccessRefused))]
    except NOT_AS_DECLARED:
        return [of_another_connection(str(declared))]
    if isinstance(error, ChannelAccessRefused):
        return [used_as_it_is(str(declared))]
    return await _differences(connection, declared, error)


async def _differences(
    connection: BrokerConnection, declared: _Exchange | _Queue, error: ChannelClosed
) -> list[Finding]:
    """All of them: the broker names one, so what it has is declared until nothing is left to name."""
    findings = []
    for _ in range(MOST_DIFFERENCES):
        found = difference(str(error), declared.arguments)
        findings.append(declared.finding(found))
        adapted = declared.as_found(found)
        if adapted is None:
            break
        channel = connection.channel()
        try:
            await adapted.declare(channel)
            await channel.close()
            break
        except NOT_AS_DECLARED as next_error:
            declared, error = adapted, next_error
    return findings
