"""Waiting: a person at a terminal is told once something takes its time, and may end it."""

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from realtime_service.cli.outcome import Exit

QUIET_SECONDS: Final = 1.0
STEP_SECONDS: Final = 0.2

_CLEAR: Final = "\r\x1b[K"


@contextmanager
def told(what: str) -> Iterator[None]:
    """On a terminal, after a second, say what is waited for, and for how long; nothing of it stays.

    By a thread: what is waited for may block this one.
    """
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    telling = threading.Thread(target=_tell, args=(what, over), daemon=True)
    telling.start()
    try:
        yield
    finally:
        over.set()
        telling.join()


def _tell(what: str, over: threading.Event) -> None:
    began = time.monotonic()
    if over.wait(QUIET_SECONDS):
        return
    while True:
        print(f"{_CLEAR}{what} … {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
        done = over.wait(STEP_SECONDS)
        print(_CLEAR, end="", file=sys.stderr, flush=True)
        if done:
            return


async def until_stopped(work: Coroutine[Any, Any, Exit]) -> Exit:
    """End the work in good order at Ctrl-C and SIGTERM: connections are closed properly."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return Exit.OK
