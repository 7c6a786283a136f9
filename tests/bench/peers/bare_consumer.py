"""A bare AMQP consumer, as a program: `python -m tests.bench.peers.bare_consumer AMQP_URL EXCHANGE EVENTS FILE`.

It takes every event of an exchange, notes its latency, and writes them all (32-bit microseconds) after the last one.
"""

import asyncio
import re
import sys
import time
from array import array
from pathlib import Path
from typing import Final

import aiormq
from aiormq.abc import DeliveredMessage

SENT: Final = re.compile(rb'sent_ns":(\d+)')


async def consume(url: str, exchange: str, events: int) -> "array[int]":
    """Until the last event. Returns the latencies."""
    latencies = array("I")
    done = asyncio.Event()

    async def take(message: DeliveredMessage) -> None:
        if found := SENT.search(message.body):
            latencies.append((time.monotonic_ns() - int(found[1])) // 1000)
        if len(latencies) == events:
            done.set()

    connection = await aiormq.connect(url)
    channel = await connection.channel()
    queue = (await channel.queue_declare(exclusive=True)).queue or ""
    await channel.queue_bind(queue, exchange, "diagnosis.*")
    await channel.basic_consume(queue, take, no_ack=True)
    print("ready", flush=True)
    await done.wait()
    await connection.close()
    return latencies


if __name__ == "__main__":
    found = asyncio.run(consume(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    Path(sys.argv[4]).write_bytes(found.tobytes())
