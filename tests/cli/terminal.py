"""A command on a terminal: what a person at one sees."""

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Mapping
from contextlib import suppress

from tests.cli.processes import COMMAND, END_SECONDS, ROOT, Finished


async def on_a_terminal(
    *words: str, env: Mapping[str, str], columns: int = 100, program: tuple[str, ...] = COMMAND
) -> Finished:
    """Run it to its end with standard output and error on a terminal; both are in `out`."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    written = bytearray()
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            written.extend(os.read(ours, 65536))
        except OSError:  # the other end is closed
            loop.remove_reader(ours)

    loop.add_reader(ours, read)
    kept = {name: value for name, value in env.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = await asyncio.create_subprocess_exec(
        *program,
        *words,
        env=kept | {"TERM": "xterm"},
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        async with asyncio.timeout(END_SECONDS):
            code = await process.wait()
        read()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        loop.remove_reader(ours)
        os.close(ours)
    return Finished(code, written.decode().replace("\r\n", "\n"), "")
