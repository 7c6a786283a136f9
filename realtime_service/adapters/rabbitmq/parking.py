"""Bad events go to the parking queue, with the reason, where an operator can read them.

Law: a bad event is confirmed in `diagnosis.parked` before it is acknowledged where it came from. Dead-lettering could
not do this: it would also fire for every event that a full backlog drops (RabbitMQ, *Queue Length Limit*).
"""

import asyncio
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog
from aiormq.abc import DeliveredMessage
from pamqp import encode
from pamqp.common import FieldValue

from contracts import topology
from contracts.topology import Header
from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.reading import headers_of, origin_of
from realtime_service.domain.errors import PublishError

log = structlog.get_logger(__name__)

ROUTING_HEADERS: Final = frozenset({"CC", "BCC"})
"""RabbitMQ routes copies to the keys in these headers; a republished message must not go anywhere twice."""
PUBLISH_SECONDS: Final = 10.0
STACK_LEVELS: Final = 50
"""Levels of nesting for which the stack must still have room: a publish runs deeper in it than the look before."""


async def republish(
    publisher: ConfirmedPublisher,
    queue: str,
    message: DeliveredMessage,
    *,
    message_id: str,
    added: dict[str, FieldValue],
) -> None:
    """Put a delivery into another queue through the default exchange; returns after the confirm.

    Raises PublishError.
    """
    properties = message.header.properties
    headers = {key: value for key, value in headers_of(message).items() if _may_go_along(key, value)}
    stamp = properties.timestamp
    await publisher.publish(
        "",
        queue,
        message.body,
        message_id=message_id,
        timeout_seconds=PUBLISH_SECONDS,
        mandatory=True,
        message_type=properties.message_type,
        app_id=properties.app_id,
        timestamp=stamp if isinstance(stamp, datetime) else None,
        content_type=properties.content_type or "application/json",
        headers={**headers, **added},
    )


def _may_go_along(key: str, value: FieldValue) -> bool:
    """Whether a header may, and can: pamqp 4.0 reads text that is no UTF-8 and doubles that it cannot write."""
    if key in ROUTING_HEADERS:
        return False
    for _ in range(STACK_LEVELS):
        value = [value]
    try:
        encode.field_table({key: value})
    except Exception:
        return False
    return True


class Parking:
    """Carries refused deliveries to the parking queue, one task each, until it succeeds or the process ends."""

    def __init__(self, publisher: ConfirmedPublisher) -> None:
        self._publisher = publisher
        self._tasks: set[asyncio.Task[None]] = set()

    def park(self, message: DeliveredMessage, reason: str, done: Callable[[], None]) -> None:
        """Start carrying; `done` is called after the broker's confirm."""
        task = asyncio.create_task(self._park(message, reason, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop; what is not parked yet is still in the queue it came from."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _park(self, message: DeliveredMessage, reason: str, done: Callable[[], None]) -> None:
        origin = origin_of(message)
        added: dict[str, FieldValue] = {
            Header.PARK_REASON.value: reason,
            Header.ORIGIN_EXCHANGE.value: origin.exchange,
            Header.ORIGIN_KEY.value: origin.key,
        }
        message_id = message.header.properties.message_id or uuid.uuid4().hex
        for pause in delays(0.1, 5.0):
            try:
                await republish(self._publisher, topology.PARKED, message, message_id=message_id, added=added)
            except PublishError as error:
                log.warning("parking_failed", error=str(error))
                await asyncio.sleep(pause)
            except Exception as error:  # whatever it is, the event is not parked, and what is behind it waits
                log.exception("parking_failed", error=type(error).__name__)
                await asyncio.sleep(pause)
            else:
                log.warning(
                    "event_parked", reason=reason, exchange=origin.exchange, routing_key=origin.key[:64]
                )
                done()
                return
