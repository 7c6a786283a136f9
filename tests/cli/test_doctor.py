"""`realtime-service doctor`: each thing that may be wrong is made wrong, and found."""

import json
import os
import secrets
import shlex
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from yarl import URL

from contracts import topology
from realtime_service.adapters.database import create_embedded_database
from realtime_service.adapters.management import virtual_host
from realtime_service.cli.examinations.broker import examine_broker
from realtime_service.cli.examinations.database import examine_database
from realtime_service.cli.examinations.machine import OTHER_FILES, examine_machine
from realtime_service.cli.examinations.tokens import examine_tokens
from realtime_service.cli.outcome import Exit
from realtime_service.domain.finding import Finding, Severity
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ, start_private_rabbitmq
from realtime_service.settings import Settings, load_settings
from tests.cli.processes import COMMAND, SECRET, environment, finished
from tests.cli.terminal import on_a_terminal
from tests.support.amqp import connected, ctl, make_topology, nobody_there
from tests.support.vhosts import new_vhost

Administer = Callable[..., Awaitable[None]]
BACKLOG = r"^diagnosis\.[0-9]"


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateRabbitMQ]:
    """A private node with its management API."""
    node = start_private_rabbitmq(management=True)
    yield node
    node.stop()


@pytest.fixture(scope="module")
async def amqp_url(node: PrivateRabbitMQ) -> str:
    """A virtual host in which the service was started once; nobody changes what it made."""
    await make_topology(node.amqp_url)
    return node.amqp_url


