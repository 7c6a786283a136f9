"""The tutorial, walked through: its programs are saved and its commands run as its reader would, against a demo."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from realtime_service.embedded.loopback import free_ports
from realtime_service.embedded.rabbitmq import Broker
from tests.browser.chromium import running_chromium
from tests.browser.clients import node
from tests.service.harness.waiting import until, until_true
from tests.support import readme
from tests.support.demo import BLOCK_SECONDS, Demo, running_demo
from tests.support.readme import ROOT

TEXT: Final = (ROOT / "deploy" / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS: Final = readme.blocks(TEXT)
NAMED: Final = re.compile(r"^(?:#|//|<!--) (\w+\.\w+)( -->)?\n")
"""The first line of a program says under which name to save it."""


def commands(step: int) -> list[str]:
    """The shell's blocks of a step."""
    return [
        block.text for block in BLOCKS if block.language == "sh" and block.heading.startswith(f"{step}. ")
    ]


class Program:
    """Something that runs until Ctrl-C."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.lines: list[str] = []
        self._process = process

    async def read(self) -> None:
        """Take what it prints, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode().rstrip())

    async def shows(self, *texts: str) -> None:
        """Wait for lines with these texts, in this order."""

        def there() -> bool:
            lines = iter(self.lines)
            return all(any(text in line for line in lines) for text in texts)

        try:
            await until(there, f"{texts} is printed")
        except AssertionError:
            raise AssertionError(self.lines) from None

    def signal(self, number: int) -> None:
        """What the terminal sends to all that runs in its foreground."""
        os.killpg(self._process.pid, number)


