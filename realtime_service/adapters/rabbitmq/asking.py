"""Asking the broker what its queues hold: passively, on a channel that is thrown away (a 404 closes it)."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from aiormq.exceptions import ChannelNotFoundEntity

from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, translated
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS
from realtime_service.domain.errors import BrokerUnavailable

ASK_SECONDS: Final = 2.0
"""How long all questions of one call may take."""


@contextmanager
def throwaway_channel(connection: BrokerConnection | None) -> Iterator[Channel]:
    """A channel to ask on. Raises BrokerUnavailable without a connection, and what calls on it raise."""
    if connection is None:
        raise BrokerUnavailable("no connection to the broker")
    channel = connection.channel()
    try:
        yield channel
    finally:
        channel.abandon()


async def exists(channel: Channel, queue: str) -> bool:
    """Whether there is such a queue; the channel is closed then. Raises what calls on it raise."""
    try:
        await channel.queue_declare(queue, passive=True, timeout=RPC_TIMEOUT_SECONDS)
    except ChannelNotFoundEntity:
        return False
    await channel.close(timeout=RPC_TIMEOUT_SECONDS)
    return True


class QueueDepths:
    """A `web.console.Depths`. `connection` gives the broker connection of the moment, or None."""

    def __init__(self, connection: Callable[[], BrokerConnection | None]) -> None:
        self._connection = connection

    async def ready(self, queues: Iterable[str]) -> dict[str, int | None]:
        """How many messages are ready in each queue; None: there is no such queue.

        0.5 ms a queue, some ms for one that is not there. Raises BrokerUnavailable.
        """
        remaining = iter(list(queues))
        counts: dict[str, int | None] = {}
        with translated():
            async with asyncio.timeout(ASK_SECONDS):
                while await self._ask(remaining, counts):
                    pass
        return counts

    async def _ask(self, remaining: Iterable[str], counts: dict[str, int | None]) -> bool:
        """Ask until a queue does not exist: True, there may be more to ask."""
        with throwaway_channel(self._connection()) as channel:
            for queue in remaining:
                try:
                    answer = await channel.queue_declare(queue, passive=True)
                except ChannelNotFoundEntity:
                    counts[queue] = None
                    return True
                counts[queue] = answer.message_count or 0
        return False
