"""Latency: from before the publish to the client, at a steady rate, beside a bare AMQP consumer of the same events."""

import asyncio
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Final

from tests.bench.broker import EXCHANGE, Publisher, delete_queues, make_queues, publisher
from tests.bench.crowd import crowd
from tests.bench.measuring import Bench, Result, Target, percentile
from tests.bench.peers.this_service import targets, this_service
from tests.bench.processes import ROOT, WORK, pin

CLIENTS: Final = 1000
PER_SECOND: Final = 300
SECONDS: Final = 15
WARM_EVENTS: Final = 3
WARM_PER_SECOND: Final = 1000
"""Each diagnosis has had some events: for its first, RabbitMQ makes files, which takes it some milliseconds."""
CONSUMER_SECONDS: Final = 30.0
BARE: Final = "bare AMQP consumer"


async def latency(bench: Bench) -> Result:
    """300 events a second over all connections."""
    clients, events = bench.size.crowd(CLIENTS), PER_SECOND * bench.size.of(SECONDS, 1)
    found = Result(
        "latency",
        f"publish to client, {PER_SECOND} events/s over {clients:,} connections",
        targets=(Target("p50 ms", BARE, 1.5, at_least=False), Target("p99 ms", BARE, 2, at_least=False)),
    )
    url, everybody, path = bench.node.amqp_url, range(1, clients + 1), WORK / "bare.bin"
    with this_service(url, clients) as ours:
        await make_queues(url, everybody)
        async with publisher(url) as upstream, crowd(ours.port, targets(everybody), "welcome") as them:
            await them.connected()
            warm = WARM_EVENTS * clients
            await steadily(upstream, everybody, warm, WARM_PER_SECOND)
            await them.received(warm)
            await them.reset()
            words = (
                sys.executable,
                "-m",
                "tests.bench.peers.bare_consumer",
                url,
                EXCHANGE,
                str(events),
                path,
            )
            bare = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
            try:
                pin(bare.pid, first=False)
                assert bare.stdout is not None
                await bare.stdout.readline()
                await steadily(upstream, everybody, events)
                await them.received(events)
                async with asyncio.timeout(CONSUMER_SECONDS):
                    await bare.wait()
            finally:
                if bare.returncode is None:
                    bare.kill()
                    await bare.wait()
            found.figures["this service"] = _figures(found, "this service", await them.latencies())
    found.figures[BARE] = _figures(found, BARE, array("I", path.read_bytes()))
    await delete_queues(url, everybody)
    return found


async def steadily(
    upstream: Publisher, diagnoses: Sequence[int], events: int, per_second: int = PER_SECOND
) -> None:
    """Publish at a steady rate, to one diagnosis after the other."""
    began = time.monotonic()
    for number in range(events):
        await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
        await upstream.event(diagnoses[number % len(diagnoses)])


def _figures(found: Result, subject: str, latencies: "array[int]") -> dict[str, float]:
    values = sorted(value / 1000 for value in latencies)
    found.series[f"{subject}, ms"] = values
    return {f"p{share * 100:g} ms": percentile(values, share) for share in (0.5, 0.95, 0.99, 0.999)}
