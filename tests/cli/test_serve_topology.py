"""`realtime-service serve` and a RabbitMQ that is set up wrongly: a report and no start; later, no end."""

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
from aio_pika.abc import AbstractChannel

from contracts import topology
from realtime_service.cli.outcome import Exit
from realtime_service.embedded.rabbitmq import Broker, PrivateRabbitMQ
from tests.cli.processes import SECRET, Running, environment, finished, running, signed
from tests.cli.terminal import on_a_terminal
from tests.service.harness.waiting import until_true
from tests.support.amqp import connected, ctl, make_topology
from tests.support.vhosts import new_vhost, private_node


@pytest.fixture(scope="module")
def node(broker: Broker) -> Iterator[PrivateRabbitMQ]:
    with private_node(broker) as node:
        yield node


@pytest.fixture
async def amqp_url(node: PrivateRabbitMQ) -> AsyncIterator[str]:
    async with new_vhost(node) as url:
        yield url


@pytest.fixture
async def channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    async with connected(amqp_url) as (_, channel):
        yield channel


def settings(amqp_url: str) -> dict[str, str]:
    return environment(
        amqp_url=amqp_url,
        jwt_secret=SECRET,
        port="0",
        drain_seconds="0",
        database_url="sqlite:///nowhere/no.db",
    )


async def spoil(channel: AbstractChannel) -> None:
    """Make the inner exchange wrong: what nobody is bound for is lost there."""
    await channel.exchange_delete(topology.EVENTS)
    await channel.declare_exchange(topology.EVENTS, "direct", durable=True)


async def test_a_wrong_exchange_ends_the_start_with_a_log_line_for_each_finding(
    amqp_url: str, channel: AbstractChannel
) -> None:
    await spoil(channel)
    done = await finished("serve", env=settings(amqp_url))
    assert done.code == Exit.WRONG_TOPOLOGY
    lines = [json.loads(line) for line in done.err.splitlines()]
    wrong = [line for line in lines if line["event"] == "topology_wrong"]
    assert {line["object"] for line in wrong} == {"exchange 'diagnosis.events'"}
    assert {line["found"].split(" is ")[0] for line in wrong} == {"type", "alternate-exchange"}
    assert all(line["problem"] and line["advice"] and line["level"] == "error" for line in wrong)
    assert [line["event"] for line in lines if line["level"] == "warning"] == ["topology_odd"], "internal"
    assert lines[-1]["event"] == "not_started"
    assert "Traceback" not in done.err


async def test_at_a_terminal_the_report_is_a_table(amqp_url: str, channel: AbstractChannel) -> None:
    await spoil(channel)
    done = await on_a_terminal("serve", env=settings(amqp_url) | {"REALTIME_LOG_LEVEL": "error"}, columns=90)
    assert done.code == Exit.WRONG_TOPOLOGY
    lines = done.out.splitlines()
    assert lines[0] == "RabbitMQ is not set up as the service needs it:"
    assert "\x1b[1;31merror    \x1b[0mexchange 'diagnosis.events': type is direct, not topic" in lines
    assert any(line.startswith("         do:    ") for line in lines)
    assert all(len(line) <= 90 + len("\x1b[1;31m\x1b[0m") for line in lines)
    assert "{" not in done.out
    assert "Traceback" not in done.out


async def test_a_missing_permission_ends_the_start(node: PrivateRabbitMQ, amqp_url: str) -> None:
    await make_topology(amqp_url)
    vhost = amqp_url.rsplit("/", 1)[1]
    await ctl(node, "add_user", vhost, "sesame")
    await ctl(node, "set_permissions", "-p", vhost, vhost, r"^diagnosis\.", ".*", ".*")
    done = await finished("serve", env=settings(f"amqp://{vhost}:sesame@127.0.0.1:{node.port}/{vhost}"))
    await ctl(node, "delete_user", vhost)
    assert done.code == Exit.WRONG_TOPOLOGY
    wrong = [line for line in map(json.loads, done.err.splitlines()) if line["event"] == "topology_wrong"]
    assert [(line["object"], line["found"]) for line in wrong] == [
        ("queue 'realtime.node.<uuid>'", "this user has no configure permission")
    ]
    assert "sesame" not in done.err


async def test_a_queue_that_may_not_be_read_ends_the_start(node: PrivateRabbitMQ, amqp_url: str) -> None:
    await make_topology(amqp_url)
    vhost = amqp_url.rsplit("/", 1)[1]
    await ctl(node, "add_user", vhost, "sesame")
    await ctl(
        node, "set_permissions", "-p", vhost, vhost, ".*", ".*", r"^(diagnosis\.(?!unrouted)|realtime\.)"
    )
    done = await finished("serve", env=settings(f"amqp://{vhost}:sesame@127.0.0.1:{node.port}/{vhost}"))
    await ctl(node, "delete_user", vhost)
    assert done.code == Exit.WRONG_TOPOLOGY
    assert "queue 'diagnosis.unrouted'" in done.err


