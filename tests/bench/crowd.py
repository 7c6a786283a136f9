"""The clients: `load.c` in a process of its own, told what to do line by line."""

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal

from tests.bench.processes import WORK, compiled, pin

Protocol = Literal["plain", "welcome", "acks", "mqtt", "socketio"]
POLL_SECONDS: Final = 0.02
PATIENCE_SECONDS: Final = 60.0
WARM_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Report:
    """What the clients saw; times are CLOCK_MONOTONIC in nanoseconds."""

    ready: int
    closed: int
    last_close: int
    frames: int
    bytes: int
    pings: int
    acks: int
    first_ns: int
    last_ns: int
    connecting_ns: int
    """From the first connect to the last welcome; 0 until then."""
    longest_connect_ns: int
    welcome_to_last_ns: int
    """The longest time between a client's welcome and its last event; 0 where one read had both."""
    connect_to_last_ns: int
    """The longest time between a client's first packet and its last event."""


class Crowd:
    """Clients that run; `crowd` starts them."""

    def __init__(self, process: asyncio.subprocess.Process, size: int) -> None:
        self._process = process
        self._busy = asyncio.Lock()
        self.size = size

    async def report(self) -> Report:
        """What they saw until now."""
        return Report(**json.loads(await self._say("report")))

    async def reset(self) -> None:
        """Forget the events seen until now, and their latencies."""
        await self._say("reset")

    async def latencies(self) -> "array[int]":
        """Microseconds from `sent_ns` to arrival, of every event since the reset, in the order of arrival."""
        path = WORK / "latencies.bin"
        await self._say(f"save {path}")
        return array("I", path.read_bytes())

    async def connected(self) -> Report:
        """Wait until all have been welcomed. Raises TimeoutError, ConnectionError when some were refused."""
        seen = await self._until(lambda seen: seen.ready >= self.size or seen.closed > 0)
        if seen.closed:
            raise ConnectionError(f"{seen.closed} of {self.size} clients were closed: {seen}")
        return seen

    async def admitted(self) -> Report:
        """Wait until each has been welcomed or refused. Raises TimeoutError."""
        return await self._until(lambda seen: seen.ready + seen.closed >= self.size)

    async def _until(self, is_so: Callable[[Report], bool]) -> Report:
        seen = await self.report()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_so(seen):
                await asyncio.sleep(POLL_SECONDS)
                seen = await self.report()
        return seen

    async def received(self, frames: int, seconds: float = PATIENCE_SECONDS) -> Report:
        """Wait until so many events arrived. Raises TimeoutError, saying how many did."""
        seen = await self.report()
        try:
            async with asyncio.timeout(seconds):
                while seen.frames < frames:
                    await asyncio.sleep(POLL_SECONDS)
                    seen = await self.report()
        except TimeoutError:
            raise TimeoutError(f"{frames} events were expected: {seen}") from None
        return seen

    async def warm(self, publish: Callable[[], Awaitable[None]], frames: int) -> None:
        """Have events published until so many arrive: some servers lose the first, before they listen to RabbitMQ.

        Raises TimeoutError.
        """
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                await self.reset()
                await publish()
                with suppress(TimeoutError):
                    await self.received(frames, WARM_SECONDS)
                    return

    async def _say(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._busy:
            self._process.stdin.write(line.encode() + b"\n")
            answer = await self._process.stdout.readline()
        if not answer:
            raise ConnectionError("the load generator is gone")
        return answer.decode()


@asynccontextmanager
async def crowd(
    port: int, targets: Iterable[str], protocol: Protocol, *, at_once: int = 100
) -> AsyncIterator[Crowd]:
    """Clients of a server on `port`, one for each request target; `at_once` of them connect at the same time."""
    lines = list(targets)
    path = WORK / f"targets-{port}-{len(lines)}-{protocol}.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    process = await asyncio.create_subprocess_exec(
        compiled("load.c"),
        str(port),
        path,
        protocol,
        str(at_once),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    pin(process.pid, first=False)
    try:
        yield Crowd(process, len(lines))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
