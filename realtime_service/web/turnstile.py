"""Thousands who leave at once leave a few at a time: those who stay go on being served meanwhile."""

import asyncio
from collections import deque
from typing import Final

AT_ONCE: Final = 32
"""In a turn of the event loop: some 5 ms, with what their rooms and sessions have to do."""


class Turnstile:
    """Lets AT_ONCE through in each turn of the event loop, first come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._passed = 0  # in this turn

    async def pass_through(self) -> None:
        """Return when it is the caller's turn: at once, unless there is a crowd."""
        loop = asyncio.get_running_loop()
        if self._passed < AT_ONCE and not self._waiting:
            if not self._passed:
                loop.call_soon(self._next_turn)
            self._passed += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_turn(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < AT_ONCE:
            if not (turn := self._waiting.popleft()).done():
                turn.set_result(None)
                self._passed += 1
        if self._passed:
            asyncio.get_running_loop().call_soon(self._next_turn)
