"""Bad events go to the parking queue, with the reason, where an operator can read them.

Law: a bad event is confirmed in `diagnosis.parked` before it is acknowledged where it came from. Dead-lettering could
not do this: it would also fire for every event that a full backlog drops (RabbitMQ, *Queue Length Limit*).
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import structlog
from pamqp import encode
from pamqp.common import FieldValue

from contracts import topology
from contracts.topology import Header
from realtime_service.adapters.rabbitmq.amqp.channel import Delivery
from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.adapters.rabbitmq.connecting import translated
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS, BrokerLink
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.reading import headers_of, origin_of
from realtime_service.domain.errors import BrokerUnavailable, PublishError
from realtime_service.logs import hashed

log = structlog.get_logger(__name__)

ROUTING_HEADERS: Final = frozenset({"CC", "BCC"})
"""RabbitMQ routes copies to the keys in these headers; a republished message must not go anywhere twice."""
OUR_HEADERS: Final = frozenset(Header)
HEADERS_BYTES: Final = 64 * 1024
"""Of a message's own headers: with what is added they must fit into a frame (128 KiB), or the broker hangs up."""
PUBLISH_SECONDS: Final = 10.0
STACK_LEVELS: Final = 50
"""Levels of nesting for which the stack must still have room: a publish runs deeper in it than the look before."""


async def republish(
    publisher: ConfirmedPublisher,
    queue: str,
    message: Delivery,
    *,
    message_id: str,
    added: dict[str, FieldValue],
) -> None:
    """Put a delivery into another queue through the default exchange; returns after the confirm.

    Raises PublishError.
    """
    properties = message.properties
    headers = _that_may_go_along(headers_of(message))
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


def _that_may_go_along(headers: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
    """Those that may, and can, and fit; ours first."""
    taken: dict[str, FieldValue] = {}
    room = HEADERS_BYTES
    for key in sorted(headers, key=lambda key: key not in OUR_HEADERS):
        if key not in ROUTING_HEADERS and (size := _size(key, headers[key])) is not None and size <= room:
            taken[key] = headers[key]
            room -= size
    return taken


def _size(key: str, value: FieldValue) -> int | None:
    """Bytes of a header; None where pamqp 4.0 read what it cannot write: text that is no UTF-8, a double."""
    for _ in range(STACK_LEVELS):
        value = [value]
    try:
        return len(encode.field_table({key: value}))
    except Exception:
        return None


_CODES: Final = {
    "the body is not JSON": "not_json",
    "the body is larger": "too_large",
    "the routing key": "routing_key",
    "the diagnosis does not exist": "unknown_diagnosis",
    "the AMQP properties": "properties",
    "message_id": "properties",
    "header": "properties",
    "a personal event": "personal",
    "published to": "exchange",
}
_OTHER: Final = "body"
CODES: Final = tuple(dict.fromkeys((*_CODES.values(), _OTHER)))
"""What `code_of` can say."""


def code_of(reason: str) -> str:
    """One of few words for a reason to park: what is left breaks the contract of the body."""
    return next((code for beginning, code in _CODES.items() if reason.startswith(beginning)), _OTHER)


class Parking:
    """Carries refused deliveries to the parking queue, one task each, until it succeeds or the process ends."""

    def __init__(self, publisher: ConfirmedPublisher, link: BrokerLink) -> None:
        """`link`: the parking queue is made again over it, should somebody delete it."""
        self._publisher = publisher
        self._link = link
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_parked: Callable[[str, str], None] = lambda *_: None
        """Told of every event that was parked: the exchange that it was published to, and one of few words for why."""

    def park(self, message: Delivery, reason: str, done: Callable[[], None]) -> None:
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

    async def _park(self, message: Delivery, reason: str, done: Callable[[], None]) -> None:
        origin = origin_of(message)
        added: dict[str, FieldValue] = {
            Header.PARK_REASON.value: reason,
            Header.ORIGIN_EXCHANGE.value: origin.exchange,
            Header.ORIGIN_KEY.value: origin.key,
        }
        message_id = message.properties.message_id or uuid.uuid4().hex
        for pause in delays(0.1, 5.0):
            try:
                await republish(self._publisher, topology.PARKED, message, message_id=message_id, added=added)
            except PublishError as error:
                log.warning("parking_failed", error=str(error))
                await asyncio.sleep(pause)
                await self._make_queue()
            except Exception as error:  # whatever it is, the event is not parked, and what is behind it waits
                log.exception("parking_failed", error=type(error).__name__)
                await asyncio.sleep(pause)
            else:
                diagnosis, code = topology.parse_routing_key(origin.key), code_of(reason)
                log.warning(
                    "event_parked",
                    code=code,
                    reason=reason,
                    event_id=message_id,
                    exchange=origin.exchange,
                    diagnosis=diagnosis and hashed(diagnosis),
                )
                self.on_parked(origin.exchange, code)
                done()
                return

    async def _make_queue(self) -> None:
        """Perhaps there is none any more. One that exists, with whatever arguments, stays as it is."""
        try:
            channel = await self._link.channel()
            with translated():
                await channel.queue_declare(
                    topology.PARKED,
                    durable=True,
                    arguments=dict(topology.PARKED_ARGUMENTS),
                    timeout=RPC_TIMEOUT_SECONDS,
                )
                await channel.close(timeout=RPC_TIMEOUT_SECONDS)
        except (BrokerUnavailable, TimeoutError) as error:
            log.warning("parking_queue_not_made", reason=str(error) or "no answer in time")
