"""The fixed exchanges, queues and bindings, asked of the broker itself."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.message import Message
from pamqp.common import FieldTable

from contracts import topology
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, close, connect
from realtime_service.adapters.rabbitmq.topology import EXCHANGES, declare_topology
from realtime_service.domain.errors import BrokerUnavailable
from realtime_service.domain.finding import Finding, Severity
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.support.amqp import ctl, take_all, url_of_a_task

OUTER = sorted(topology.EXCHANGES.values())
EVERYTHING = [
    "diagnosis.devices topic internal {}",
    "diagnosis.effectiveness topic {'alternate-exchange': 'diagnosis.unrouted'}",
    "diagnosis.events topic internal {'alternate-exchange': 'diagnosis.unrouted'}",
    "diagnosis.feedback topic {'alternate-exchange': 'diagnosis.unrouted'}",
    "diagnosis.recommendation topic {'alternate-exchange': 'diagnosis.unrouted'}",
    "diagnosis.unrouted fanout {}",
    "realtime.nodes topic {}",
    "queue diagnosis.parked {'x-max-length': 10000, 'x-message-ttl': 1209600000}",
    "queue diagnosis.unrouted {'x-max-length': 100000, 'x-single-active-consumer': True}",
    *(
        f"{outer} -> exchange {inner} diagnosis.*"
        for outer in OUTER
        for inner in (topology.DEVICES, topology.EVENTS)
    ),
    "diagnosis.unrouted -> queue diagnosis.unrouted ",
]


@pytest.fixture
async def connection(node: PrivateRabbitMQ) -> AsyncIterator[BrokerConnection]:
    connection = await connect(node.amqp_url, name="topology test")
    yield connection
    await close(connection)


async def test_everything_that_is_fixed_is_declared(
    node: PrivateRabbitMQ, channel: AbstractChannel, connection: BrokerConnection
) -> None:
    assert await declare_topology(connection) == []
    assert await _everything(node) == EVERYTHING
    for kind in ("list_exchanges", "list_queues"):
        rows = await _listed(node, kind, "name", "durable")
        assert all(row["durable"] for row in rows if row["name"] in EXCHANGES)


async def test_declaring_again_changes_nothing_and_warns_of_nothing(
    node: PrivateRabbitMQ, channel: AbstractChannel, connection: BrokerConnection
) -> None:
    await declare_topology(connection)
    assert await declare_topology(connection) == []
    assert await _everything(node) == EVERYTHING


async def test_what_exists_otherwise_is_used_as_it_is_and_named(
    node: PrivateRabbitMQ, channel: AbstractChannel, connection: BrokerConnection
) -> None:
    await channel.declare_exchange(topology.EVENTS, "topic", durable=True, internal=True)
    parked: FieldTable = {**topology.PARKED_ARGUMENTS, "x-max-length": 7}
    await channel.declare_queue(topology.PARKED, durable=True, arguments=parked)
    await channel.declare_queue(topology.UNROUTED, durable=True)

    findings = await declare_topology(connection)

    assert sorted(_in_short(findings)) == [
        "error: exchange 'diagnosis.events': alternate-exchange is none, not diagnosis.unrouted",
        "error: queue 'diagnosis.unrouted': x-single-active-consumer is none, not True",
        "warning: queue 'diagnosis.parked': x-max-length is 7, not 10000",
        "warning: queue 'diagnosis.unrouted': x-max-length is none, not 100000",
    ]
    assert all(finding.problem and finding.advice for finding in findings)
    found = await _everything(node)
    assert "diagnosis.events topic internal {}" in found
    assert "queue diagnosis.parked {'x-max-length': 7, 'x-message-ttl': 1209600000}" in found
    assert found[9:] == EVERYTHING[9:], "the bindings are made all the same"


async def test_a_queue_of_another_connection_alone_is_named_too(
    node: PrivateRabbitMQ, channel: AbstractChannel, connection: BrokerConnection
) -> None:
    await channel.declare_queue(topology.PARKED, exclusive=True)
    findings = await declare_topology(connection)
    assert _in_short(findings) == [
        "warning: queue 'diagnosis.parked': it belongs to another connection alone"
    ]


@pytest.mark.parametrize(("write", "named"), [(".*", 9), ("", 16)], ids=["may bind", "may not bind"])
async def test_a_user_who_may_not_declare_finds_everything_in_place(
    write: str, named: int, node: PrivateRabbitMQ, channel: AbstractChannel, connection: BrokerConnection
) -> None:
    await declare_topology(connection)
    task = await connect(await url_of_a_task(node, write=write), name="task")
    findings = await declare_topology(task)
    await close(task)
    assert {finding.severity for finding in findings} == {Severity.WARNING}
    assert len(findings) == named
    assert "warning: exchange 'diagnosis.events': it exists" in _in_short(findings)
    assert not any("task" in str(finding) or "sesame" in str(finding) for finding in findings)


async def test_what_is_missing_and_may_not_be_declared_is_an_error_that_names_it(
    node: PrivateRabbitMQ, channel: AbstractChannel, connection: BrokerConnection
) -> None:
    await declare_topology(connection)
    await channel.exchange_delete(topology.NODES)
    task = await connect(await url_of_a_task(node), name="task")
    findings = await declare_topology(task)
    await close(task)
    (error,) = [finding for finding in findings if finding.severity is Severity.ERROR]
    assert _in_short([error]) == ["error: exchange 'realtime.nodes': it does not exist"]
    assert error.problem == "this user may not declare it"


WRONG_EXCHANGES = {
    "another type": (topology.EVENTS, {"type": "direct", "durable": True}, "type is direct, not topic"),
    "not durable": (topology.NODES, {"type": "topic", "durable": False}, "durable is false, not true"),
    "deletes itself": (
        topology.DEVICES,
        {"type": "topic", "durable": True, "internal": True, "auto_delete": True},
        "auto_delete is true, not false",
    ),
    "closed to publishers": (
        OUTER[0],
        {"type": "topic", "durable": True, "internal": True},
        "internal is true",
    ),
    "a copy to the door": (
        topology.DEVICES,
        {
            "type": "topic",
            "durable": True,
            "internal": True,
            "arguments": {"alternate-exchange": topology.UNROUTED},
        },
        "alternate-exchange is diagnosis.unrouted, not none",
    ),
    "nowhere for wrong keys": (OUTER[0], {"type": "topic", "durable": True}, "alternate-exchange is none"),
}


@pytest.mark.parametrize(("name", "declared", "found"), WRONG_EXCHANGES.values(), ids=WRONG_EXCHANGES)
async def test_an_exchange_that_would_lose_events_is_an_error(
    name: str,
    declared: dict[str, Any],
    found: str,
    channel: AbstractChannel,
    connection: BrokerConnection,
) -> None:
    await channel.declare_exchange(name, **declared)
    findings = await declare_topology(connection)
    errors = [line for line in _in_short(findings) if line.startswith("error")]
    assert any(line.startswith(f"error: exchange {name!r}: {found}") for line in errors), errors
    assert all(name in line for line in errors)


async def test_an_inner_exchange_that_is_open_to_publishers_is_a_warning(
    channel: AbstractChannel, connection: BrokerConnection
) -> None:
    await channel.declare_exchange(topology.DEVICES, "topic", durable=True)
    assert _in_short(await declare_topology(connection)) == [
        "warning: exchange 'diagnosis.devices': internal is false, not true"
    ]


WRONG_QUEUES = {
    "not durable": (topology.PARKED, False, topology.PARKED_ARGUMENTS, "durable is false, not true"),
    "expires": (
        topology.PARKED,
        True,
        {**topology.PARKED_ARGUMENTS, "x-expires": 60_000},
        "x-expires is 60000",
    ),
    "forgets": (
        topology.UNROUTED,
        True,
        {**topology.UNROUTED_ARGUMENTS, "x-message-ttl": 60_000},
        "x-message-ttl is 60000, not none",
    ),
    "is a stream": (topology.PARKED, True, {"x-queue-type": "stream"}, "x-queue-type is stream, not none"),
}


@pytest.mark.parametrize(("name", "durable", "arguments", "found"), WRONG_QUEUES.values(), ids=WRONG_QUEUES)
async def test_a_queue_that_would_lose_events_is_an_error(
    name: str,
    durable: bool,
    arguments: FieldTable,
    found: str,
    channel: AbstractChannel,
    connection: BrokerConnection,
) -> None:
    await channel.declare_queue(name, durable=durable, arguments=arguments)
    findings = await declare_topology(connection)
    errors = [line for line in _in_short(findings) if line.startswith("error")]
    assert any(line.startswith(f"error: queue {name!r}: {found}") for line in errors), (errors, findings)


async def test_looking_changes_nothing(
    node: PrivateRabbitMQ, channel: AbstractChannel, connection: BrokerConnection
) -> None:
    arguments: FieldTable = {"x-max-length": 7, "x-overflow": "reject-publish", "x-max-priority": 3}
    await channel.declare_queue(topology.PARKED, durable=True, arguments=arguments)
    await channel.declare_exchange(topology.EVENTS, "direct", durable=False)
    first = await declare_topology(connection)
    before = await _everything(node)
    assert await declare_topology(connection) == first
    assert await _everything(node) == before
    assert "diagnosis.events direct {}" in before
    assert (
        "queue diagnosis.parked {'x-max-length': 7, 'x-max-priority': 3, 'x-overflow': 'reject-publish'}"
        in before
    )


async def test_a_broker_that_goes_away_meanwhile_is_unavailable(node: PrivateRabbitMQ) -> None:
    connection = await connect(node.amqp_url, name="lost")
    await close(connection)
    with pytest.raises(BrokerUnavailable):
        await declare_topology(connection)


@pytest.mark.parametrize("outer", OUTER)
async def test_an_event_goes_to_shared_and_device_queues_once_and_otherwise_to_the_door(
    outer: str, channel: AbstractChannel, connection: BrokerConnection
) -> None:
    await declare_topology(connection)
    for name, inner in (("shared", topology.EVENTS), ("device", topology.DEVICES)):
        queue = await channel.declare_queue(name, exclusive=True)
        await queue.bind(inner, "diagnosis.7")
    exchange = await channel.get_exchange(outer)

    for key in ("diagnosis.7", "diagnosis.8", "nonsense"):
        await exchange.publish(Message(key.encode()), key)

    assert [message.body for message in await take_all(channel, "shared")] == [b"diagnosis.7"]
    assert [message.body for message in await take_all(channel, "device")] == [b"diagnosis.7"]
    unrouted = await take_all(channel, topology.UNROUTED)
    assert [message.body for message in unrouted] == [b"diagnosis.8", b"nonsense"]
    for name in ("shared", "device"):
        await channel.queue_delete(name)


async def test_a_device_queue_does_not_hide_a_missing_shared_queue(
    channel: AbstractChannel, connection: BrokerConnection
) -> None:
    await declare_topology(connection)
    device = await channel.declare_queue("device", exclusive=True)
    await device.bind(topology.DEVICES, "diagnosis.7")
    await (await channel.get_exchange(OUTER[0])).publish(Message(b"{}"), "diagnosis.7")
    assert len(await take_all(channel, topology.UNROUTED)) == 1
    assert len(await take_all(channel, "device")) == 1
    await channel.queue_delete("device")


def _in_short(findings: list[Finding]) -> list[str]:
    return [f"{finding.severity}: {finding.object}: {finding.found}" for finding in findings]


async def _everything(node: PrivateRabbitMQ) -> list[str]:
    """What is fixed of ours on the broker, as it tells itself: exchanges, queues, bindings; no diagnosis' own."""
    exchanges = await _listed(node, "list_exchanges", "name", "type", "internal", "durable", "arguments")
    queues = await _listed(node, "list_queues", "name", "durable", "arguments")
    bindings = await _listed(
        node, "list_bindings", "source_name", "destination_name", "destination_kind", "routing_key"
    )
    return [
        *sorted(
            f"{row['name']} {row['type']} {'internal ' if row['internal'] else ''}{_arguments(row)}"
            for row in exchanges
            if row["name"] in EXCHANGES
        ),
        *sorted(
            f"queue {row['name']} {_arguments(row)}" for row in queues if not _is_one_diagnosis(row["name"])
        ),
        *sorted(
            f"{row['source_name']} -> {row['destination_kind']} {row['destination_name']} {row['routing_key']}"
            for row in bindings
            if row["source_name"] and not _is_one_diagnosis(row["destination_name"])
        ),
    ]


def _is_one_diagnosis(queue: str) -> bool:
    return topology.parse_queue(queue) is not None


def _arguments(row: dict[str, Any]) -> dict[str, object]:
    return {name: value for name, _, value in sorted(row["arguments"])}


async def _listed(node: PrivateRabbitMQ, *command: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(await ctl(node, *command, "--formatter", "json"))
    return rows
