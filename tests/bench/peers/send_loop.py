"""The physical limit: `send_loop.c`, which does nothing but `send(2)`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from realtime_service.embedded.loopback import free_ports
from tests.bench.processes import compiled, pin


@dataclass(frozen=True, slots=True)
class SendLoop:
    """A loop that runs; it has the same frame for everybody."""

    process: asyncio.subprocess.Process
    port: int

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid

    async def publish(self, events: int, gap_seconds: float, size: int) -> None:
        """Send events of `size` bytes to all, `gap_seconds` apart; returns when the last is written."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{events} {gap_seconds * 1e6:.0f} {size}\n".encode())
        await self.process.stdout.readline()


@asynccontextmanager
async def send_loop() -> AsyncIterator[SendLoop]:
    """Start it."""
    port = free_ports(1)[0]
    process = await asyncio.create_subprocess_exec(
        compiled("send_loop.c"), str(port), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    pin(process.pid, first=True)
    try:
        assert process.stdout is not None
        await process.stdout.readline()  # it listens
        yield SendLoop(process, port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
