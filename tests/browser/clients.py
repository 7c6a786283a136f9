"""The reference client at work, in Chromium or in Node: what it reports, and a way to tell it things."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import aiohttp
import pytest

from tests.browser.chromium import Chromium, Page
from tests.service.harness.history import number_of
from tests.service.harness.waiting import until

HERE: Final = Path(__file__).parent
WATCHING: Final = HERE / "watching.mjs"
NODE: Final = (20, 10)
"""The first Node with a WebSocket of its own, behind a flag until 22."""
WS: Final = "ws@8"
"""The package that Node's users take otherwise."""
INSTALL_SECONDS: Final = 120.0


class Watcher:
    """A client. `reports` are pairs: what happened (see `watching.mjs`), and the value that came with it."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, Any]] = []

    async def do(self, script: str) -> None:
        """Run JavaScript, with `client` at hand."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End it."""
        raise NotImplementedError

    def all(self, what: str) -> list[Any]:
        """Everything that was reported of a kind: `event`, `gap`, `token`, `error`, or a state."""
        return [value for kind, value in self.reports if kind == what]

    @property
    def numbers(self) -> list[int | None]:
        """The events' numbers, as the handler got them."""
        return [number_of(event["data"]) for event in self.all("event")]

    @property
    def welcomes(self) -> list[dict[str, Any]]:
        """What it was welcomed with each time."""
        return [detail["welcome"] for detail in self.all("open")]

    @property
    def codes(self) -> list[int]:
        """Why its connections ended."""
        return [detail["code"] for kind, detail in self.reports if kind in ("waiting", "closed")]

    @property
    def state(self) -> str:
        """The last state; none before the first."""
        states = [kind for kind, _ in self.reports if kind in ("connecting", "open", "waiting", "closed")]
        return states[-1] if states else ""

    async def has_numbers(self, *numbers: int) -> None:
        """Wait until the handler got these, in this order, and no others."""
        try:
            await until(lambda: len(self.numbers) >= len(numbers), "the events arrive")
        finally:
            assert self.numbers[: len(numbers)] == list(numbers), self.reports
        assert len(self.numbers) == len(numbers)

    async def is_open(self, times: int = 1) -> None:
        """Wait until it was welcomed so often."""
        await until(lambda: len(self.welcomes) >= times, f"it is welcomed {times} times: {self.reports}")


class Start(Protocol):
    """Starts a client with these options of `watch`."""

    async def __call__(
        self, address: str, diagnosis: int, *tokens: str | None, **options: Any
    ) -> Watcher: ...


class InChromium(Watcher):
    """In a tab."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.reports = page.reports

    async def load(self, address: str, options: Mapping[str, Any]) -> None:
        """Load a page of the service, and start a client in it."""
        await self.page.go(f"http://{address}/livez")  # any answer will do: it is the origin that counts
        source = quote(WATCHING.read_text(encoding="utf-8"))
        await self.page.run(f"""
            const {{ watch }} = await import("/client.js");
            const {{ watching }} = await import("data:text/javascript,{source}");
            const told = (what, value) => report(JSON.stringify([what, value]));
            globalThis.client = watching(watch, {json.dumps(options)}, told);
        """)

    async def do(self, script: str) -> None:
        await self.page.run(script)

    async def stop(self) -> None:
        assert self.page.exceptions == []
        await self.page.close()

    @classmethod
    async def start(cls, browser: Chromium, address: str, options: Mapping[str, Any]) -> "InChromium":
        page = await browser.page()
        await page.listen()
        watcher = cls(page)
        await watcher.load(address, options)
        return watcher


class InNode(Watcher):
    """In a process of Node."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, folder: Path, address: str, options: Mapping[str, Any], *, ws: Path | None
    ) -> "InNode":
        """`ws`: the package's entry; None: Node's own WebSocket."""
        client = folder / "client.mjs"
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}/client.js") as answer:
            client.write_bytes(await answer.read())
        modules = [WATCHING.as_uri(), client.as_uri(), json.dumps(options), *([ws.as_uri()] if ws else [])]
        process = await asyncio.create_subprocess_exec(
            *node(websocket=ws is None),
            str(HERE / "node.mjs"),
            *modules,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def do(self, script: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(script.encode() + b"\n")
        await self._process.stdin.drain()

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                assert await self._process.wait() == 0
                await self._reading
        except TimeoutError:
            self._process.kill()
            raise

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            what, value = json.loads(line)
            self.reports.append((what, value))


def node(*, websocket: bool) -> list[str]:
    """How to start Node, with a WebSocket of its own; skips the test where there is none."""
    program = shutil.which("node")
    shown = subprocess.run([program, "--version"], capture_output=True, text=True).stdout if program else ""
    version = tuple(int(part) for part in re.findall(r"\d+", shown))
    if program is None or version < NODE:
        pytest.skip("Node 20.10 or later is not installed; the same is tested in Chromium")
    return [program, "--experimental-websocket"] if websocket and version < (22,) else [program]


def install_ws(folder: Path) -> Path:
    """Node's package `ws`: its entry. Skips the test without npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed; the same is tested with Node's own WebSocket")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), WS]
    subprocess.run(command, check=True, timeout=INSTALL_SECONDS, stdout=sys.stderr)
    return folder / "node_modules" / "ws" / "wrapper.mjs"
