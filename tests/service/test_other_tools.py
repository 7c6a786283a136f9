"""Publishers and clients that share no code with us: a shell tool, a raw socket in another language."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tests.service.harness.history import Connection, data_of
from tests.service.harness.waiting import until
from tests.service.harness.world import World

RAW_CLIENT = Path(__file__).parent / "harness" / "raw_client.mjs"


async def run(*command: str) -> str:
    """Run a program to its end. Returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.skipif(
    not shutil.which("amqp-publish"),
    reason="amqp-tools is not installed; pika publishes without an id elsewhere",
)
async def test_what_a_shell_command_publishes_twice_arrives_twice(world: World) -> None:
    diagnosis = world.diagnosis()
    body = json.dumps({"diagnosis_id": diagnosis, **data_of(2)})
    command = ["amqp-publish", f"--url={world.amqp_url}", "--exchange=diagnosis.feedback", "--persistent"]
    command += [f"--routing-key=diagnosis.{diagnosis}", f"--body={body}"]
    await run(*command)
    client = world.local_client("client")
    connection = await client.connect(world.url(diagnosis))
    await until(lambda: len(connection.events) == 1, "it arrives")
    await run(*command)
    await until(lambda: len(connection.events) == 2, "it arrives again")
    assert connection.numbers == [2, 2]
    assert len({event.event_id for event in connection.events}) == 2


@pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed; other clients are Python's")
async def test_a_client_made_of_a_bare_socket_is_served_and_proves_what_it_got(world: World) -> None:
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    await recorder.publish(diagnosis, 20)
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 20, "first contact is made")
    printed = await run("node", str(RAW_CLIENT), world.url(diagnosis), "20")
    connection = Connection("node")
    for line in printed.splitlines():
        connection.hear(json.loads(line))
    assert connection.welcome
    assert connection.numbers == list(range(1, 21))
    late = world.local_client("late")
    await late.connect(world.url(diagnosis))
    await until(lambda: late.is_welcome, "the next one is welcome")
    assert late.connections[0].welcome
    assert late.connections[0].welcome["queued_messages"] == 0
