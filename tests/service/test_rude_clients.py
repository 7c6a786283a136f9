"""Clients that break off wherever they can: nobody else notices, and nothing is left of them."""

import asyncio
import socket
import struct
from typing import Final

from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import World

RUDE: Final = 100
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset, as when a process dies."""
HANDSHAKE: Final = (
    "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def test_clients_that_reset_their_connection_during_the_handshake_leave_nothing_behind(
    world: World,
) -> None:
    replica = await world.start_replica()  # in the end it has nothing to complain of
    host, _, port = replica.address.rpartition(":")
    target = world.url(world.diagnosis()).removeprefix(f"ws://{replica.address}")
    request = HANDSHAKE.format(target=target, host=replica.address).encode()
    for rude in range(RUDE):
        with socket.create_connection((host, int(port))) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.sendall(request[: len(request) - rude % 4])
            await asyncio.sleep(rude % 10 / 2000)  # 0 to 4.5 ms: before, during and after admission

    async def nobody_is_left() -> bool:
        return "realtime_connections 0.0" in (await world.metrics())

    await until_true(nobody_is_left, "nothing is left of them")
    client = world.local_client("polite")
    await client.connect(world.url(world.diagnosis()))
    await until(lambda: client.is_welcome, "others are served")
