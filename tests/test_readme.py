"""What the README says is true: its commands work as they stand, its tables are fresh, its names exist.

The demo is started as `make run` starts it; the examples run against it. The Dart block alone is not run: there is no
tool-chain for it here, and the README says so.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import jsonschema
import pika
import pytest
from websockets.asyncio.client import ClientConnection, connect

from contracts import topology
from contracts.close_codes import CloseCode
from contracts.documents import openapi
from contracts.documents.shapes import SHAPES
from realtime_service.cli import COMMANDS
from realtime_service.embedded.rabbitmq import Broker
from realtime_service.event_publisher import EventPublisher
from realtime_service.settings import Settings
from tests.browser.clients import node
from tests.service.harness.waiting import until, until_true
from tests.support import readme, servers
from tests.support.demo import BLOCK_SECONDS, Demo, running_demo
from tests.support.postgresql import SETTING as DATABASE_SETTING
from tests.support.readme import ROOT, Block

TEXT: Final = readme.README.read_text(encoding="utf-8")
BLOCKS: Final = readme.blocks(TEXT)


def _blocks(language: str, *headings: str) -> list[Block]:
    return [
        block
        for block in BLOCKS
        if block.language == language and (not headings or block.heading in headings)
    ]


# --- What can be read off ---------------------------------------------------------------------------------------------


def test_the_generated_tables_are_fresh() -> None:
    assert readme.generated(TEXT) == list(readme.TABLES)
    assert readme.refreshed(TEXT) == TEXT, "run: python -m tests.support.readme"


def test_every_block_is_of_a_language_that_is_tested_here() -> None:
    assert {block.language for block in BLOCKS} == {"sh", "python", "json", "js", "sql", "text", "dart"}
    assert [block.heading for block in _blocks("dart")] == ["Clients"]
    assert "**not run**" in TEXT


def test_every_link_leads_somewhere() -> None:
    for link in readme.links(TEXT):
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        if anchor:
            assert anchor in readme.anchors((ROOT / path).read_text("utf-8") if path else TEXT), link


def test_every_variable_exists() -> None:
    known = {f"REALTIME_{name.upper()}" for name in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known} | {servers.BROKER_SETTING, DATABASE_SETTING}
    known.add("REALTIME_TEST_QUEUE_TYPE")  # tests/service/conftest.py
    assert set(re.findall(r"REALTIME_[A-Z_]+", TEXT)) <= known


def test_every_close_code_exists() -> None:
    """A close code stands in code quotes, and no other number of four digits does."""
    named = {int(number) for number in re.findall(r"`(\d{4})`", readme.prose(TEXT))}
    assert named <= {code.value for code in CloseCode}


def test_the_routes_are_those_of_the_contract() -> None:
    named = {route for row in readme.rows(TEXT, "HTTP") for route in re.findall(r"`([A-Z]+ /[^`]*)`", row[0])}
    paths = openapi()["paths"].items()
    assert named == {f"{method.upper()} {path}" for path, methods in paths for method in methods}


def test_the_commands_are_those_of_the_program() -> None:
    named = [re.findall(r"`realtime-service (\w+)`", row[0]) for row in readme.rows(TEXT, "Operating")]
    assert {command for row in named for command in row} == set(COMMANDS)


def test_every_log_line_that_is_named_is_written_somewhere() -> None:
    section = TEXT.partition("**Logs**")[2].partition("\n\n")[0]
    source = "".join(path.read_text() for path in (ROOT / "realtime_service").rglob("*.py"))
    named = re.findall(r"`(\w+)`", section)
    assert len(named) > 5
    assert [name for name in named if f'"{name}"' not in source] == []


@pytest.mark.parametrize("block", _blocks("json"), ids=str)
def test_every_json_block_is_of_the_contract(block: Block) -> None:
    value = json.loads(block.text)
    jsonschema.validate(value, SHAPES[f"server.{value['type']}"].document())


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"`make (\w+)`", TEXT)) | set(re.findall(r"^make (\w+)$", TEXT, re.MULTILINE))
    assert targets >= {"run", "test", "check"}
    planned = {target: _make_plan(target) for target in targets}
    assert "realtime-service demo" in planned["run"]
    assert "pytest" in planned["test"]


def _make_plan(target: str) -> str:
    """What `make target` would do."""
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=BLOCK_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- What runs against the demo ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def demo(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Demo]:
    """A demo, and a client that watches diagnosis 123."""
    async with (
        running_demo(broker, tmp_path_factory.mktemp("readme")) as demo,
        connect(f"{demo.url}?token={demo.token}") as client,
    ):
        watching = asyncio.create_task(_hear(client, demo.messages))
        await until(lambda: demo.messages, "the client is welcome")
        yield demo
        watching.cancel()


async def _hear(client: ClientConnection, messages: list[dict[str, Any]]) -> None:
    async for text in client:
        messages.append(json.loads(text))  # noqa: PERF401  (`extend` would wait for the last one)


def test_the_demo_shows_what_the_readme_shows(demo: Demo) -> None:
    if not re.search("^RabbitMQ's own page", demo.screen, re.MULTILINE):
        pytest.skip("the screen is another one on a broker that was named")
    program = re.search(r"^  (\S+(?: -m realtime_service)?) watch ", demo.screen, re.MULTILINE)
    assert program
    address = demo.server.removeprefix("http://")
    screen = demo.screen.replace(program[1], ".venv/bin/realtime-service").replace(address, "127.0.0.1:8000")
    (block,) = _blocks("text", "Two commands")
    rest = iter(screen.splitlines())
    for line in block.text.splitlines():
        pattern = ".+".join(re.escape(part) for part in line.split("…"))
        assert any(re.fullmatch(pattern, shown) for shown in rest), line


@pytest.mark.parametrize("block", [*_blocks("python", "Publishing"), *_blocks("sh", "Publishing")], ids=str)
async def test_every_way_to_publish_reaches_a_client(demo: Demo, block: Block) -> None:
    before = len(demo.events)
    await demo.run_block(block)
    await until(lambda: len(demo.events) > before, "the event arrives")


@pytest.mark.parametrize("block", _blocks("sh", "Operating"), ids=str)
async def test_the_commands_for_operators_work(demo: Demo, block: Block) -> None:
    shown = await demo.run_block(block)
    assert "123" in shown
    assert '"status":"ok"' in shown


@pytest.mark.parametrize("block", _blocks("sh", "Clients"), ids=str)
async def test_the_client_for_the_terminal_shows_an_event(demo: Demo, block: Block) -> None:
    process = await demo.start("/bin/sh", "-e", "-c", block.text)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(BLOCK_SECONDS):
            assert b"connected to diagnosis 123" in await process.stdout.readline()
            event_id = await demo.publish(1)
            assert event_id[:8].encode() in await process.stdout.readline()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        async with asyncio.timeout(BLOCK_SECONDS):
            await process.communicate()


async def test_every_metric_that_is_named_exists(demo: Demo) -> None:
    named = {
        name for row in readme.rows(TEXT, "Operating") for name in re.findall(r"`(realtime_\w+)`", row[0])
    }
    async with aiohttp.ClientSession() as session, session.get(demo.server + "/metrics") as answer:
        shown = set(re.findall(r"^# TYPE (\w+)", await answer.text(), re.MULTILINE))
    assert named == {name for name in shown if not name.endswith("_created")}


@pytest.mark.parametrize("block", _blocks("python", "Operating"), ids=str)
async def test_what_is_parked_can_be_read_and_published_again(demo: Demo, block: Block) -> None:
    async with EventPublisher(
        demo.amqp_url
    ) as publisher:  # so that the exchanges are there, and the door is open
        await publisher.broadcast_feedback_update(123, 2, 5, 0.5)
    with pika.BlockingConnection(pika.URLParameters(demo.amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        before = _depth(channel, topology.PARKED)
        channel.basic_publish("diagnosis.feedback", "diagnosis.123", b'{"diagnosis_id": 123, "rating": 9}')
        await until(lambda: _depth(channel, topology.PARKED) == before + 1, "a bad event is parked")
        headers = {"x-park-reason": "the diagnosis does not exist"}
        headers |= {"x-origin-exchange": "diagnosis.feedback", "x-origin-routing-key": "diagnosis.123"}
        channel.basic_publish(
            "",
            topology.PARKED,
            b'{"diagnosis_id": 123, "feedback_id": 3, "rating": 4, "effectiveness": 0.5}',
            pika.BasicProperties(message_id="waited in vain", headers=headers),
        )

        shown = await demo.run_block(block)

        assert "rating" in shown
        assert "waited in vain" in shown
        await until(lambda: demo.events[-1]["event_id"] == "waited in vain", "the event arrives")
        await until(lambda: _depth(channel, topology.PARKED) == before + 1, "the bad event stays")


def _depth(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A program of the JavaScript block, and what an app brings along; it ends with the first event."""
    (block,) = _blocks("js")
    (tmp_path / "client.js").write_bytes((ROOT / "realtime_service/web/static/client.js").read_bytes())
    (tmp_path / "package.json").write_text('{"type": "module"}')
    path = tmp_path / "watch.js"
    path.write_text(f"""
        const server = process.env.SERVER;
        const fetchToken = async () => process.env.TOKEN;
        const show = (type, data) => {{ console.log(type, JSON.stringify(data)); client.close(); }};
        const showState = (state, code) => {{ if (code) console.log(state, code); }};
        const loadCurrentState = () => console.log("gap");
        {block.text}
    """)
    return str(path)