async def test_a_user_with_few_permissions_serves_where_everything_is_in_place(
    node: PrivateRabbitMQ, amqp_url: str, tmp_path: Path
) -> None:
    await make_topology(amqp_url)
    vhost = amqp_url.rsplit("/", 1)[1]
    own = r"^(diagnosis\.[1-9]|diagnosis\.0|realtime\.node\.)"
    write = r"^(diagnosis\.[0-9]|diagnosis\.(unrouted|parked|feedback)|realtime\.node|amq\.default$)"
    await ctl(node, "add_user", vhost, "sesame")
    await ctl(node, "set_permissions", "-p", vhost, vhost, own, write, r"^(diagnosis\.|realtime\.node)")
    with closing(sqlite3.connect(tmp_path / "own.db")) as connection, connection:
        connection.execute("CREATE TABLE diagnoses (id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL)")
        connection.execute("INSERT INTO diagnoses VALUES (7, 100)")
    limited = f"amqp://{vhost}:sesame@127.0.0.1:{node.port}/{vhost}"
    env = settings(limited) | {"REALTIME_DATABASE_URL": f"sqlite:///{tmp_path / 'own.db'}"}
    async with running("serve", env=env) as serve:
        await serve.prints('"broker_connected"')
        assert '"topology_odd"' in "".join(serve.err)
        watch = ("watch", f"http://127.0.0.1:{port_of(serve)}/ws/7", "--token", signed(100), "--count", "1")
        event = (
            "feedback",
            "--diagnosis",
            "7",
            "--feedback-id",
            "5",
            "--rating",
            "4",
            "--effectiveness",
            "0.7",
        )
        async with running(*watch, env=environment()) as client:
            await client.prints("connected to diagnosis 7")
            assert (await finished("publish", *event, env=env)).code == Exit.OK
            assert (await client.ended()).code == Exit.OK
    await ctl(node, "delete_user", vhost)


async def test_workers_end_together_over_a_wrong_topology(amqp_url: str, channel: AbstractChannel) -> None:
    await spoil(channel)
    done = await finished("serve", "--workers", "2", env=settings(amqp_url))
    assert done.code == Exit.WRONG_TOPOLOGY
    assert '"topology_wrong"' in done.err


async def test_what_is_merely_odd_is_logged_and_stops_nothing(
    amqp_url: str, channel: AbstractChannel
) -> None:
    await channel.declare_queue(topology.PARKED, durable=True, arguments={"x-max-length": 7})
    async with running("serve", env=settings(amqp_url)) as serve:
        await serve.prints('"broker_connected"')
        (odd, *_) = [line for line in serve.err if '"topology_odd"' in line]
        assert json.loads(odd)["found"].startswith("x-m")
        assert serve.code is None


async def test_a_topology_that_turns_wrong_later_ends_nothing_and_is_said_until_it_is_repaired(
    node: PrivateRabbitMQ, amqp_url: str, channel: AbstractChannel
) -> None:
    async with running("serve", env=settings(amqp_url)) as serve:
        await serve.prints('"broker_connected"')
        assert await broker_of(serve) == "ok"
        await spoil(channel)
        await lose_connections(node, amqp_url)
        await serve.prints('"topology_wrong"')

        async def said(what: str) -> bool:
            return await broker_of(serve) == what

        await until_true(lambda: said("wrong topology"), "/readyz says so")
        assert serve.code is None

        async with connected(amqp_url) as (_, repairing):
            await repairing.exchange_delete(topology.EVENTS)
        await serve.prints('"topology_repaired"', seconds=40)
        await until_true(lambda: said("ok"), "/readyz says that it is repaired")


def port_of(serve: Running) -> int:
    """Where it listens."""
    (line,) = [json.loads(line) for line in serve.err if '"listening"' in line]
    return int(line["port"])


async def broker_of(serve: Running) -> str:
    """What `/readyz` says of the broker."""
    url = f"http://127.0.0.1:{port_of(serve)}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return str((await answer.json())["checks"]["broker"])


async def lose_connections(node: PrivateRabbitMQ, amqp_url: str) -> None:
    """Close every connection to the virtual host, as an operator would."""
    vhost = amqp_url.rsplit("/", 1)[1]
    await ctl(node, "close_all_connections", "--vhost", vhost, "--global", "for a test")
