"""web.accepting: real sockets; how many are accepted in one turn of the loop."""

import asyncio
import socket

from realtime_service.web.accepting import AT_ONCE, Acceptor, listen
from tests.service.harness.waiting import until

CLIENTS = 5 * AT_ONCE


class Echo(asyncio.Protocol):
    """Answers what it is told."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        type(self).made += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def clients(port: int, count: int) -> list[socket.socket]:
    """Connected, as far as the kernel is concerned."""
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


async def test_all_who_wait_are_accepted_a_few_in_each_turn() -> None:
    class Counted(Echo):
        """This test's own."""

    loop = asyncio.get_running_loop()
    sockets = await listen("127.0.0.1", 0, backlog=CLIENTS, share_port=False)
    waiting = await loop.run_in_executor(None, clients, sockets[0].getsockname()[1], CLIENTS)
    acceptor = Acceptor(sockets, Counted)
    turns = []
    while Counted.made < CLIENTS:
        before = Counted.made
        await asyncio.sleep(0)
        turns.append(Counted.made - before)
    assert 0 < max(turns) <= AT_ONCE
    for each in waiting:
        each.setblocking(False)
        await loop.sock_sendall(each, b"there?")
        assert await loop.sock_recv(each, 10) == b"there?"
        each.close()
    await acceptor.close()


async def test_one_that_is_closed_accepts_nobody() -> None:
    sockets = await listen("127.0.0.1", 0, backlog=10, share_port=False)
    port = sockets[0].getsockname()[1]
    acceptor = Acceptor(sockets, Echo)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    await acceptor.close()
    refused = False
    try:
        await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        refused = True
    assert refused
    writer.write(b"two")
    assert await reader.readexactly(3) == b"two", "who is there stays"
    writer.close()
    await writer.wait_closed()


async def test_who_is_gone_before_it_is_accepted_hurts_nobody() -> None:
    class Counted(Echo):
        """This test's own."""

    sockets = await listen("localhost", 0, backlog=10, share_port=True)
    port = sockets[0].getsockname()[1]
    family = sockets[0].family
    address = "::1" if family is socket.AF_INET6 else "127.0.0.1"
    gone = socket.create_connection((address, port))
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    acceptor = Acceptor(sockets, Counted)
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    writer.close()
    await writer.wait_closed()
    await until(lambda: Counted.made >= 1, "the other is served")
    await acceptor.close()
