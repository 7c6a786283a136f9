"""Tells a person at a terminal that something takes its time, once it does."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

QUIET_SECONDS: Final = 1.0
STEP_SECONDS: Final = 0.2

_CLEAR: Final = "\r\x1b[K"


@asynccontextmanager
async def told(what: str) -> AsyncIterator[None]:
    """On a terminal, after a second, say what is waited for, and for how long; nothing of it stays."""
    telling = asyncio.create_task(_tell(what)) if sys.stderr.isatty() else None
    try:
        yield
    finally:
        if telling is not None:
            telling.cancel()
            await asyncio.wait([telling])


async def _tell(what: str) -> None:
    began = time.monotonic()
    await asyncio.sleep(QUIET_SECONDS)
    try:
        while True:
            print(f"{_CLEAR}{what} … {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
            await asyncio.sleep(STEP_SECONDS)
    finally:
        print(_CLEAR, end="", file=sys.stderr, flush=True)
