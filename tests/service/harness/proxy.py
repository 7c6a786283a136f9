"""A TCP proxy that misbehaves on demand: swallows what it carries, cuts, delays.

Swallowing makes a link half-open: both ends see an open socket, and what one of them writes never arrives.
"""

import asyncio
from typing import Final, Self

CHUNK: Final = 65536


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = (client, server)
        self.swallows_to_client = False
        self.swallows_to_server = False
        self.swallowed = 0

    def cut(self) -> None:
        for end in self.ends:
            end.transport.abort()


class Proxy:
    """Carries connections to `target`; an async context manager. Faults befall the links that are open then."""

    def __init__(self, target: str) -> None:
        """`target` is `host:port`."""
        self.target = target
        self.delay_seconds = 0.0
        """How long each piece of data takes, each way."""
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks)  # each ends with its link
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        """`host:port`."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def swallowed(self) -> int:
        """Bytes swallowed on the links that are open."""
        return sum(link.swallowed for link in self._links)

    def swallow(self, *, to_client: bool = False, to_server: bool = False) -> None:
        """From now on, nothing more arrives on the open links in these directions."""
        for link in self._links:
            link.swallows_to_client |= to_client
            link.swallows_to_server |= to_server

    def cut(self) -> None:
        """Reset every open link."""
        for link in list(self._links):
            link.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        host, _, port = self.target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, far_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(link, far_reader, writer, to_client=True))
                group.create_task(self._carry(link, reader, far_writer, to_client=False))
        finally:
            self._links.discard(link)
            link.cut()

    async def _carry(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        def dark() -> bool:
            return link.swallows_to_client if to_client else link.swallows_to_server

        try:
            while data := await source.read(CHUNK):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if dark():
                    link.swallowed += len(data)
                    continue
                sink.write(data)
                await sink.drain()
            if not dark():  # a dark link does not tell its other end that this one is gone
                sink.write_eof()
        except OSError:
            if not dark():
                link.cut()
