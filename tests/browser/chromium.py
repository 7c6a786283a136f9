"""A headless Chromium, driven over its DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect

FLAGS: Final = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
START_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 30.0
LISTENING: Final = b"DevTools listening on "


class Page:
    """A tab."""

    def __init__(self, browser: "Chromium", session: str, target: str) -> None:
        self.exceptions: list[str] = []
        """Nobody caught them."""
        self.complaints: list[str] = []
        """What the browser found wrong: a broken policy, a missing file, a connection that failed."""
        self.reports: list[tuple[str, Any]] = []
        """What the page handed to `report(JSON)`; see `listen`."""
        self._browser = browser
        self._session = session
        self._target = target
        self._loaded = asyncio.Event()

    async def ask(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol, and its answer."""
        return await self._browser.ask(method, parameters, self._session)

    async def go(self, url: str) -> None:
        """Load a page; returns when it is loaded, scripts too."""
        self._loaded.clear()
        answer = await self.ask("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._loaded.wait()

    async def run(self, script: str) -> Any:
        """The value of an expression, or of the promise that it is. Raises AssertionError when it throws."""
        answer = await self.ask(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
            replMode=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def listen(self) -> None:
        """Let scripts call `report(text)`, text being the JSON of a pair."""
        await self.ask("Runtime.addBinding", name="report")

    async def key(self, key: str, *, shift: bool = False) -> None:
        """Press a key: `Tab`, `Enter`, ` `, a letter."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        common = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": codes.get(key, 0),
            "modifiers": 8 if shift else 0,
        }
        await self.ask("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **common)

    async def looks(self, *, width: int, height: int, scheme: str = "light", motion: bool = True) -> None:
        """The size of the screen in CSS pixels, and what its user prefers."""
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "no-preference" if motion else "reduce"},
        ]
        await self.ask("Emulation.setEmulatedMedia", features=features)

    async def picture(self) -> bytes:
        """A screenshot of the whole page, PNG."""
        answer = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    async def close(self) -> None:
        await self._browser.ask("Target.closeTarget", {"targetId": self._target})

    def heard(self, method: str, parameters: dict[str, Any]) -> None:
        """Something happened."""
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Runtime.bindingCalled":
                what, value = json.loads(parameters["payload"])
                self.reports.append((what, value))
            case "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                self.exceptions.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")


class Chromium:
    """The browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}

    async def ask(self, method: str, parameters: dict[str, Any], session: str | None = None) -> Any:
        """A command, to a page's session or to the browser."""
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        command: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        await self._socket.send(json.dumps(command | ({"sessionId": session} if session else {})))
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer

    async def page(self) -> Page:
        """A new tab with storage of its own."""
        context = (await self.ask("Target.createBrowserContext", {}))["browserContextId"]
        created = await self.ask("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        target = created["targetId"]
        attached = await self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})
        session = attached["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log"):
            await page.ask(f"{domain}.enable")
        return page

    async def read(self) -> None:
        """Take what the browser says, for ever."""
        async for text in self._socket:
            message = json.loads(text)
            if "id" not in message:
                if page := self._pages.get(message.get("sessionId", "")):
                    page.heard(message["method"], message["params"])
            elif (answer := self._answers.pop(message["id"])).done():
                pass  # nobody waits for it any more
            elif "error" in message:
                answer.set_exception(AssertionError(message["error"]["message"]))
            else:
                answer.set_result(message["result"])


@asynccontextmanager
async def running_chromium(program: Path) -> AsyncIterator[Chromium]:
    """Start it with a profile of its own; both are gone afterwards."""
    profile = tempfile.mkdtemp(prefix="realtime-chromium-")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own rule for root
    process = await asyncio.create_subprocess_exec(
        str(program),
        *FLAGS,
        *sandbox,
        f"--user-data-dir={profile}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said: list[bytes] = []
    try:
        async with asyncio.timeout(START_SECONDS):
            while not (line := await process.stderr.readline()).startswith(LISTENING):
                assert line, b"".join(said).decode(errors="replace")
                said.append(line)
        address = line.removeprefix(LISTENING).decode().strip()
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(_drain(process.stderr))
            async with connect(address, max_size=None, proxy=None, ping_interval=None) as socket:
                browser = Chromium(socket)
                reading = group.create_task(browser.read())
                yield browser
                reading.cancel()
            process.kill()
            await draining
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass
