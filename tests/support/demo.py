"""A demo, started as `make run` starts it, and programs that are run as its reader would."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import pika
import pytest

from contracts import topology
from contracts.ids import DiagnosisId
from realtime_service.embedded.rabbitmq import Broker
from realtime_service.event_publisher import EventPublisher
from tests.support.readme import ROOT, Block

START_SECONDS: Final = 55.0
"""A private broker with its management page: some 8 s on two idle cores."""
BLOCK_SECONDS: Final = 30.0
MAY_BE_MISSING: Final = ("amqp-publish", "curl")
"""Programs the examples use that no package of ours brings."""


class Demo:
    """A running demo, and what it printed."""

    def __init__(self, screen: str, folder: Path, amqp_url: str | None) -> None:
        """`amqp_url`: the broker that was named; None: the demo has one of its own, and says which."""
        self.screen = screen
        self.server = self._printed(r"^Ready at (\S+)\. ")
        self.token = self._printed(r"\?token=([\w.-]+)$")
        self.operator_token = self._printed(r" status .*--token ([\w.-]+)$")
        self.amqp_url = amqp_url or self._printed(r"REALTIME_AMQP_URL=(\S+) ")
        self.messages: list[dict[str, Any]] = []
        """What a client was sent that watches diagnosis 123, if there is one."""
        self.folder = folder

    def _printed(self, pattern: str) -> str:
        found = re.search(pattern, self.screen, re.MULTILINE)
        assert found, self.screen
        return found[1]

    @property
    def url(self) -> str:
        """The WebSocket of diagnosis 123, without a token."""
        return self.server.replace("http", "ws", 1) + "/ws/123"

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the client was sent since it came."""
        return [message for message in self.messages if "event_id" in message]

    @property
    def environment(self) -> dict[str, str]:
        """What the README tells its reader to set."""
        return _without_settings() | {
            "SERVER": self.server,
            "TOKEN": self.token,
            "OPERATOR_TOKEN": self.operator_token,
            "REALTIME_AMQP_URL": self.amqp_url,
            "PATH": f"{_command_folder(self.folder)}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

    async def start(self, *words: str, **more: str) -> asyncio.subprocess.Process:
        """Start a program as the reader would, in a process group of its own."""
        return await asyncio.create_subprocess_exec(
            *words,
            env=self.environment | more,
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async def run(self, *words: str, **more: str) -> str:
        """Run it to its end; it succeeds, without complaints. Returns what it printed."""
        process = await self.start(*words, **more)
        try:
            async with asyncio.timeout(BLOCK_SECONDS):
                out, err = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert (process.returncode, err.decode()) == (0, ""), out.decode()
        return out.decode()

    async def run_block(self, block: Block) -> str:
        """Run a block verbatim."""
        if block.language == "python":
            return await self.run(sys.executable, "-c", block.text)
        for program in MAY_BE_MISSING:
            if program in block.text and not shutil.which(program):
                pytest.skip(f"{program} is not installed")
        return await self.run("/bin/sh", "-e", "-c", block.text)

    async def publish(self, feedback_id: int) -> str:
        """Publish an event for diagnosis 123. Returns its id."""
        async with EventPublisher(self.amqp_url) as publisher:
            return await publisher.broadcast_feedback_update(123, feedback_id, 5, 0.5)

    async def connections(self) -> int:
        """How many clients watch diagnosis 123."""
        headers = {"Authorization": f"Bearer {self.operator_token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(self.server + "/ws/status") as answer,
        ):
            return int((await answer.json())["connections_by_diagnosis"].get("123", 0))


def _without_settings() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith("REALTIME_")}


def _command_folder(folder: Path) -> Path:
    """A folder with the command `realtime-service`, also where the project is not installed."""
    command = folder / "bin" / "realtime-service"
    if not command.exists():
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m realtime_service "$@"\n')
        command.chmod(0o755)
    return command.parent


@asynccontextmanager
async def running_demo(broker: Broker, folder: Path) -> AsyncIterator[Demo]:
    """`make run`, on the broker that is named for the tests, else on the one that it starts by itself.

    The tests' own private broker knows replicas with another database: the first-contact door is one for all of them.
    """
    named = broker.amqp_url if broker.source == "given" else None
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "realtime_service", "demo", "--port", "0"),
        env=_without_settings() | {"PYTHONPATH": str(ROOT)} | ({"REALTIME_AMQP_URL": named} if named else {}),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(START_SECONDS):
            async for line in process.stdout:
                lines.append(line.decode())
                if line.startswith(b"Ctrl-C"):
                    break
        if named:
            _make_queue(named)
        yield Demo("".join(lines), folder, named)
    finally:
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(BLOCK_SECONDS):
            await process.communicate()


def _make_queue(amqp_url: str) -> None:
    """On a broker that was named, the door may be that of a replica that does not know our diagnosis."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        queue = topology.shared_queue(DiagnosisId(123))
        channel.queue_declare(queue, durable=True, arguments=topology.backlog_arguments())
        channel.queue_bind(queue, topology.EVENTS, topology.routing_key(DiagnosisId(123)))
