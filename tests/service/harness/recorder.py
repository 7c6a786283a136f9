"""A publisher that knows nothing of our code: `pika`, names and bodies as the contract prints them, confirms.

It writes down what it published, in order, and what the broker confirmed. An event with an id whose confirm was lost is
published again under the same id, as the contract advises; one without an id is not, for that would be another event.
"""

import asyncio
import json
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Self

import pika
import pika.exceptions

from tests.service.harness.history import Publication, data_of, kind_of

RETRY_SECONDS: Final = 0.1
GIVE_UP_SECONDS: Final = 40.0
"""How long the broker may be away."""


def every_other(number: int) -> bool:
    """Half of the publishers set a `message_id`."""
    return number % 2 == 0


class Recorder:
    """Publishes numbered events; an async context manager. One thread publishes, so streams do not interleave."""

    def __init__(self, amqp_url: str, *, named: Callable[[int], bool] = lambda _: True) -> None:
        """`named` says which events get a `message_id`."""
        self.publications: dict[int, list[Publication]] = defaultdict(list)
        """By diagnosis, in the order in which they were published."""
        self.turn = asyncio.Lock()
        """Whoever has it keeps the streams waiting."""
        self._parameters = pika.URLParameters(amqp_url)
        self._parameters.heartbeat = 60  # between two publishes nobody answers the broker's
        self._parameters.blocked_connection_timeout = GIVE_UP_SECONDS
        self._named = named
        self._channel: pika.adapters.blocking_connection.BlockingChannel | None = None
        self._thread = ThreadPoolExecutor(1)
        self._stopped = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def publish(self, diagnosis: int, count: int, *, pause: float = 0.0) -> None:
        """Publish the next `count` events of a diagnosis, each after the confirm of the one before and `pause`."""
        async with self.turn:
            await self.publish_in_turn(diagnosis, count, pause=pause)

    async def publish_in_turn(self, diagnosis: int, count: int, *, pause: float = 0.0) -> None:
        """The same for who has the turn."""
        await asyncio.get_running_loop().run_in_executor(
            self._thread, self._publish_many, diagnosis, count, pause
        )

    async def publish_again(self, diagnosis: int) -> None:
        """Publish the last event of a diagnosis once more, as after a confirm that was lost."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._publish_again, diagnosis)

    async def publish_raw(self, exchange: str, key: str, body: bytes) -> None:
        """Publish anything, once."""
        await asyncio.get_running_loop().run_in_executor(
            self._thread, self._publish, exchange, key, body, None
        )

    def confirmed(self, diagnosis: int) -> set[int]:
        """The numbers that the broker confirmed."""
        return {each.number for each in list(self.publications[diagnosis]) if each.confirmed}

    def _publish_many(self, diagnosis: int, count: int, pause: float) -> None:
        for _ in range(count):
            if self._stopped:
                return
            self._publish_next(diagnosis)
            time.sleep(pause)

    def _publish_next(self, diagnosis: int) -> None:
        number = len(self.publications[diagnosis]) + 1
        event_id = str(uuid.uuid4()) if self._named(number) else None
        publication = Publication(diagnosis, number, event_id)
        self.publications[diagnosis].append(publication)
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while not self._stopped:
            try:
                self._open()
                self._attempt(publication)
                publication.confirmed = True
                return
            except (pika.exceptions.AMQPError, OSError):
                self._close()
                if time.monotonic() > deadline:
                    raise
                if event_id is None and publication.attempts:
                    return
                time.sleep(RETRY_SECONDS)

    def _publish_again(self, diagnosis: int) -> None:
        self._attempt(self.publications[diagnosis][-1])

    def _attempt(self, publication: Publication) -> None:
        publication.attempts += 1
        body = {"diagnosis_id": publication.diagnosis, **data_of(publication.number)}
        self._publish(
            f"diagnosis.{kind_of(publication.number)}",
            f"diagnosis.{publication.diagnosis}",
            json.dumps(body).encode(),
            publication.event_id,
        )

    def _publish(self, exchange: str, key: str, body: bytes, event_id: str | None) -> None:
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=2, message_id=event_id
        )
        self._open().basic_publish(exchange, key, body, properties)

    def _open(self) -> pika.adapters.blocking_connection.BlockingChannel:
        if self._channel is None or self._channel.is_closed:
            connection = pika.BlockingConnection(self._parameters)
            self._channel = connection.channel()
            self._channel.confirm_delivery()
        return self._channel

    def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            with suppress(pika.exceptions.AMQPError, OSError):
                channel.connection.close()
