"""Barriers: messages sent through a queue to say that everything before them has been delivered.

Law: a barrier speaks only to whoever sent it, on the AMQP channel on which it was sent for. One that a former consumer
of the queue left behind says nothing, and is settled like any message.

One is under way at a time, and serves all who asked before it was sent: a thousand diagnoses that come at once cost a
handful of messages.
"""

import asyncio
import uuid
from typing import Final

import structlog

from realtime_service.adapters.rabbitmq.amqp.channel import Delivery
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.domain.errors import PublishError

log = structlog.get_logger(__name__)

BARRIER: Final = "barrier"
"""`type` of such a message; its id says whose it is."""


def is_barrier(message: Delivery) -> bool:
    """Whether a delivery is one, whoever sent it."""
    return not message.exchange and message.properties.message_type == BARRIER


class Barriers:
    """Sends them through a queue, and is shown those that come back by its consumer."""

    def __init__(self, publisher: ConfirmedPublisher, queue: str, *, seconds: float) -> None:
        """`seconds`: how long one may take, its turn included; it may be stuck behind what nobody settles."""
        self._publisher = publisher
        self._queue = queue
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[bool] | None = None  # not sent yet
        self._sent: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[bool]] = set()

    def send(self) -> "asyncio.Task[bool]":
        """A barrier behind everything that is in the queue now: True once it is back, False if it is not in time.

        Others may wait for the same one: do not cancel it.
        """
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._send(), name="barrier")
            self._tasks.add(self._next)
            self._next.add_done_callback(self._tasks.discard)
        return self._next

    def returned(self, message: Delivery) -> None:
        """A barrier was delivered."""
        waiting = self._sent.get(message.properties.message_id or "")
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def close(self) -> None:
        """The AMQP channel that they come back on is gone."""
        self._next = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _send(self) -> bool:
        barrier = uuid.uuid4().hex
        try:
            async with asyncio.timeout(self._seconds), self._turn:
                self._next = None  # who asks from here on may have seen more in the queue
                back = self._sent[barrier] = asyncio.get_running_loop().create_future()
                await self._publisher.publish(
                    "",
                    self._queue,
                    b"",
                    message_id=barrier,
                    timeout_seconds=self._seconds,
                    mandatory=True,
                    message_type=BARRIER,
                )
                await back
        except (PublishError, TimeoutError) as error:
            log.warning("barrier_not_back", reason=str(error) or "no answer in time")
            return False
        finally:
            self._sent.pop(barrier, None)
        return True
