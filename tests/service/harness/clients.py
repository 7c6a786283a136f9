"""Clients: one in a process of its own (`watcher.py`), which can be frozen and killed; one here, on aiohttp.

Both write down a frame before the proof of it goes out.
"""

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiohttp

from tests.service.harness.history import Connection
from tests.service.harness.waiting import until

PROGRAM: Final = Path(__file__).with_name("watcher.py")
LINE_BYTES: Final = 1024 * 1024
END_SECONDS: Final = 10.0
GOODBYE_SECONDS: Final = 1.0
"""How long a closing handshake may take: a socket may be dead."""


class ProcessClient:
    """`watcher.py`: stays, or comes and goes at random, until it is stopped."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.connections: list[Connection] = []
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, name: str, url: str, *, ack: bool = False, seed: int | None = None
    ) -> "ProcessClient":
        """`seed`: it leaves after a while, politely or not, and comes back at once, again and again."""
        wishes = json.dumps({"url": url, "ack": ack, "seed": seed})
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            wishes,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )
        return cls(name, process)

    @property
    def is_welcome(self) -> bool:
        """Whether its newest connection was welcomed and is open."""
        return bool(self.connections) and self.connections[-1].is_open

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay open and nobody answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL; everything it wrote down before is here when this returns."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._ended()

    async def stop(self) -> None:
        assert self._process.stdin is not None
        with suppress(ProcessLookupError):
            self.thaw()
        self._process.stdin.close()
        try:
            await self._ended()
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"{self.name} did not end within {END_SECONDS:g} s") from None

    async def _ended(self) -> None:
        async with asyncio.timeout(END_SECONDS):
            await self._process.wait()
            await self._reading
        if self.connections and self.connections[-1].code is None:
            self.connections[-1].code = 1006

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            number, what, value = json.loads(line)
            while len(self.connections) <= number:
                self.connections.append(Connection(self.name))
            connection = self.connections[number]
            match what:
                case "frame":
                    connection.hear(value)
                case "proven":
                    connection.proven = value
                case "closed":
                    connection.code = value


class LocalClient:
    """An aiohttp client in the test's own loop: one connection at a time, opened and left by the test."""

    def __init__(self, name: str, *, ack: bool = False) -> None:
        self.name = name
        self.connections: list[Connection] = []
        self.answers = True
        """False: it reads and proves nothing."""
        self._ack = ack
        self._session = aiohttp.ClientSession()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self, url: str) -> Connection:
        """Leave the old connection, open a new one; returns before the welcome."""
        await self.leave()
        connection = Connection(self.name)
        self.connections.append(connection)
        self._socket = await self._session.ws_connect(
            url, autoping=False, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=GOODBYE_SECONDS)
        )
        self._reading = asyncio.create_task(self._read(self._socket, connection))
        return connection

    @property
    def is_welcome(self) -> bool:
        """Whether its newest connection was welcomed and is open."""
        return bool(self.connections) and self.connections[-1].is_open

    async def say(self, **frame: object) -> None:
        """Send a frame of one's own."""
        assert self._socket is not None
        await self._socket.send_json(frame)

    async def be_heard(self) -> None:
        """Return once the server has read everything that was sent before, proofs too."""
        connection = self.connections[-1]
        answers = len(connection.others)
        await self.say(type="ping")
        await until(lambda: len(connection.others) > answers, "the server answers")

    async def leave(self) -> None:
        """Close politely."""
        if self._socket is not None:
            await self._socket.close()
        await self._over()

    async def stop(self) -> None:
        await self.leave()
        await self._session.close()

    async def _over(self) -> None:
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, connection: Connection) -> None:
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    frame = json.loads(message.data)
                    connection.hear(frame)
                    if self._ack and self.answers and frame["type"].endswith("_update"):
                        await socket.send_json({"type": "ack", "event_id": frame["event_id"]})
                        connection.proven = len(connection.events)
                elif message.type is aiohttp.WSMsgType.PING and self.answers:
                    await socket.pong(message.data)
                    if not self._ack:
                        connection.proven = len(connection.events)
        except (OSError, aiohttp.ClientError):
            pass
        finally:
            connection.code = socket.close_code or 1006
