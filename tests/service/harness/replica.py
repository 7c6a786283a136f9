"""A replica as operators run it: a process of its own, spoken to through sockets, signals and its log."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from tests.service.harness.waiting import until

SERVE: Final = (sys.executable, "-m", "realtime_service", "serve")
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0
LINE_BYTES: Final = 1024 * 1024
ROOT: Final = Path(__file__).parents[3]


class Replica:
    """A running `realtime-service serve`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.logs: list[dict[str, Any]] = []
        """Every line of its log; one that is no JSON stands under `raw`."""
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, settings: Mapping[str, str], program: Sequence[str] = SERVE) -> Self:
        """Start one on a free port, and wait until it listens."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
        process = await asyncio.create_subprocess_exec(
            *program,
            env={**inherited, "REALTIME_PORT": "0", "PYTHONPATH": str(ROOT), **settings},
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )
        replica = cls(process)
        await until(
            lambda: replica.said("listening") or process.returncode is not None,
            "the replica listens",
            seconds=START_SECONDS,
        )
        assert replica.said("listening"), replica.logs
        return replica

    @property
    def address(self) -> str:
        """`host:port`."""
        line = self.said("listening")[0]
        return f"{line['host']}:{line['port']}"

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.logs if line.get("event") == event]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """Log lines that say that something is wrong in the program itself."""
        return [line for line in self.logs if "raw" in line or line.get("level") in ("error", "critical")]

    @property
    def code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        """SIGKILL, SIGTERM, SIGSTOP, SIGCONT."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it without a word."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def ended(self) -> int:
        """Wait for its end. Returns the exit code."""
        async with asyncio.timeout(STOP_SECONDS):
            code = await self._process.wait()
            await self._reading
        return code

    async def stop(self) -> int:
        """Ask it to end, in good order. Returns the exit code."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        try:
            return await self.ended()
        except TimeoutError:
            with suppress(ProcessLookupError):
                await self.kill()
            raise AssertionError(
                f"the replica did not end within {STOP_SECONDS:g} s: {self.logs[-20:]}"
            ) from None

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                self.logs.append(json.loads(line))
            except ValueError:
                self.logs.append({"raw": line.decode(errors="replace").rstrip()})