class Reader:
    """Follows the tutorial."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        for block in BLOCKS:
            if found := NAMED.match(block.text):
                (demo.folder / found[1]).write_text(block.text, encoding="utf-8")

    def _words(self, command: str) -> tuple[str, ...]:
        program = " ".join(node(websocket=True))
        command = command.replace("node --experimental-websocket", f"exec {program}")
        command = re.sub(r"^python ", f"{sys.executable} ", command, flags=re.MULTILINE)
        return ("/bin/sh", "-e", "-c", command)

    async def does(self, command: str) -> str:
        """Run something to its end, without complaints."""
        return await self.demo.run(*self._words(command))

    async def fails(self, command: str) -> str:
        """Run something that does not work. Returns its complaint."""
        process = await self.demo.start(*self._words(command))
        async with asyncio.timeout(BLOCK_SECONDS):
            _, complaint = await process.communicate()
        assert process.returncode != 0
        return complaint.decode()

    @asynccontextmanager
    async def runs(self, command: str) -> AsyncIterator[Program]:
        """Run something until Ctrl-C."""
        process = await self.demo.start(*self._words(command))
        program = Program(process)
        reading = asyncio.create_task(program.read())
        try:
            yield program
        finally:
            with suppress(ProcessLookupError):
                program.signal(signal.SIGINT)
            async with asyncio.timeout(BLOCK_SECONDS):
                await process.wait()
                await reading

    async def waiting(self, count: int, connections: int = 0) -> None:
        """Wait until the status says that so many events wait for diagnosis 123, and how many clients are there."""
        status = commands(6)[0].splitlines()[-1]

        async def said() -> bool:
            rows = [line.split() for line in (await self.does(status)).splitlines()]
            return ["123", str(connections), str(count)] in rows

        await until_true(said, f"{count} events wait")


def ids(first: int, last: int) -> list[str]:
    """What is shown of these events."""
    return [f'"feedback_id":{number},' for number in range(first, last + 1)]


@pytest.fixture(scope="module")
async def demo(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Demo]:
    async with running_demo(broker, tmp_path_factory.mktemp("tutorial")) as demo:
        yield demo


@pytest.fixture
def reader(demo: Demo) -> Reader:
    return Reader(demo)


async def test_the_printed_variables_are_those_that_the_examples_use(demo: Demo) -> None:
    (export,) = re.findall(r"^  (export .*)$", demo.screen, re.MULTILINE)
    said = await demo.run("/bin/sh", "-c", f"unset SERVER TOKEN OPERATOR_TOKEN; {export}; env")
    wanted = {name: text for name, text in demo.environment.items() if name in TEXT or "REALTIME" in name}
    assert {"SERVER", "TOKEN", "OPERATOR_TOKEN", "REALTIME_AMQP_URL"} <= wanted.keys()
    assert [f"{name}={text}" for name, text in wanted.items() if f"{name}={text}\n" not in said] == []


@pytest.mark.slow
@pytest.mark.timeout(240)  # some thirty programs, one after the other
async def test_the_tutorial_works_from_its_beginning_to_its_end(reader: Reader) -> None:
    (watch,), (publish, wrong), (three,) = commands(2), commands(3), commands(4)
    fetch, app, three_more, _ = commands(5)

    async with reader.runs(watch) as watching:
        await watching.shows("connected to diagnosis 123: no events were waiting; receipts by pong")
        await reader.does(publish)
        await watching.shows('"feedback_id":456,"rating":4')
        assert "less than or equal to 5; nothing was sent" in await reader.fails(wrong)
        for _ in range(2):
            assert await reader.does(three) == "the broker has 1 to 3\n"
        await reader.does("python task.py 0 0")
        await watching.shows(*ids(1, 3), *ids(0, 0))
        assert len(watching.lines) == 6, "none is shown twice"

    await reader.does(fetch)
    async with reader.runs(app) as running:
        await running.shows("open")
        await reader.does(three_more)
        await running.shows(*ids(4, 6))

    offline, frozen = commands(6)
    await reader.does(offline)
    await reader.waiting(3)
    async with reader.runs(app) as running:
        await running.shows(*ids(7, 9))
        running.signal(signal.SIGSTOP)
        await reader.does(frozen)
        await reader.waiting(3)
        running.signal(signal.SIGCONT)
        await running.shows(*ids(10, 12), "4408", "open")
        await reader.waiting(0, connections=1)
        assert len([line for line in running.lines if "feedback_id" in line]) == 6, "none is shown twice"

    named, unseen = commands(7)
    async with reader.runs(named) as running:
        await running.shows("open")
    async with reader.runs(watch) as watching:
        await watching.shows("connected")
        await reader.does(unseen)
        await watching.shows(*ids(13, 15))
    async with reader.runs(named) as running:
        await running.shows("open", *ids(13, 15))

    (many,) = commands(8)
    await reader.does(many)
    async with reader.runs(named) as running:
        await running.shows("events may be missing", *ids(106, 205))
        assert not any('"feedback_id":105,' in line for line in running.lines)

    careful, one = commands(9)
    async with reader.runs(careful) as running:
        await reader.does(one)
        await running.shows("no room for the event", 'stored {"feedback_id":206,')


async def test_the_page_shows_events_in_a_browser(reader: Reader, chromium_program: Path) -> None:
    (port,) = free_ports(1)
    fetch, _, _, serve = commands(5)
    await reader.does(fetch)
    echo, server = serve.replace("8080", str(port)).splitlines()
    address = (await reader.does(echo)).strip()
    async with reader.runs(f"exec {server}") as serving, running_chromium(chromium_program) as browser:
        page = await browser.page()
        await until_true(lambda: _answers(port), f"it serves: {serving.lines}")
        await page.go(address)
        await until_true(
            lambda: page.run('document.getElementById("state").textContent === "open"'), "it is open"
        )
        await reader.does("python task.py 300 301")
        shown = 'JSON.stringify([...document.querySelectorAll("#events li")].map((item) => item.textContent))'

        async def has_both() -> bool:
            texts = json.loads(await page.run(shown))
            return [text for text in texts if '"feedback_id":30' in text] == [
                f'feedback_update {{"feedback_id":{number},"rating":4,"effectiveness":0.75}}'
                for number in (300, 301)
            ]

        await until_true(has_both, "both events are shown")
        assert page.exceptions == []
        await page.close()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
