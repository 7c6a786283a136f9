"""Proven unicast: many diagnoses with a client each; the broker's copy is deleted only once the client has proved."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from tests.bench.broker import (
    delete_queues,
    enable_web_mqtt,
    event_body,
    left_in_queues,
    make_queues,
    publisher,
)
from tests.bench.crowd import Crowd, crowd
from tests.bench.measuring import Bench, Cost, Result, Target
from tests.bench.peers.scratch import replaced, socketio
from tests.bench.peers.this_service import targets, this_service
from tests.bench.processes import Missing

CLIENTS: Final = 1000
ROUNDS: Final = 20
"""Events of each diagnosis: below the backlog's limit, so that none is evicted however fast they are published."""
SERVER: Final = "events per CPU-second of the server"
BOTH: Final = "events per CPU-second with the broker"
TARGETS: Final = (
    Target(BOTH, "RabbitMQ Web-MQTT", 3.2),
    Target(SERVER, None, 10_000),
    Target(SERVER, "python-socketio", 1.0),
)

Publish = Callable[[], Awaitable[None]]
"""Publishes one event of each diagnosis."""


async def unicast(bench: Bench) -> Result:
    """All of them."""
    clients, rounds = bench.size.crowd(CLIENTS), bench.size.of(ROUNDS, 2)
    found = Result("unicast", f"{clients:,} diagnoses with a client each", targets=TARGETS)
    found.figures["this service"] = await this_services(bench, clients, rounds)
    found.figures["RabbitMQ Web-MQTT"] = await _web_mqtt(bench, clients, rounds)
    url, everybody = bench.node.amqp_url, range(1, clients + 1)
    try:
        with socketio(url) as peer:
            rooms = [f"/socket.io/?EIO=4&transport=websocket&room={number}" for number in everybody]
            async with publisher(url) as upstream, crowd(peer.port, rooms, "socketio") as them:

                async def emit() -> None:
                    for number in everybody:
                        message = peer.message(number, event_body(number))
                        await upstream.raw(message, peer.exchange, "*")

                found.figures["python-socketio"] = await _measured(
                    them, emit, rounds, peer.pid, bench.node.pid
                )
        with replaced() as old:
            async with crowd(old.port, [f"/ws/{number}" for number in everybody], "welcome") as them:

                async def post() -> None:
                    for number in everybody:
                        await asyncio.to_thread(old.publish, number, event_body(number))

                found.figures["replaced module"] = await _measured(them, post, rounds, old.pid)
    except Missing as missing:
        found.missing.append(str(missing))
    return found


async def this_services(bench: Bench, clients: int, rounds: int) -> dict[str, float]:
    """This service's figures; fails when an event was received and not settled."""
    url, everybody = bench.node.amqp_url, range(1, clients + 1)
    with this_service(url, clients) as ours:
        await make_queues(url, everybody)
        async with publisher(url) as upstream, crowd(ours.port, targets(everybody), "welcome") as them:

            async def publish() -> None:
                for number in everybody:
                    await upstream.event(number)

            figures = await _measured(them, publish, rounds, ours.pid, bench.node.pid)
    left = await left_in_queues(url, everybody)
    await delete_queues(url, everybody)
    if left:
        raise RuntimeError(f"{left} events were received, and not settled")
    return figures


async def _web_mqtt(bench: Bench, clients: int, rounds: int) -> dict[str, float]:
    """RabbitMQ's own MQTT over WebSocket, QoS 1: the broker is the server."""
    port, login = enable_web_mqtt(bench.node)
    everybody = range(1, clients + 1)
    paths = [f"/ws#{login}#bench/{number}" for number in everybody]
    async with (
        publisher(bench.node.amqp_url) as upstream,
        crowd(port, paths, "mqtt", at_once=20) as them,
    ):

        async def publish() -> None:
            for number in everybody:
                await upstream.raw(event_body(number), "amq.topic", f"bench.{number}")

        return await _measured(them, publish, rounds, bench.node.pid)


async def _measured(
    them: Crowd, publish: Publish, rounds: int, server: int, broker: int | None = None
) -> dict[str, float]:
    """Publish to each of the clients in turn, `rounds` times; what an event cost."""
    await them.connected()
    await them.warm(publish, them.size)
    await Cost(server, *([broker] if broker else [])).until_quiet()
    await them.reset()
    cost, brokers = Cost(server), Cost(*([broker] if broker else []))
    for _ in range(rounds):
        await publish()
    events = (await them.received(rounds * them.size)).frames
    used = await cost.until_quiet()
    behind = await brokers.until_quiet() if broker else 0.0
    figures = {SERVER: events / max(used, 0.01), BOTH: events / max(used + behind, 0.01)}
    return figures | {"CPU-seconds": used, "CPU-seconds of the broker": behind, "events": float(events)}
