"""Waiting for a condition: no test sleeps a fixed time to wait for something."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

LOOK_SECONDS: Final = 0.02
LIMIT_SECONDS: Final = 20.0


async def until(condition: Callable[[], object], what: str, *, seconds: float = LIMIT_SECONDS) -> None:
    """Return once the condition is true; fail the test, saying `what` did not happen, when the time is up."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"within {seconds:g} s it did not happen that {what}")
        await asyncio.sleep(LOOK_SECONDS)


async def until_true(
    ask: Callable[[], Awaitable[object]], what: str, *, seconds: float = LIMIT_SECONDS
) -> None:
    """The same for a condition that has to be asked for."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await ask():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"within {seconds:g} s it did not happen that {what}")
        await asyncio.sleep(LOOK_SECONDS)
