"""A command on a terminal: what a person at one sees."""

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from tests.cli.processes import COMMAND, END_SECONDS, ROOT, Finished
from tests.service.harness.waiting import until


class Terminal:
    """A command on a terminal, and what stands on it."""

    def __init__(self, process: asyncio.subprocess.Process, written: bytearray) -> None:
        self.process = process
        self._written = written

    @property
    def text(self) -> str:
        """All that was written."""
        return self._written.decode(errors="replace").replace("\r\n", "\n")

    async def shows(self, text: str, *, times: int = 1) -> None:
        """Return once this was written, so many times."""
        await until(
            lambda: self.text.count(text) >= times or self.process.returncode is not None,
            f"it shows {text!r}",
            seconds=END_SECONDS,
        )
        assert self.text.count(text) >= times, self.text

    async def ended(self) -> Finished:
        """Wait for its end."""
        async with asyncio.timeout(END_SECONDS):
            code = await self.process.wait()
        await asyncio.sleep(0)  # what it wrote last is read
        return Finished(code, self.text, "")


@asynccontextmanager
async def terminal(
    *words: str, env: Mapping[str, str], columns: int = 100, no_color: str = ""
) -> AsyncIterator[Terminal]:
    """Run it with standard output and error on a terminal, until the block is left."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    written = bytearray()
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, lambda: written.extend(os.read(ours, 65536)))
    kept = {name: value for name, value in env.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *words,
        env=kept | {"TERM": "xterm", "NO_COLOR": no_color},
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    try:
        yield Terminal(process, written)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        loop.remove_reader(ours)
        os.close(ours)
        os.close(theirs)


async def on_a_terminal(
    *words: str, env: Mapping[str, str], columns: int = 100, no_color: str = ""
) -> Finished:
    """Run it to its end; standard output and error are both in `out`."""
    async with terminal(*words, env=env, columns=columns, no_color=no_color) as shown:
        return await shown.ended()