@pytest.fixture
async def own_url(node: PrivateRabbitMQ) -> AsyncIterator[str]:
    """The same, of the test's own."""
    async with new_vhost(node) as url:
        await make_topology(url)
        yield url


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A good SQLite database."""
    with closing(sqlite3.connect(tmp_path / "good.db")) as connection, connection:
        connection.execute("CREATE TABLE diagnoses (id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL)")
    return f"sqlite:///{tmp_path / 'good.db'}"


def settings(**given: str) -> Settings:
    return load_settings({f"REALTIME_{name.upper()}": value for name, value in given.items()})


def in_short(findings: list[Finding], *severities: Severity) -> list[str]:
    """The findings of these severities; errors and warnings, unless others are named."""
    wanted = severities or (Severity.ERROR, Severity.WARNING)
    assert all(
        finding.problem and finding.advice for finding in findings if finding.severity is not Severity.OK
    )
    return [f"{each.severity}: {each.object}: {each.found}" for each in findings if each.severity in wanted]


def management_of(node: PrivateRabbitMQ) -> str:
    assert node.management_url is not None
    return node.management_url


@asynccontextmanager
async def policy(
    node: PrivateRabbitMQ,
    name: str,
    pattern: str,
    definition: dict[str, object],
    *,
    kind: str = "policies",
    **more: object,
) -> AsyncIterator[None]:
    """A policy in the default virtual host."""
    url = URL(management_of(node)).joinpath("api", kind, "%2F", name, encoded=True)
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        what = {"pattern": pattern, "definition": definition, "apply-to": "queues", **more}
        await session.put(url, json=what)
        try:
            yield
        finally:
            await session.delete(url)


# -- The command -------------------------------------------------------------------------------------------------------


async def test_where_nothing_is_wrong_it_says_so_and_ends_with_0(
    node: PrivateRabbitMQ, amqp_url: str, database: str
) -> None:
    env = environment(
        amqp_url=amqp_url,
        management_url=management_of(node),
        database_url=database,
        jwt_secret=SECRET,
        max_connections="100",
    )
    done = await finished("doctor", "--json", env=env)
    report = json.loads(done.out)
    assert (done.code, done.err, report["ok"]) == (Exit.OK, "", True)
    assert {finding["severity"] for finding in report["findings"]} == {"ok"}
    assert {finding["object"] for finding in report["findings"]} == {
        "broker",
        "connection to the broker",
        "permissions",
        "topology",
        "management API",
        "policies",
        "database",
        "tokens",
        "open files",
    }
    for secret in (SECRET, URL(amqp_url).password, URL(management_of(node)).password):
        assert secret is not None
        assert secret not in done.out

    on_screen = await on_a_terminal("doctor", env=env, columns=70)
    assert on_screen.code == Exit.OK
    assert "\x1b[32mok       \x1b[0mdatabase: SQLite; the ownership query works" in on_screen.out
    assert on_screen.out.splitlines()[-1] == "0 wrong, 0 to know of, 9 as it should be"

    plain = await finished("doctor", env=env)
    assert (plain.code, plain.err) == (Exit.OK, "")
    assert "\x1b" not in plain.out


async def test_what_is_wrong_ends_with_1_and_says_what_to_do() -> None:
    env = environment(amqp_url=nobody_there(), database_url="sqlite:///nowhere/no.db", jwt_secret="hunter2")
    done = await finished("doctor", env=env)
    assert (done.code, done.err) == (Exit.FAILED, "")
    lines = done.out.splitlines()
    assert any(
        line.startswith("error    broker: 127.0.0.1:") and "connection refused" in line for line in lines
    )
    assert "         do:    start RabbitMQ, or correct host and port in REALTIME_AMQP_URL" in lines
    assert any("REALTIME_JWT_SECRET: must hold at least 32 bytes" in line for line in lines)
    assert not any(secret in done.out for secret in ("hunter2", "sesame", "no.db"))


async def test_wrong_settings_are_findings_too() -> None:
    done = await finished("doctor", "--json", env=environment(portt="1", backlog_limit="none"))
    assert (done.code, done.err) == (Exit.FAILED, "")
    found = sorted(finding["found"].partition(":")[0] for finding in json.loads(done.out)["findings"])
    assert found == ["REALTIME_BACKLOG_LIMIT", "REALTIME_PORTT"]


async def test_on_a_terminal_a_long_look_is_told(amqp_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database_url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
        done = await on_a_terminal(
            "doctor", env=environment(amqp_url=amqp_url, jwt_secret=SECRET, database_url=database_url)
        )
    assert done.code == Exit.FAILED
    assert "looking … 1 s" in done.out
    assert "looking" not in done.out.rpartition("\r\x1b[K")[2]


# -- The broker --------------------------------------------------------------------------------------------------------


async def test_the_version_and_the_way_are_told(amqp_url: str) -> None:
    found = in_short(await examine_broker(settings(amqp_url=amqp_url)), Severity.OK)
    assert found[0].startswith("ok: broker: RabbitMQ 3.") or found[0].startswith("ok: broker: RabbitMQ 4.")
    assert "ok: connection to the broker: plain, on this machine" in found


REFUSALS: dict[str, tuple[Callable[[str], str], str]] = {
    "password": (
        lambda url: str(URL(url).with_password("wrong")),
        "it refused the user name or the password",
    ),
    "virtual host": (lambda url: url + "-no", "it refused the virtual host, or takes no more connections"),
    "TLS": (lambda url: url.replace("amqp:", "amqps:"), "the TLS hand-shake failed"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSALS.values(), ids=REFUSALS)
async def test_a_broker_that_refuses(change: Callable[[str], str], reason: str, amqp_url: str) -> None:
    (finding,) = await examine_broker(settings(amqp_url=change(amqp_url)))
    assert finding.severity is Severity.ERROR
    assert finding.found.endswith(f"cannot be used: {reason}")
    assert "broker's log" not in finding.advice


async def test_missing_permissions_and_a_wrong_topology(node: PrivateRabbitMQ, own_url: str) -> None:
    async with connected(own_url) as (_, channel):
        await channel.exchange_delete(topology.EVENTS)
        await channel.declare_exchange(topology.EVENTS, "direct", durable=True, internal=True)
        await channel.queue_delete(topology.PARKED)
    vhost = virtual_host(own_url)
    await ctl(node, "add_user", vhost, "sesame")
    await ctl(node, "set_permissions", "-p", vhost, vhost, r"^diagnosis\.", ".*", ".*")
    url = f"amqp://{vhost}:sesame@127.0.0.1:{node.port}/{vhost}"
    before = await ctl(node, "list_queues", "-p", vhost)
    findings = await examine_broker(settings(amqp_url=url))
    assert await ctl(node, "list_queues", "-p", vhost) == before, "it only looks"
    await ctl(node, "delete_user", vhost)
    assert in_short(findings) == [
        "error: queue 'realtime.node.<uuid>': this user has no configure permission",
        "warning: queue 'diagnosis.parked': it does not exist",
        "warning: exchange 'realtime.nodes': it exists",
        "error: exchange 'diagnosis.events': type is direct, not topic",
        "error: exchange 'diagnosis.events': alternate-exchange is none, not diagnosis.unrouted",
        "warning: policies: not looked at: REALTIME_MANAGEMENT_URL is not set",
    ]


POLICIES = {
    "shorter": (BACKLOG, {"max-length": 5}, {}, ["warning: max-length 5 for queues of diagnoses"]),
    "as long": (BACKLOG, {"max-length": 100}, {}, []),
    "expire": (BACKLOG, {"expires": 60000}, {}, ["error: expires 60000 for queues of diagnoses"]),
    "younger": (BACKLOG, {"message-ttl": 60000}, {}, ["error: message-ttl 60000 for queues of diagnoses"]),
    "the door": (
        r"^diagnosis\.unrouted$",
        {"message-ttl": 86_400_000 * 365},
        {},
        ["error: message-ttl 31536000000 for diagnosis.unrouted"],
    ),
    "refuse": (
        ".*",
        {"overflow": "reject-publish"},
        {},
        ["error: overflow reject-publish for queues of diagnoses"],
    ),
    "bytes": (
        BACKLOG,
        {"max-length-bytes": 9999},
        {},
        ["warning: max-length-bytes 9999 for queues of diagnoses"],
    ),
    "room for all": (BACKLOG, {"max-length-bytes": 100 * 64 * 1024}, {}, []),
    "others": (r"^audit\.", {"expires": 60000, "max-length": 1}, {}, []),
    "exchanges": (".*", {"alternate-exchange": "lost"}, {"apply-to": "exchanges"}, []),
}


@pytest.mark.parametrize(("pattern", "definition", "more", "expected"), POLICIES.values(), ids=POLICIES)
async def test_a_policy_that_does_harm(
    pattern: str,
    definition: dict[str, object],
    more: dict[str, str],
    expected: list[str],
    node: PrivateRabbitMQ,
    amqp_url: str,
) -> None:
    async with policy(node, "harm", pattern, definition, **more):
        found = await examine_broker(settings(amqp_url=amqp_url, management_url=management_of(node)))
    harm = [
        f"{each.severity}: {each.found}"
        for each in found
        if each.object == "policy 'harm'" and ("for queues of diag" in each.found or "unrouted" in pattern)
    ]
    assert harm == expected
    if not expected:
        assert in_short(found) == []


async def test_of_several_policies_the_one_with_the_highest_priority_counts_beside_the_operators(
    node: PrivateRabbitMQ, amqp_url: str
) -> None:
    seen = settings(amqp_url=amqp_url, management_url=management_of(node))
    async with (
        policy(node, "low", BACKLOG, {"expires": 1000}, priority=1),
        policy(node, "high", BACKLOG, {"max-length": 1000}, priority=2),
    ):
        assert in_short(await examine_broker(seen)) == []
        async with policy(node, "strict", BACKLOG, {"max-length": 5}, kind="operator-policies"):
            assert in_short(await examine_broker(seen)) == [
                "warning: operator policy 'strict': max-length 5 for queues of diagnoses",
                "warning: operator policy 'strict': max-length 5 for queues of devices",
            ]


async def test_a_missing_binding_is_found_by_the_management_api(node: PrivateRabbitMQ, own_url: str) -> None:
    async with connected(own_url) as (_, channel):
        inner = await channel.get_exchange(topology.EVENTS, ensure=False)
        await inner.unbind("diagnosis.feedback", topology.ANY_DIAGNOSIS)
    found = await examine_broker(settings(amqp_url=own_url, management_url=management_of(node)))
    assert in_short(found) == [
        "warning: binding of 'diagnosis.events' to 'diagnosis.feedback': it does not exist"
    ]


async def test_a_management_api_that_refuses(node: PrivateRabbitMQ, amqp_url: str) -> None:
    url = str(URL(management_of(node)).with_password("wrong"))
    found = await examine_broker(settings(amqp_url=amqp_url, management_url=url))
    assert in_short(found) == ["error: management API: the management API answered 401"]


# -- The database ------------------------------------------------------------------------------------------------------


async def of_database(url: str) -> list[str]:
    return in_short(await examine_database(settings(database_url=url)))


async def test_an_sqlite_file_that_is_missing_is_not_made(tmp_path: Path) -> None:
    assert await of_database(f"sqlite:///{tmp_path / 'no.db'}") == [
        "error: database: the SQLite file does not exist"
    ]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("CREATE TABLE others (id)", "there is no table or view `diagnoses`"),
        ("CREATE TABLE diagnoses (id)", "`diagnoses` lacks the column id or patient_id"),
    ],
)
async def test_an_sqlite_file_without_what_is_read(statement: str, found: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection, connection:
        connection.execute(statement)
    assert await of_database(f"sqlite:///{tmp_path / 'other.db'}") == [f"error: database: {found}"]


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text(
        "this is no database, but a text that is long enough for a header " * 20
    )
    assert await of_database(f"sqlite:///{tmp_path / 'text.db'}") == [
        "error: database: the file is no SQLite database"
    ]


@pytest.fixture
async def postgresql(postgresql_url: str) -> AsyncIterator[tuple[str, Administer]]:
    """A database of the test's own, and a way to run statements there."""
    name = f"doctor_{secrets.token_hex(6)}"
    url = make_url(postgresql_url).set(database=name).render_as_string(hide_password=False)

    async def administer(server: str, *statements: str) -> None:
        engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        await engine.dispose()

    await administer(postgresql_url, f"CREATE DATABASE {name} TEMPLATE template0")
    await administer(url, f"CREATE ROLE {name} LOGIN PASSWORD 'sesame'")
    yield url, administer
    await administer(postgresql_url, f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")


async def test_postgresql_step_by_step_until_it_is_as_it_should_be(
    postgresql: tuple[str, Administer],
) -> None:
    url, administer = postgresql
    name = make_url(url).database
    own = make_url(url).set(username=name, password="sesame").render_as_string(hide_password=False)
    elsewhere = make_url(own).set(database="nowhere").render_as_string(hide_password=False)
    assert await of_database(elsewhere) == ["error: database: there is no database of that name"]
    assert await of_database(own) == ["error: database: there is no table or view `diagnoses`"]
    await create_embedded_database(url, {1: 10})
    assert await of_database(own) == ["error: database: this user may not read `diagnoses`"]
    await administer(url, f"GRANT SELECT ON diagnoses TO {name}")
    assert await of_database(own) == []
    late = "'SELECT pg_catalog.now() - interval ''1 min'''"
    await administer(
        url,
        "CREATE SCHEMA late",
        f"CREATE FUNCTION late.now() RETURNS timestamptz LANGUAGE sql AS {late}",
        f"GRANT USAGE ON SCHEMA late TO {name}",
        f"ALTER ROLE {name} SET search_path = late, pg_catalog, public",
    )
    assert await of_database(own) == ["warning: clock: 60 s ahead of the database's"]


# -- Tokens ------------------------------------------------------------------------------------------------------------


async def of_tokens(**given: str) -> list[str]:
    return in_short(await examine_tokens(settings(**given)))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "error: tokens: REALTIME_JWT_SECRET | "),
        (
            {"jwt_secret": "short"},
            "error: tokens: REALTIME_JWT_SECRET: must hold at least 32 bytes, it holds 5",
        ),
        ({"jwt_secret": "changeme" * 8}, "warning: tokens: a secret of few different signs"),
        ({"jwt_public_key": "no PEM"}, "error: tokens: REALTIME_JWT_PUBLIC_KEY: not a key for RS256, ES256"),
    ],
    ids=["none", "short", "repeated", "no key"],
)
async def test_a_key_that_will_not_do(given: dict[str, str], found: str) -> None:
    assert (await of_tokens(**given))[0].startswith(found)


