"""A TCP proxy that misbehaves on demand: swallows what it carries, holds it back, cuts, delays.

Swallowing makes a link half-open: both ends see an open socket, and what one of them writes never arrives. Holding
makes what one end wrote arrive much later, when that end may be gone.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

CHUNK: Final = 65536
HELLO_BYTES: Final = 1024


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = (client, server)
        self.swallows_to_client = False
        self.swallows_to_server = False
        self.swallowed = 0
        self.hello = b""
        """What the client said first: an AMQP client's name is in it."""
        self.held: list[bytes] | None = None
        """What the client wrote since it is held back; None: it is not."""

    def let_go(self) -> None:
        held, self.held = self.held or [], None
        self.ends[1].writelines(held)

    def cut(self) -> None:
        for end in self.ends:
            with suppress(AttributeError):  # Python 3.11: of a TLS transport that is closed already
                end.transport.abort()


class Proxy:
    """Carries connections to `target`; an async context manager. Faults befall the links that are open then."""

    def __init__(self, target: str, *, tls: ssl.SSLContext | None = None) -> None:
        """`target` is `host:port`; with `tls`, clients speak TLS to the proxy."""
        self.target = target
        self._tls = tls
        self.delay_seconds = 0.0
        """How long each piece of data takes, each way."""
        self._links: dict[_Link, None] = {}  # in order of their coming
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
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

    def swallow(
        self,
        unlucky: Callable[[], bool] = lambda: True,
        /,
        *,
        to_client: bool = False,
        to_server: bool = False,
    ) -> Callable[[], None]:
        """From now on, nothing more arrives on the open links in these directions; on those that are `unlucky`.

        Call the result to reset these links: an app notices at last.
        """
        links = [link for link in self._links if unlucky()]
        for link in links:
            link.swallows_to_client |= to_client
            link.swallows_to_server |= to_server

        def cut() -> None:
            for link in links:
                link.cut()

        return cut

    def hold(self, said: bytes) -> None:
        """From now on, keep what comes from clients that said this at first."""
        for link in self._links_that(said):
            link.held = []

    @property
    def held(self) -> int:
        """Bytes held back."""
        return sum(len(data) for link in self._links for data in link.held or ())

    def let_go(self) -> None:
        """Deliver what was held, and hold no more."""
        for link in self._links:
            link.let_go()

    def cut(self, said: bytes = b"") -> None:
        """Reset every open link, or those of clients that said this at first."""
        for link in self._links_that(said):
            link.cut()

    def _links_that(self, said: bytes) -> list[_Link]:
        return [link for link in self._links if said in link.hello]

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
        self._links[link] = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(link, far_reader, writer, to_client=True))
                group.create_task(self._carry(link, reader, far_writer, to_client=False))
        finally:
            del self._links[link]
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
                if not to_client:
                    link.hello = (link.hello + data)[:HELLO_BYTES]
                    if link.held is not None:
                        link.held.append(data)
                        continue
                sink.write(data)
                await sink.drain()
            if not dark():  # a dark link does not tell its other end that this one is gone
                if sink.can_write_eof():
                    sink.write_eof()
                else:
                    sink.close()
        except OSError:
            if not dark():
                link.cut()
