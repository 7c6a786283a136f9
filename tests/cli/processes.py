"""The command as people run it: processes of their own, seen through their output and exit codes."""

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import randrange
from typing import Final

from yarl import URL

from realtime_service.adapters.tokens import sign_token
from tests.service.harness.replica import Replica
from tests.service.harness.waiting import until

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = (sys.executable, "-m", "realtime_service")
END_SECONDS: Final = 30.0
SECRET: Final = "a secret for tests that is thirty-two bytes long or more"


def environment(**settings: str) -> dict[str, str]:
    """This process' variables without its settings, and these; names without the prefix."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    given = {f"REALTIME_{name.upper()}": value for name, value in settings.items()}
    return inherited | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""} | given


def signed(user: int, *scopes: str, seconds: float = 3600) -> str:
    """A good token."""
    return sign_token(SECRET, user, expires_in_seconds=seconds, scopes=scopes)


_ids = count(randrange(1, 2**40) * 10_000)
"""A broker that was named for the tests may remember earlier runs."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running replica, its broker and its database."""

    replica: Replica
    amqp_url: str
    database: Path

    @property
    def url(self) -> str:
        """For `--server`."""
        return f"http://{self.replica.address}"

    @property
    def env(self) -> dict[str, str]:
        """What the commands of the same platform have set."""
        return environment(amqp_url=self.amqp_url, jwt_secret=SECRET)

    def watched(self, diagnosis: int) -> URL:
        """What a client of the diagnosis connects to, without its token."""
        return URL(self.url).with_scheme("ws") / "ws" / str(diagnosis)

    def diagnosis(self) -> int:
        """A new diagnosis of user 100."""
        made = next(_ids)
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("INSERT INTO diagnoses VALUES (?, 100)", (made,))
        return made


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line it had to say; fails when there is not exactly one, or a traceback."""
        (line,) = self.err.splitlines()
        return line


class Running:
    """A process, and what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout
        assert process.stderr
        self.pid = process.pid
        self.out: list[str] = []
        self.err: list[str] = []
        self._process = process
        self._reading = [
            asyncio.create_task(_collect(process.stdout, self.out)),
            asyncio.create_task(_collect(process.stderr, self.err)),
        ]

    async def prints(self, text: str, *, seconds: float = END_SECONDS) -> None:
        """Return once it has printed a line with this text, to standard output or standard error."""

        def printed() -> bool:
            return any(text in line for line in self.out + self.err)

        await until(lambda: self.code is not None or printed(), f"it prints {text!r}", seconds=seconds)
        assert printed(), (self.code, self.out, self.err)

    @property
    def code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def ended(self, *, seconds: float = END_SECONDS) -> Finished:
        """Wait for its end."""
        async with asyncio.timeout(seconds):
            code = await self._process.wait()
            await asyncio.gather(*self._reading)
        return Finished(code, "\n".join(self.out), "\n".join(self.err))


async def _collect(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode().rstrip("\n"))


@asynccontextmanager
async def running(
    *words: str, env: Mapping[str, str], script: str = "", folder: Path = ROOT, given: bytes = b""
) -> AsyncIterator[Running]:
    """Run the command, or the shell's `script`, until the block is left. `given` is its standard input."""
    program = ("/bin/sh", "-c", script) if script else (*COMMAND, *words)
    process = await asyncio.create_subprocess_exec(
        *program,
        env=env,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    run = Running(process)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(given)
            await process.stdin.drain()
        process.stdin.close()
        yield run
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await run.ended()


async def finished(
    *words: str, env: Mapping[str, str] | None = None, script: str = "", given: bytes = b""
) -> Finished:
    """Run it to its end."""
    async with running(
        *words, env=environment() if env is None else env, script=script, given=given
    ) as process:
        return await process.ended()
