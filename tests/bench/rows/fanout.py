"""Fan-out: one diagnosis, many clients, each event to all of them.

This service asks a few of a crowd to prove an event at once, and all of them every two seconds. Beside it: the same
where every client proves every event, by an `ack` frame each. The peers that know nothing of events are given a message
of the size that this service's clients get: an event of 300 bytes with its type, time and id.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from contracts.ids import DiagnosisId
from contracts.messages import ReceiptMode
from tests.bench.broker import Publisher, delete_queues, event_body, make_queues, publisher
from tests.bench.crowd import Crowd, Protocol, crowd
from tests.bench.measuring import Bench, Cost, Result, Target, percentile
from tests.bench.peers.nchan import nchan
from tests.bench.peers.scratch import replaced, socketio
from tests.bench.peers.send_loop import send_loop
from tests.bench.peers.this_service import targets, this_service
from tests.bench.processes import Missing

CLIENTS: Final = 1000
EVENTS: Final = 200
GAP_SECONDS: Final = 0.02
ROOM: Final = DiagnosisId(1)
WARMING: Final = 5
SIZE: Final = "bytes per frame"
HEADER_BYTES: Final = 4
RATE: Final = "frames per CPU-second"
PROVING: Final = "each proves each"
PACED: Final = (
    Target(RATE, "nchan", 1.2),
    Target(RATE, "send loop", 0.85),
    Target(RATE, "nchan", 0.75, subject=PROVING),
)
WAYS: Final[tuple[tuple[str, Protocol, ReceiptMode], ...]] = (
    ("this service", "welcome", "pong"),
    (PROVING, "acks", "ack"),
)

Publish = Callable[[int, float], Awaitable[None]]
"""Publishes so many events, so many seconds apart."""


async def paced(bench: Bench) -> Result:
    """Events 20 ms apart."""
    found = Result("fanout", f"fan-out, events {GAP_SECONDS * 1000:.0f} ms apart", targets=PACED)
    return await _all(bench, found, GAP_SECONDS)


async def burst(bench: Bench) -> Result:
    """Events back to back; the backlog limit is raised, so that none is evicted."""
    found = Result("burst", "fan-out, events back to back", targets=(Target(RATE, "nchan", 1.0),))
    return await _all(bench, found, 0)


async def _all(bench: Bench, found: Result, gap: float) -> Result:
    clients, events = bench.size.crowd(CLIENTS), bench.size.of(EVENTS, 20)
    url = bench.node.amqp_url
    for name, protocol, receipts in WAYS:
        with this_service(url, 1, backlog_limit=10_000) as ours:
            await make_queues(url, [ROOM], 10_000)
            room = targets([ROOM] * clients, receipts=receipts)
            async with publisher(url) as upstream, crowd(ours.port, room, protocol) as them:

                async def publish(count: int, pause: float, upstream: Publisher = upstream) -> None:
                    for _ in range(count):
                        await upstream.event(ROOM)
                        await asyncio.sleep(pause)

                figures = await measured(them, publish, events, gap, ours.pid, broker=bench.node.pid)
                found.figures[name] = figures
        await delete_queues(url, [ROOM])
    size = round(found.figures["this service"][SIZE]) - HEADER_BYTES
    await _peers(found, clients, events, gap, size)
    try:
        with socketio(url) as peer:
            async with publisher(url) as upstream, crowd(peer.port, _rooms(clients), "socketio") as them:

                async def emit(count: int, pause: float) -> None:
                    for _ in range(count):
                        message = peer.message(ROOM, event_body(ROOM))
                        await upstream.raw(message, peer.exchange, "*")
                        await asyncio.sleep(pause)

                found.figures["python-socketio"] = await measured(them, emit, events, gap, peer.pid)
    except Missing as missing:
        found.missing.append(str(missing))
    return found


async def _peers(found: Result, clients: int, events: int, gap: float, size: int) -> None:
    """Those that are published to without a broker."""
    same = [f"/ws/{ROOM}"] * clients
    async with send_loop() as loop, crowd(loop.port, same, "plain") as them:

        async def publish(count: int, pause: float) -> None:
            await loop.publish(count, pause, size)

        found.figures["send loop"] = await measured(them, publish, events, gap, loop.pid)
    protocols: dict[str, Protocol] = {"nchan": "plain", "replaced module": "welcome"}
    for name, peer in (("nchan", nchan), ("replaced module", replaced)):
        try:
            with peer() as server:
                async with crowd(server.port, same, protocols[name]) as them:

                    async def post(count: int, pause: float) -> None:
                        for _ in range(count):
                            await asyncio.to_thread(server.publish, ROOM, event_body(ROOM, size))
                            await asyncio.sleep(pause)

                    found.figures[name] = await measured(them, post, events, gap, server.pid)
        except Missing as missing:
            found.missing.append(str(missing))


async def measured(
    them: Crowd, publish: Publish, events: int, gap: float, pid: int, *, broker: int | None = None
) -> dict[str, float]:
    """Publish to all clients of one server; what an event to one client cost it."""
    await them.connected()
    await them.warm(lambda: publish(WARMING, 0), WARMING * them.size)
    await Cost(pid).until_quiet()
    await them.reset()
    cost, brokers = Cost(pid), Cost(*([broker] if broker else []))
    await publish(events, gap)
    seen = await them.received(events * them.size)
    used = await cost.until_quiet()
    figures = {RATE: seen.frames / max(used, 0.01), "CPU-seconds": used, "frames": float(seen.frames)}
    figures[SIZE] = seen.bytes / seen.frames
    figures["proofs per frame"] = (seen.pings + seen.acks) / seen.frames
    if latencies := sorted(await them.latencies()):
        figures |= {f"p{share * 100:g} ms": percentile(latencies, share) / 1000 for share in (0.5, 0.99)}
    if broker:
        figures["CPU-seconds of the broker"] = await brokers.until_quiet()
    return figures


def _rooms(clients: int) -> list[str]:
    return [f"/socket.io/?EIO=4&transport=websocket&room={ROOM}"] * clients
