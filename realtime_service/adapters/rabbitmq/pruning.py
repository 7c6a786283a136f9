"""Deletes shared queues that nobody has used for long, without losing an event.

    unbind ─► new events take the door of first contact ─► look for a second ─► still empty and unused: delete
                                                            used meanwhile: ask the door to bind it again

Law: binding is the door's business (`first_contact`): only behind it an event that came meanwhile cannot be overtaken.
Were this to end half-way, the next event or client would bring the queue back through the same door.
"""

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from contracts import topology
from contracts.ids import DiagnosisId
from realtime_service.adapters.management import QueueState
from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, translated
from realtime_service.adapters.rabbitmq.first_contact import PROVISION
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.domain.errors import BrokerUnavailable

SHARED_QUEUES: Final = f"^{re.escape(topology.ANY_DIAGNOSIS.removesuffix('*'))}[0-9]+$"
"""A regular expression for the management API."""
AT_ONCE: Final = 50
"""Queues that are unbound at a time."""
LOOK_SECONDS: Final = 1.0
"""How long an unbound queue must stay empty: what was routed before is in it long since."""
LOOKS: Final = 5
PUBLISH_SECONDS: Final = 10.0


class Pruned(NamedTuple):
    """What became of a queue, and why."""

    queue: str
    deleted: bool
    reason: str


class Pruning:
    """On a connection and a publisher of somebody else's."""

    def __init__(self, connection: BrokerConnection, publisher: ConfirmedPublisher) -> None:
        self._connection = connection
        self._publisher = publisher

    async def prune(self, names: Sequence[str], quorum: frozenset[str]) -> AsyncGenerator[Pruned, None]:
        """Delete these shared queues, unless they are used by now; `quorum`: those of that type.

        Raises BrokerUnavailable, PublishError.
        """
        for first in range(0, len(names), AT_ONCE):
            batch = names[first : first + AT_ONCE]
            for name in batch:
                await self._unbind(name)
            used: dict[str, str] = {}
            for _ in range(LOOKS):
                await asyncio.sleep(LOOK_SECONDS / LOOKS)
                for name in batch:
                    if name not in used and (use := await self._use(name)):
                        used[name] = use
            for name in batch:
                use = used.get(name) or await self._delete(name, is_quorum=name in quorum)
                if use:
                    await self._bring_back(name)
                yield Pruned(name, deleted=not use, reason=use or "empty, and nobody uses it")

    async def _unbind(self, name: str) -> None:
        async with self._channel() as channel:
            key = topology.routing_key(_diagnosis(name))
            await channel.queue_unbind(name, topology.EVENTS, key, timeout=RPC_TIMEOUT_SECONDS)

    async def _use(self, name: str) -> str:
        """How the queue is used; an empty text when it is not, or is gone."""
        try:
            async with self._channel() as channel:
                found = await channel.queue_declare(name, passive=True, timeout=RPC_TIMEOUT_SECONDS)
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, ChannelNotFoundEntity):
                return ""
            raise
        if found.consumer_count:
            return "used meanwhile"
        return "an event came meanwhile" if found.message_count else ""

    async def _delete(self, name: str, *, is_quorum: bool) -> str:
        """Delete it. Returns how it is used, if it is.

        A quorum queue refuses both conditions (540, RabbitMQ 3.10; the connection ends): there the last look counts.
        """
        if is_quorum and (use := await self._use(name)):
            return use
        try:
            async with self._channel() as channel:
                await channel.queue_delete(
                    name, if_unused=not is_quorum, if_empty=not is_quorum, timeout=RPC_TIMEOUT_SECONDS
                )
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, ChannelPreconditionFailed):
                return "used meanwhile"
            raise
        return ""

    async def _bring_back(self, name: str) -> None:
        """Ask the door to bind it, behind what waits there."""
        await self._publisher.publish(
            "",
            topology.UNROUTED,
            str(_diagnosis(name)).encode(),
            message_id=uuid.uuid4().hex,
            timeout_seconds=PUBLISH_SECONDS,
            message_type=PROVISION,
            mandatory=True,
        )

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[Channel]:
        """One for each question: an error closes it."""
        with translated():
            channel = self._connection.channel()
            yield channel
            await channel.close(timeout=RPC_TIMEOUT_SECONDS)


def why_kept(queue: QueueState, idle: timedelta, now: datetime) -> str:
    """Why the broker's numbers speak against deleting a queue; an empty text when they do not."""
    if queue.consumers is None or queue.messages is None:
        return "made just now"
    if queue.consumers:
        return "clients are connected"
    if queue.messages:
        return "events wait"
    if not idle:
        return ""
    if queue.idle_since is None:
        return "the broker does not say since when it is idle"
    return "used lately" if now - queue.idle_since < idle else ""


def _diagnosis(name: str) -> DiagnosisId:
    parsed = topology.parse_queue(name)
    if parsed is None or parsed[1] is not None:
        raise ValueError("no shared queue")
    return parsed[0]
