"""New connections are accepted a few at a time: those who are connected go on being served while thousands come back.

asyncio and uvloop accept all that wait in one turn of the loop; with five thousand that is a second in which nobody
gets an event. What is not accepted yet waits in the kernel.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

AT_ONCE: Final = 8
PAUSE_SECONDS: Final = 0.004
"""After AT_ONCE, at most 2,000 a second, and fewer where they take longer: the pause begins when they are accepted."""
FULL_SECONDS: Final = 1.0
"""How long nobody is accepted when this process has no more files (EMFILE)."""


async def listen(host: str, port: int, *, backlog: int, share_port: bool) -> list[socket.socket]:
    """Sockets that listen at every address of `host`. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            made = socket.create_server(address[:2], family=family, backlog=backlog, reuse_port=share_port)
            made.setblocking(False)
            sockets.append(made)
    except OSError:
        for made in sockets:
            made.close()
        raise
    return sockets


class Acceptor:
    """Accepts on sockets that listen, until it is closed."""

    def __init__(self, sockets: list[socket.socket], protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._protocol = protocol
        self._opening: set[asyncio.Task[None]] = set()
        for each in sockets:
            self._go_on(each)

    async def close(self) -> None:
        """Listen no more."""
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            self._loop.remove_reader(each)
            each.close()
        if self._opening:
            await asyncio.wait(self._opening)

    def _go_on(self, listening: socket.socket) -> None:
        if self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def _pause(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening)
        self._loop.call_later(seconds, self._go_on, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("nobody_accepted", reason=error.strerror)
                self._pause(listening, FULL_SECONDS)
                return
            connection.setblocking(False)
            opening = self._loop.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
        self._pause(listening, PAUSE_SECONDS)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # it is gone already
            connection.close()
