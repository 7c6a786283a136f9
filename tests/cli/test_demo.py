"""`realtime-service demo`: what it prints works as it stands, and nothing is left of it."""

import asyncio
import json
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from yarl import URL

from realtime_service.cli.demo_screen import Facts, program_again, screen
from realtime_service.cli.outcome import Exit
from realtime_service.embedded.rabbitmq import Broker, find_rabbitmq_server
from tests.cli.processes import Running, environment, finished, running
from tests.cli.terminal import terminal
from tests.service.harness.waiting import until

READY_SECONDS = 50.0
"""Some 7 s on an idle machine, most of them RabbitMQ's."""
LAST_LINE = "Ctrl-C stops everything."


@pytest.fixture(scope="module", autouse=True)
def installed_server(broker: Broker) -> None:
    """Asked for after the tests' broker: that is installed, where it may be."""
    if find_rabbitmq_server() is None:
        pytest.skip(f"no rabbitmq-server is installed (the tests' broker is from: {broker.source})")


@asynccontextmanager
async def demo(*words: str, folder: Path) -> AsyncIterator[Running]:
    """The demo, with a folder for everything temporary that must be empty in the end."""
    async with running("demo", *words, env=environment() | {"TMPDIR": str(folder)}) as process:
        yield process


def assert_empty(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def command(process: Running, holding: str) -> str:
    """The one printed command with this text."""
    (line,) = [line for line in process.out if line.startswith("  ") and holding in line]
    return line.strip()


async def gone(family: list[psutil.Process]) -> None:
    """Return once none of them runs; one that nobody has waited for yet does not run any more."""
    await until(
        lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in _still(family)),
        "all its processes are gone",
    )


def _still(family: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in family if psutil.pid_exists(one.pid)]


@pytest.mark.slow
@pytest.mark.timeout(180)  # a dozen processes, one after the other
async def test_the_printed_commands_work_as_they_stand_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    async with demo("--port", "0", folder=tmp_path) as process:
        await process.prints(LAST_LINE, seconds=READY_SECONDS)
        family = psutil.Process(process.pid).children(recursive=True)
        assert family

        watch = command(process, " watch ") + " --count 3 --timeout 40"
        async with running(env=environment(), script=watch) as client:
            await client.prints("connected to diagnosis 123: no events were waiting; receipts by pong")
            table = await _printed(command(process, " status "))
            assert ["123", "1", "0"] in [line.split() for line in table.splitlines()]
            ids = [await _printed(command(process, " publish effectiveness ")) for _ in range(2)]
            if shutil.which("amqp-publish"):
                await _printed(command(process, "amqp-publish "))
            else:
                await _printed(command(process, " publish effectiveness "))
            done = await client.ended()
        assert (done.code, done.err) == (Exit.OK, "")
        events = done.out.splitlines()[1:]
        assert all('{"recommendation_id":789,"effectiveness":0.85,' in line for line in events)
        assert [ids[0][:8] in events[0], ids[1][:8] in events[1], len(events)] == [True, True, 3]

        await _printed(command(process, " publish effectiveness "))
        if shutil.which("curl"):
            await until_reported(command(process, "curl "), {"123": 1})

        process.signal(signal.SIGINT)
        ended = await process.ended()
        assert (ended.code, ended.err) == (Exit.OK, "")
        assert ended.out.endswith("Stopped.")
        await gone(family)
    assert_empty(tmp_path)


async def _printed(script: str) -> str:
    """What a command prints, which must succeed without a complaint."""
    done = await finished(script=script)
    assert (done.code, done.err) == (0, ""), (script, done)
    return done.out


async def until_reported(curl: str, waiting: dict[str, int]) -> None:
    """Ask for the report until it says what waits: RabbitMQ counts once a second."""
    async with asyncio.timeout(20):
        while (json.loads(await _printed(curl)))["queued_messages_by_diagnosis"] != waiting:
            pass


