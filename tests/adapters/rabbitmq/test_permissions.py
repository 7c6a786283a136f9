"""Permissions, asked of the broker itself; each missing one is provoked alone."""

import pytest
from aio_pika.abc import AbstractChannel

from realtime_service.adapters.rabbitmq.connecting import close, connect
from realtime_service.adapters.rabbitmq.permissions import check_permissions, check_publishing
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.domain.finding import Severity
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.support.amqp import ctl, make_topology

ALL = ".*"


async def url_of(node: PrivateRabbitMQ, configure: str = ALL, write: str = ALL, read: str = ALL) -> str:
    """A user with these permissions."""
    if "limited\t" not in await ctl(node, "list_users"):
        await ctl(node, "add_user", "limited", "sesame")
    await ctl(node, "set_permissions", "limited", configure, write, read)
    return f"amqp://limited:sesame@127.0.0.1:{node.port}/"


async def found(url: str) -> list[str]:
    """What is missing, in short."""
    connection = await connect(url, name="permissions")
    findings = await check_permissions(connection)
    await close(connection)
    async with ConfirmedPublisher(url, name="permissions publish") as publisher:
        findings += await check_publishing(publisher)
    assert all(finding.advice and "limited" not in str(finding) for finding in findings)
    return [f"{finding.severity}: {finding.object}: {finding.found}" for finding in findings]


async def test_a_user_who_may_do_everything_lacks_nothing_and_leaves_nothing(
    node: PrivateRabbitMQ, channel: AbstractChannel
) -> None:
    await make_topology(node.amqp_url)
    before = [await ctl(node, f"list_{what}") for what in ("queues", "bindings", "exchanges")]
    assert await found(await url_of(node)) == []
    assert [await ctl(node, f"list_{what}") for what in ("queues", "bindings", "exchanges")] == before


async def test_the_permissions_that_the_readme_names_are_enough(
    node: PrivateRabbitMQ, channel: AbstractChannel
) -> None:
    await make_topology(node.amqp_url)
    names = r"^(diagnosis\.|realtime\.node)"
    assert await found(await url_of(node, names, rf"{names}|^amq\.default$", names)) == []


@pytest.mark.parametrize(
    ("permissions", "missing"),
    [
        (
            {"configure": r"^realtime\.node\."},
            [
                "queue 'diagnosis.<id>': this user has no configure permission",
                "queue 'diagnosis.<id>.device.<key>': this user has no configure permission",
            ],
        ),
        (
            {"configure": r"^diagnosis\."},
            ["queue 'realtime.node.<uuid>': this user has no configure permission"],
        ),
        (
            {"write": r"^(diagnosis\.|realtime\.node\.|amq\.default$)"},
            ["exchange 'realtime.nodes': this user has no write permission"],
        ),
        (
            {"write": r"^(diagnosis\.|realtime\.)"},
            ["exchange 'amq.default': this user has no write permission"],
        ),
        (
            {"read": r"^(diagnosis\.(?!devices)|realtime\.)"},
            ["exchange 'diagnosis.devices': this user has no read permission"],
        ),
        (
            {"read": r"^(diagnosis\.|realtime\.nodes)"},
            ["queue 'realtime.node.<uuid>': this user has no read permission"],
        ),
    ],
)
async def test_a_missing_permission_is_an_error_that_names_it(
    permissions: dict[str, str], missing: list[str], node: PrivateRabbitMQ, channel: AbstractChannel
) -> None:
    await make_topology(node.amqp_url)
    assert await found(await url_of(node, **permissions)) == [f"error: {line}" for line in missing]


async def test_who_may_not_broadcast_is_warned(node: PrivateRabbitMQ, channel: AbstractChannel) -> None:
    await make_topology(node.amqp_url)
    url = await url_of(node, write=r"^(diagnosis\.[0-9]|realtime\.|amq\.default$)")
    assert await found(url) == [
        f"{Severity.WARNING}: exchange 'diagnosis.{kind}': this user has no write permission"
        for kind in ("recommendation", "effectiveness", "feedback")
    ]