async def test_the_javascript_client_shows_an_event(demo: Demo, script: str) -> None:
    others = await demo.connections()
    running = asyncio.create_task(demo.run(*node(websocket=True), script))

    async def has_come() -> bool:
        return running.done() or await demo.connections() > others

    await until_true(has_come, "it is connected")
    await demo.publish(11)
    shown = (await running).splitlines()
    data = {"feedback_id": 11, "rating": 5, "effectiveness": 0.5}
    assert shown == [f"feedback_update {json.dumps(data, separators=(',', ':'))}", "closed 1000"]


async def test_the_javascript_client_obeys_a_refusal(demo: Demo, script: str) -> None:
    assert await demo.run(*node(websocket=True), script, TOKEN="x.y.z") == "closed 1008\n"


# --- What runs against PostgreSQL -------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", _blocks("sql"), ids=str)
async def test_the_view_lets_the_service_read_what_it_needs_and_nothing_else(
    postgresql_url: str, block: Block
) -> None:
    connection = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    undone = connection.transaction()
    await undone.start()
    try:
        await connection.execute(
            "CREATE SCHEMA readme; SET LOCAL search_path = readme; CREATE SCHEMA platform;"
            "CREATE TABLE platform.diagnosis (id bigint PRIMARY KEY, patient_id bigint, finding text);"
            "INSERT INTO platform.diagnosis VALUES (123, 100, 'private')"
        )
        await connection.execute(block.text)
        await connection.execute(
            "GRANT USAGE ON SCHEMA readme TO realtime_service"
        )  # `public` grants it to all
        await connection.execute("SET LOCAL ROLE realtime_service")
        rows = await connection.fetch("SELECT id, patient_id FROM diagnoses WHERE id IN (123)")
        assert [tuple(row) for row in rows] == [(123, 100)]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT finding FROM platform.diagnosis")
    finally:
        await undone.rollback()
        await connection.close()