@pytest.mark.slow
async def test_sigterm_while_the_broker_starts_leaves_nothing(tmp_path: Path) -> None:
    async with demo(folder=tmp_path) as process:
        await process.prints("Starting a private RabbitMQ node")
        family = psutil.Process(process.pid).children(recursive=True)
        process.signal(signal.SIGTERM)
        done = await process.ended()
        assert (done.code, done.err) == (Exit.OK, "")
        assert LAST_LINE not in done.out
        await gone(family)
    assert_empty(tmp_path)


async def test_a_broker_that_is_named_is_used_and_its_password_not_shown(
    broker: Broker, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        env = environment(amqp_url=broker.amqp_url, database_url="postgresql://nobody@127.0.0.1:1/none")
        async with running("demo", "--port", str(port), env=env | {"TMPDIR": str(tmp_path)}) as process:
            await process.prints(LAST_LINE, seconds=READY_SECONDS)
            await process.prints(f"Port {port} is taken by another program: using ")
            ready = next(line for line in process.out if line.startswith("Ready at "))
            server = URL(ready.split()[2].rstrip("."))
            assert server.port != port
            assert command(process, "/console") == str(server / "console")
            await assert_console_is_open(server)
            process.signal(signal.SIGTERM)
            done = await process.ended()
    assert (done.code, done.err) == (Exit.OK, "")
    assert str(URL(broker.amqp_url).password) not in done.out
    assert 'amqp-publish --url "$REALTIME_AMQP_URL"' in done.out
    assert_empty(tmp_path)


async def test_for_scripts_it_prints_a_line_of_json_and_nothing_else(broker: Broker, tmp_path: Path) -> None:
    env = environment(amqp_url=broker.amqp_url) | {"TMPDIR": str(tmp_path)}
    async with running("demo", "--port", "0", "--json", env=env) as process:
        await process.prints('"operator_token"', seconds=READY_SECONDS)
        given = json.loads(process.out[0])
        assert (given["diagnosis"], given["amqp_url"]) == (123, None)
        status = ("status", "--server", given["server"], "--token", given["operator_token"], "--json")
        report = await finished(*status)
        assert json.loads(report.out)["total_connections"] == 0
        assert URL(given["websocket"]).query["token"] == given["token"]
        await assert_console_is_open(URL(given["server"]))
        process.signal(signal.SIGTERM)
        done = await process.ended()
    assert (done.code, len(done.out.splitlines()), done.err) == (Exit.OK, 1, "Stopped.")
    assert str(URL(broker.amqp_url).password) not in done.out


async def test_on_a_terminal_it_tells_for_how_long_it_waits(tmp_path: Path) -> None:
    async with terminal("demo", "--port", "0", env=environment() | {"TMPDIR": str(tmp_path)}) as shown:
        await shown.shows("until RabbitMQ is there … 1 s")
        family = psutil.Process(shown.process.pid).children(recursive=True)
        shown.process.send_signal(signal.SIGTERM)
        assert (await shown.ended()).code == Exit.OK
        await gone(family)
    assert_empty(tmp_path)


async def assert_console_is_open(server: URL) -> None:
    """The page takes tokens by itself, and they may look."""
    async with aiohttp.ClientSession() as session:
        async with session.get(server / "console") as page:
            assert "data-demo" in await page.text()
        async with session.post(server / "console" / "tokens") as answer:
            tokens = await answer.json()
        assert set(tokens) == {"123", "124"}
        for diagnosis, token in tokens.items():
            query = {"diagnosis": diagnosis}
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(server / "console" / "flow" % query, headers=headers) as flow:
                assert flow.status == 200


async def test_a_broker_that_is_named_and_away_is_said_in_a_line() -> None:
    done = await finished("demo", "--port", "0", env=environment(amqp_url="amqp://user:hunter2@127.0.0.1:1/"))
    assert (done.code, done.out) == (Exit.FAILED, "")
    assert done.complaint == (
        "realtime-service demo: the broker at 127.0.0.1:1 (REALTIME_AMQP_URL) cannot be used: connection refused"
    )


async def test_wrong_settings_are_said_before_anything_is_started() -> None:
    done = await finished("demo", env=environment(amqp_url="nonsense", backlog_limit="0"))
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert [line.partition(":")[0] for line in done.err.splitlines()] == [
        "REALTIME_AMQP_URL",
        "REALTIME_BACKLOG_LIMIT",
    ]


# -- The screen --------------------------------------------------------------------------------------------------------


def facts(amqp_url: str | None = "amqp://user:password@127.0.0.1:5/%2F", *, console: bool = False) -> Facts:
    return Facts(
        server=URL("ws://127.0.0.1:8000"),
        token="a.b.c",
        operator_token="d.e.f",
        amqp_url=amqp_url,
        management_url="http://user:password@127.0.0.1:15672",
        console=console,
    )


def test_every_command_is_a_line_that_a_shell_can_read() -> None:
    commands = [shlex.split(line) for line in screen(facts()).splitlines() if line.startswith("  ")]
    assert commands[0] == ["ws://127.0.0.1:8000/ws/123?token=a.b.c"]
    assert commands[1][-2:] == ["watch", "ws://127.0.0.1:8000/ws/123?token=a.b.c"]
    assert commands[2][0] == "REALTIME_AMQP_URL=amqp://user:password@127.0.0.1:5/%2F"
    assert commands[3][:3] == ["amqp-publish", "--url", "amqp://user:password@127.0.0.1:5/%2F"]
    assert json.loads(commands[3][-1])["diagnosis_id"] == 123
    assert commands[4][-5:] == ["status", "--server", "http://127.0.0.1:8000", "--token", "d.e.f"]
    assert commands[5][-2:] == ["Authorization: Bearer d.e.f", "http://127.0.0.1:8000/ws/status"]
    assert commands[6] == [
        *("export", "SERVER=http://127.0.0.1:8000", "TOKEN=a.b.c", "OPERATOR_TOKEN=d.e.f"),
        "REALTIME_AMQP_URL=amqp://user:password@127.0.0.1:5/%2F",
    ]
    assert commands[7] == ["http://127.0.0.1:15672"]


def test_the_console_is_named_first_where_there_is_one() -> None:
    lines = [line.strip() for line in screen(facts(console=True)).splitlines() if line.startswith("  ")]
    assert lines[0] == "http://127.0.0.1:8000/console"
    assert "/console" not in screen(facts())


def test_the_console_is_named_again_where_a_small_terminal_still_shows_it() -> None:
    assert screen(facts(console=True)).splitlines()[-2:] == [
        "Begin here: http://127.0.0.1:8000/console",
        LAST_LINE,
    ]
    assert "Begin" not in screen(facts())


def test_in_colours_what_is_to_be_copied_stands_out() -> None:
    plain, coloured = screen(facts()).splitlines(), screen(facts(), colours=True).splitlines()
    assert coloured[1] == f"\x1b[32m{plain[1]}\x1b[0m"
    for line, shown in zip(plain, coloured, strict=True):
        assert (shown == f"\x1b[36m{line}\x1b[0m") is line.startswith("  ")


def test_a_named_brokers_url_is_left_to_the_environment() -> None:
    text = screen(facts(amqp_url=None))
    assert "with REALTIME_AMQP_URL set there as it is here" in text
    assert "REALTIME_AMQP_URL=" not in text


@pytest.mark.parametrize(
    ("started", "again"),
    [
        (".venv/bin/realtime-service", ".venv/bin/realtime-service"),
        ("{folder}/.venv/bin/realtime-service", ".venv/bin/realtime-service"),
        ("realtime-service", "./realtime-service"),
        ("../a folder/realtime-service", "'{parent}/a folder/realtime-service'"),
        ("{folder}/realtime_service/__main__.py", f"{sys.executable} -m realtime_service"),
        ("not-a-file", f"{sys.executable} -m realtime_service"),
    ],
)
def test_the_program_is_named_as_it_can_be_started_again(started: str, again: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    for place in (folder / ".venv" / "bin", folder, tmp_path / "a folder"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "realtime-service").touch()
    again = again.format(parent=tmp_path)
    assert program_again(Path(started.format(folder=folder)), folder) == again
