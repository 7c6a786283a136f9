"""An `asyncio.Event` that takes no memory until somebody waits for it: there are two for each session."""

import asyncio


class Flag:
    """Up or down."""

    __slots__ = ("_event", "up")

    def __init__(self) -> None:
        self.up = False
        self._event: asyncio.Event | None = None

    def set(self) -> None:
        """Up; all who wait go on."""
        self.up = True
        if self._event is not None:
            self._event.set()
            self._event = None

    def clear(self) -> None:
        """Down."""
        self.up = False

    async def wait(self) -> None:
        """Return when it is up."""
        while not self.up:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()