@pytest.mark.parametrize(
    ("status", "keys", "found"),
    [
        (200, ["good"], []),
        (200, [], ["error: identity provider: it holds no public key with an id for RS256, ES256"]),
        (200, ["private"], ["error: identity provider: it holds no public key with an id for RS256, ES256"]),
        (
            500,
            ["good"],
            ["error: identity provider: what it answers is no key set (200, JSON, not too long)"],
        ),
    ],
    ids=["good", "none", "private", "failing"],
)
async def test_an_identity_provider(status: int, keys: list[str], found: list[str]) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    published = {
        "good": {**RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": "1"},
        "private": {**RSAAlgorithm.to_jwk(private, as_dict=True), "kid": "1"},
    }

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"keys": [published[key] for key in keys]}, status=status)

    app = web.Application()
    app.router.add_get("/keys", answer)
    async with TestServer(app) as server:
        assert await of_tokens(jwt_jwks_url=str(server.make_url("/keys")), jwt_audience="here") == found


async def test_an_identity_provider_that_is_away_and_a_missing_audience() -> None:
    url = f"http://127.0.0.1:{URL(nobody_there()).port}/keys"
    assert await of_tokens(jwt_jwks_url=url) == [
        "error: identity provider: no connection",
        "warning: tokens: REALTIME_JWT_AUDIENCE is not set",
    ]


# -- The machine -------------------------------------------------------------------------------------------------------


async def test_fewer_files_than_connections() -> None:
    env = environment(jwt_secret=SECRET, amqp_url=nobody_there(), max_connections="1000")
    command = " ".join(map(shlex.quote, (*COMMAND, "doctor", "--json")))
    done = await finished(script=f"ulimit -n 300; exec {command}", env=env)
    (finding,) = [each for each in json.loads(done.out)["findings"] if each["object"] == "open files"]
    assert (finding["severity"], finding["found"]) == ("error", "up to 300")
    assert "beyond some 200 nobody" in finding["problem"]
    assert f"LimitNOFILE={1000 + OTHER_FILES}" in finding["advice"]


def test_as_many_files_as_connections() -> None:
    assert in_short(examine_machine(settings(max_connections="10"))) == []
