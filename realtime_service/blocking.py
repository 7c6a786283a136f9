"""The three broadcast functions for code without an event loop: Celery tasks, scripts, threads.

    from realtime_service.blocking import broadcast_feedback_update
    broadcast_feedback_update(123, feedback_id=456, rating=5, effectiveness=0.9)

Arguments, result and errors are those of `realtime_service.publisher`. One background thread a process keeps one
connection for all of its threads, made by the first call; a forked process makes its own. It is closed when the
process ends. Code that runs in an event loop awaits `realtime_service.publisher` instead.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, wait
from typing import Any, Final, Unpack

from contracts.ids import EventId
from realtime_service.domain.errors import EventInvalid as EventInvalid
from realtime_service.domain.errors import PublishError as PublishError
from realtime_service.event_publisher import EventOptions, EventPublisher

CLOSE_SECONDS: Final = 5.0
"""How long the end of the process waits for the broker's good-bye."""
ALIVE_SECONDS: Final = 1.0
"""How often a call looks whether the thread it waits for still lives."""

_CLOSED: Final = "the publisher was closed before the event was confirmed"


def broadcast_recommendation_update(
    diagnosis_id: int,
    old_data: dict[str, Any],
    new_data: dict[str, Any],
    reason: str,
    **options: Unpack[EventOptions],
) -> EventId:
    """See `EventPublisher.broadcast_recommendation_update`."""
    return _call(
        "broadcast_recommendation_update",
        lambda publisher: publisher.broadcast_recommendation_update(
            diagnosis_id, old_data, new_data, reason, **options
        ),
    )


def broadcast_effectiveness_update(
    diagnosis_id: int,
    recommendation_id: int,
    effectiveness: float,
    confidence: float,
    sample_size: int,
    **options: Unpack[EventOptions],
) -> EventId:
    """See `EventPublisher.broadcast_effectiveness_update`."""
    return _call(
        "broadcast_effectiveness_update",
        lambda publisher: publisher.broadcast_effectiveness_update(
            diagnosis_id, recommendation_id, effectiveness, confidence, sample_size, **options
        ),
    )


def broadcast_feedback_update(
    diagnosis_id: int, feedback_id: int, rating: int, effectiveness: float, **options: Unpack[EventOptions]
) -> EventId:
    """See `EventPublisher.broadcast_feedback_update`."""
    return _call(
        "broadcast_feedback_update",
        lambda publisher: publisher.broadcast_feedback_update(
            diagnosis_id, feedback_id, rating, effectiveness, **options
        ),
    )


def close_publisher() -> None:
    """Close this process' connection and end its thread; the next call opens another. Waits at most CLOSE_SECONDS."""
    with _state.lock:
        thread, _state.thread = _state.thread, None
    if thread is not None:
        thread.close()


_Publish = Callable[[EventPublisher], Coroutine[Any, Any, EventId]]


class _PublisherThread:
    """An event loop in a thread, with a publisher in it. Raises SettingsError for an AMQP URL that is none."""

    def __init__(self) -> None:
        self._publisher = EventPublisher()
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        # A daemon, or the interpreter would wait for it before `atexit` could end it.
        self._thread = threading.Thread(target=self._run, name="realtime publisher", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._loop is None:
            raise PublishError("the publisher's thread could not start")

    def call(self, publish: _Publish) -> EventId:
        """Run in the thread, and wait for it; the publisher bounds the time. Raises PublishError, EventInvalid."""
        assert self._loop is not None
        work = publish(self._publisher)
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # the loop is closed
            work.close()
            raise PublishError(_CLOSED) from error
        try:
            while not wait([future], timeout=ALIVE_SECONDS).done:
                if not self._thread.is_alive():
                    raise PublishError(_CLOSED)
            return future.result()
        except CancelledError:
            raise PublishError(_CLOSED) from None
        finally:
            future.cancel()  # after a KeyboardInterrupt nobody waits for it any more

    def close(self) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(CLOSE_SECONDS)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._keep_open())
        finally:
            self._started.set()

    async def _keep_open(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._publisher:
            self._started.set()
            await self._stop.wait()


class _State:
    """What a process has: at most one thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: _PublisherThread | None = None
        self.parents: _PublisherThread | None = None
        """After a fork, the parent's: its sockets are shared, so it is kept untouched and never cleaned up here."""

    def after_fork(self) -> None:
        """The thread stayed in the parent, and the lock may have been held by another one there."""
        self.lock = threading.Lock()
        self.parents, self.thread = self.thread or self.parents, None


_state: Final = _State()
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_state.after_fork)
atexit.register(close_publisher)


def _call(name: str, publish: _Publish) -> EventId:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(
            f"realtime_service.blocking.{name} would block the running event loop: "
            f"await realtime_service.publisher.{name} instead"
        )
    with _state.lock:
        thread = _state.thread
        if thread is None or not thread.is_alive():
            thread = _state.thread = _PublisherThread()
    return thread.call(publish)
