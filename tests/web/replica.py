"""A replica in this process, on a real broker, and what upstream tasks and operators do beside it."""

import asyncio
import json
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import pika
import pika.exceptions

from contracts import topology
from contracts.ids import ClientId, DiagnosisId, UserId
from realtime_service.adapters.tokens import sign_token
from realtime_service.event_publisher import EventPublisher
from realtime_service.service import Service, running
from realtime_service.settings import Settings
from tests.service.harness.waiting import until, until_true
from tests.web.clients import Client, RawClient

SECRET: Final = "of the tests alone, and long enough for HS256"
OWNER: Final = 100
STRANGER: Final = 200
FEEDBACK: Final = "diagnosis.feedback"

T = TypeVar("T")
_ids = count(random.randrange(1, 2**40) * 10_000)
"""A broker that was named for the tests may remember earlier runs."""


def token(user: int = OWNER, *, seconds: float = 3600, scopes: Sequence[str] = (), **claims: str) -> str:
    """A good token."""
    return sign_token(SECRET, user, expires_in_seconds=seconds, scopes=scopes, **claims)


class Diagnoses:
    """An SQLite file with `diagnoses(id, patient_id)`."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"
        self._path = path
        self.execute("CREATE TABLE diagnoses (id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL)")

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> None:
        """Run one statement, at once."""
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute(statement, parameters)

    def add(self, owner: int = OWNER, *, id: int | None = None) -> int:
        """A new diagnosis."""
        made = id or self.unknown()
        self.execute("INSERT INTO diagnoses VALUES (?, ?)", (made, owner))
        return made

    @staticmethod
    def unknown() -> int:
        """An id that no diagnosis has."""
        return next(_ids)


@dataclass(frozen=True, slots=True)
class Parked:
    """A message of the parking queue."""

    body: bytes
    message_id: str | None
    reason: str
    exchange: str
    routing_key: str


class Amqp:
    """The broker as publishers in other languages and operators see it: pika, which shares no code with the service."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.parked: list[Parked] = []
        self._thread = ThreadPoolExecutor(1, "pika")
        self._local = threading.local()

    async def publish(self, exchange: str, key: str, body: bytes | dict[str, Any], **properties: Any) -> None:
        """Publish, and return after the broker's confirm."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()

        def publish() -> None:
            self._channel().basic_publish(exchange, key, data, pika.BasicProperties(**properties))

        await self._do(publish)

    async def depth(self, queue: str) -> int | None:
        """How many events are ready in a queue; None when it does not exist."""

        def declare() -> int | None:
            try:
                return int(self._channel().queue_declare(queue, passive=True).method.message_count)
            except pika.exceptions.ChannelClosedByBroker:
                return None

        return await self._do(declare)

    async def delete(self, queue: str) -> None:
        """As an operator does by mistake."""
        await self._do(lambda: self._channel().queue_delete(queue))

    async def has_depth(self, queue: str, depth: int | None) -> None:
        """Wait until a queue holds so many."""

        async def reached() -> bool:
            return await self.depth(queue) == depth

        await until_true(reached, f"{queue} holds {depth}")

    async def find_parked(self, wanted: Callable[[Parked], bool]) -> Parked:
        """Wait until such a message is parked."""

        async def found() -> bool:
            self.parked += await self._do(self._take_parked)
            return any(map(wanted, self.parked))

        await until_true(found, "the message is parked")
        return next(filter(wanted, self.parked))

    async def close(self) -> None:
        def close() -> None:
            if connection := getattr(self._local, "connection", None):
                with suppress(pika.exceptions.AMQPError):
                    connection.close()

        await self._do(close)
        self._thread.shutdown()

    def _take_parked(self) -> list[Parked]:
        taken: list[Parked] = []
        while True:
            method, properties, body = self._channel().basic_get(topology.PARKED, auto_ack=True)
            if method is None:
                return taken
            headers = properties.headers
            taken.append(
                Parked(
                    body,
                    properties.message_id,
                    headers["x-park-reason"],
                    headers["x-origin-exchange"],
                    headers["x-origin-routing-key"],
                )
            )

    def _channel(self) -> Any:
        channel = getattr(self._local, "channel", None)
        if channel is None or channel.is_closed:
            connection = getattr(self._local, "connection", None)
            if connection is None or connection.is_closed:
                parameters = pika.URLParameters(self.url)
                parameters.heartbeat = 0  # it is idle for long, and nobody serves its socket then
                connection = self._local.connection = pika.BlockingConnection(parameters)
            channel = self._local.channel = connection.channel()
            channel.confirm_delivery()
        return channel

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class Replica:
    """A service that runs, its diagnoses, and publishers beside it."""

    def __init__(self, service: Service, diagnoses: Diagnoses, amqp: Amqp, events: EventPublisher) -> None:
        self.service = service
        self.port = service.port
        self.address = f"127.0.0.1:{service.port}"
        self.diagnoses = diagnoses
        self.amqp = amqp
        self.events = events

    def url(self, diagnosis: object, **query: str) -> str:
        """Where a client watches."""
        return f"ws://{self.address}{self.path(diagnosis, **query)}"

    @staticmethod
    def path(diagnosis: object, **query: str) -> str:
        return f"/ws/{diagnosis}" + (f"?{urlencode(query)}" if query else "")

    async def feedback(self, diagnosis: int, *numbers: int, **options: Any) -> None:
        """Publish events that carry these numbers, in this order; all are confirmed when it returns."""
        await asyncio.gather(
            *(
                self.events.broadcast_feedback_update(diagnosis, number, 5, 0.5, **options)
                for number in numbers
            )
        )

    async def status(self) -> Any:
        """`GET /ws/status`, as an operator."""
        headers = {"Authorization": f"Bearer {token(scopes=['operator'])}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"http://{self.address}/ws/status") as answer,
        ):
            assert answer.status == 200
            return await answer.json()

    async def nothing_waits(self, diagnosis: int) -> None:
        """Wait until every event of a diagnosis is proved, or parked, and settled."""

        async def nothing() -> bool:
            return str(diagnosis) not in (await self.status())["queued_messages_by_diagnosis"]

        await until_true(nothing, "nothing waits any more")

    async def settled(self, diagnosis: int) -> None:
        """Wait until the clients of a diagnosis have proved all they were sent, named ones too."""
        room = self.service.manager._hub._places[DiagnosisId(diagnosis)].room

        def settled() -> bool:
            windows = [room.shared, *(device.window for device in room.devices.values())]
            return not any(window.unsettled for window in windows) and not any(
                member.receipts.unproven for member in room.members
            )

        await until(settled, "everything is proved and settled")

    async def gone(self, diagnosis: int) -> None:
        """Wait until nobody is connected to a diagnosis."""
        count = self.service.manager.get_connection_count
        await until(lambda: not count(diagnosis), "nobody is connected")

    async def empty(self) -> None:
        """Wait until nobody is connected at all."""
        info = self.service.manager.get_all_connections_info
        await until(lambda: not info()["total_connections"], "nobody is connected")


class Visitors:
    """Opens clients of a replica, and closes those that are still open when it is left."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def connect(self, diagnosis: object, *, user: int = OWNER, **query: str) -> Client:
        """A client with a good token, before its welcome."""
        return await self.open(self.replica.url(diagnosis, **{"token": token(user), **query}))

    async def welcomed(self, diagnosis: object, *, user: int = OWNER, **query: str) -> Client:
        """A client that has read its welcome."""
        client = await self.connect(diagnosis, user=user, **query)
        await client.welcome()
        return client

    async def open(self, url: str, **arguments: Any) -> Client:
        """A client of whatever kind."""
        client = await Client.open(url, **arguments)
        self._stack.push_async_callback(client.leave)
        return client

    async def raw(self, diagnosis: object, *, receive_buffer: int | None = None, **query: str) -> RawClient:
        """A client with a good token that answers nothing by itself, after the handshake."""
        path = self.replica.path(diagnosis, **{"token": token(), **query})
        return await self.raw_at(path, receive_buffer=receive_buffer)

    async def raw_at(self, path: str, **arguments: Any) -> RawClient:
        client = await RawClient.open(self.replica.port, path, **arguments)
        self._stack.push_async_callback(client.abort)
        return client


@asynccontextmanager
async def replica_of(
    amqp: Amqp, events: EventPublisher, diagnoses: Diagnoses, **settings: Any
) -> AsyncIterator[Replica]:
    """A replica with these settings."""
    chosen = {
        "port": 0,
        "database_url": diagnoses.url,
        "amqp_url": amqp.url,
        "jwt_secret": SECRET,
        "drain_seconds": 0,
        "new_devices_per_day": 10_000,
        **settings,
    }
    async with running(Settings(**chosen)) as service:
        yield Replica(service, diagnoses, amqp, events)


def feedback_body(diagnosis: int, number: int = 1, **changed: Any) -> dict[str, Any]:
    """The body of a feedback event."""
    return {"diagnosis_id": diagnosis, "feedback_id": number, "rating": 5, "effectiveness": 0.5, **changed}


def device_queue(diagnosis: int, client_id: str, user: int = OWNER) -> str:
    """The queue of one of a user's devices."""
    key = topology.device_key(UserId(user), ClientId(client_id))
    return topology.device_queue(DiagnosisId(diagnosis), key)
