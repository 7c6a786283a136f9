"""For upstream tasks: publish an event in one line, and be told the truth about it.

    from realtime_service.publisher import broadcast_effectiveness_update
    await broadcast_effectiveness_update(123, 789, effectiveness=0.85, confidence=0.92, sample_size=100)

Each call returns the event's id once the broker has the event on disk. Otherwise it raises: EventInvalid when the event
breaks the contract (nothing was sent), PublishError when the broker did not confirm it in time (publish it again under
the same `event_id`: clients show an id once). Code without an event loop uses `realtime_service.blocking`.

The broker is named by `REALTIME_AMQP_URL`, or by a file whose path is in `REALTIME_AMQP_URL_FILE`.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Unpack

from contracts.ids import EventId
from realtime_service.domain.errors import EventInvalid, PublishError
from realtime_service.event_publisher import EventOptions, EventPublisher

__all__ = [
    "EventInvalid",
    "EventOptions",
    "EventPublisher",
    "PublishError",
    "broadcast_effectiveness_update",
    "broadcast_feedback_update",
    "broadcast_recommendation_update",
    "close_publisher",
]


async def broadcast_recommendation_update(
    diagnosis_id: int,
    old_data: dict[str, Any],
    new_data: dict[str, Any],
    reason: str,
    **options: Unpack[EventOptions],
) -> EventId:
    """See `EventPublisher.broadcast_recommendation_update`."""
    publisher = await _publisher_of_this_loop()
    return await publisher.broadcast_recommendation_update(
        diagnosis_id, old_data, new_data, reason, **options
    )


async def broadcast_effectiveness_update(
    diagnosis_id: int,
    recommendation_id: int,
    effectiveness: float,
    confidence: float,
    sample_size: int,
    **options: Unpack[EventOptions],
) -> EventId:
    """See `EventPublisher.broadcast_effectiveness_update`."""
    publisher = await _publisher_of_this_loop()
    return await publisher.broadcast_effectiveness_update(
        diagnosis_id, recommendation_id, effectiveness, confidence, sample_size, **options
    )


async def broadcast_feedback_update(
    diagnosis_id: int,
    feedback_id: int,
    rating: int,
    effectiveness: float,
    **options: Unpack[EventOptions],
) -> EventId:
    """See `EventPublisher.broadcast_feedback_update`."""
    publisher = await _publisher_of_this_loop()
    return await publisher.broadcast_feedback_update(
        diagnosis_id, feedback_id, rating, effectiveness, **options
    )


async def close_publisher() -> None:
    """Close this event loop's connection at once; `asyncio.run` does it by itself when it ends."""
    if (kept := _kept.pop(asyncio.get_running_loop(), None)) is not None:
        await kept[1].aclose()


_Kept = tuple[EventPublisher, AsyncGenerator[EventPublisher, None]]
_kept: dict[asyncio.AbstractEventLoop, _Kept] = {}


async def _publisher_of_this_loop() -> EventPublisher:
    """One publisher a running event loop, opened by the first who asks."""
    loop = asyncio.get_running_loop()
    if loop not in _kept:
        for other in [other for other in list(_kept) if other.is_closed()]:
            _kept.pop(other, None)
        keeper = _keep_open(loop)
        _kept[loop] = await anext(keeper), keeper
    return _kept[loop][0]


async def _keep_open(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[EventPublisher, None]:
    """Holds a publisher open for as long as its event loop runs.

    An event loop knows the asynchronous generators that were started in it, and `asyncio.run` closes them, after it has
    cancelled all tasks and while the loop still runs (PEP 525, `loop.shutdown_asyncgens`). So closing the connection
    there leaves nothing behind: no open socket, no pending task. A loop that is closed without that is forgotten.
    """
    try:
        async with EventPublisher() as publisher:
            yield publisher
    finally:
        _kept.pop(loop, None)
