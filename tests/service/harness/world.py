"""What the processes of a test have in common: a broker, a database of diagnoses, a secret, one patient."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import jwt
import pika
import pika.exceptions

from contracts.ids import ClientId, UserId
from contracts.topology import EVENTS, QueueType, backlog_arguments, device_key
from tests.service.harness.checker import Audience, Verdict, check
from tests.service.harness.clients import LocalClient, ProcessClient
from tests.service.harness.history import proven_of
from tests.service.harness.recorder import Recorder
from tests.service.harness.replica import SERVE, Replica
from tests.service.harness.waiting import until

SECRET: Final = "a secret for tests that is thirty-two bytes long or more"
PATIENT: Final = 100
RECEIPT_SECONDS: Final = 2.0
"""Short, so that a frozen client is found out soon; long enough for a busy machine."""
VERDICT_SECONDS: Final = 20.0
OUTSTANDING: Final = 60
CONSIDERATE_STEP: Final = 10


class Database:
    """An SQLite file with `diagnoses(id, patient_id)`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.execute("CREATE TABLE diagnoses (id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL)")

    @property
    def url(self) -> str:
        """For REALTIME_DATABASE_URL."""
        return f"sqlite:///{self.path}"

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> None:
        """Run one statement, at once."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement, parameters)

    def add(self, diagnosis: int) -> None:
        """Create a diagnosis of the patient."""
        self.execute("INSERT INTO diagnoses VALUES (?, ?)", (diagnosis, PATIENT))


class World:
    """Starts replicas, clients and publishers, and ends them all when it is left."""

    def __init__(
        self, amqp_url: str, database: Database, ids: Callable[[], int], queue_type: QueueType = "classic"
    ) -> None:
        self.amqp_url = amqp_url
        self.database = database
        self.queue_type = queue_type
        self.replica: Replica | None = None
        """The one that clients go to unless told otherwise."""
        self.new_id = ids
        """Gives ids that no other test uses."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def diagnosis(self) -> int:
        """A diagnosis of the patient that no queue knows."""
        made = self.new_id()
        self.database.add(made)
        return made

    async def start_replica(self, program: Sequence[str] = SERVE, **settings: object) -> Replica:
        """Start a replica; it is stopped in the end, with exit code 0 and without complaints, unless it was killed."""
        replica = await Replica.start(self.settings(**settings), program)
        self._stack.push_async_callback(stop_cleanly, replica)
        self.replica = replica
        return replica

    def settings(self, **settings: object) -> dict[str, str]:
        """A replica's environment; names without the prefix."""
        common = {
            "amqp_url": self.amqp_url,
            "database_url": self.database.url,
            "jwt_secret": SECRET,
            "receipt_timeout_seconds": RECEIPT_SECONDS,
            "drain_seconds": 0,
            "queue_type": self.queue_type,
        }
        return {f"REALTIME_{name.upper()}": str(value) for name, value in (common | settings).items()}

    def url(self, diagnosis: int, *, address: str | None = None, **query: str) -> str:
        """Where a client watches, with a token."""
        if address is None:
            assert self.replica is not None
            address = self.replica.address
        return f"ws://{address}/ws/{diagnosis}?{urlencode({'token': token(), **query})}"

    def local_client(self, name: str, *, ack: bool = False) -> LocalClient:
        """A client in this process."""
        client = LocalClient(name, ack=ack)
        self._stack.push_async_callback(client.stop)
        return client

    async def client(
        self, name: str, url: str, *, ack: bool = False, seed: int | None = None
    ) -> ProcessClient:
        """A client in a process of its own; see `ProcessClient.start`."""
        client = await ProcessClient.start(name, url + ("&receipts=ack" if ack else ""), ack=ack, seed=seed)
        self._stack.push_async_callback(client.stop)
        return client

    async def recorder(self, *, named: Callable[[int], bool] = lambda _: True) -> Recorder:
        """A publisher."""
        return await self._stack.enter_async_context(Recorder(self.amqp_url, named=named))

    async def broadcast_feedback(self, diagnosis: int, *, feedback_id: int) -> "Answer":
        """Publish through the legacy route."""
        body = {"diagnosis_id": diagnosis, "feedback_id": feedback_id, "rating": 5, "effectiveness": 0.5}
        return await self.http("POST", "/ws/broadcast-feedback-update", body)

    async def http(self, method: str, path: str, body: object = None) -> "Answer":
        """Ask the replica, as the patient."""
        assert self.replica is not None
        since = time.monotonic()
        headers = {"Authorization": f"Bearer {token()}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, f"http://{self.replica.address}{path}", json=body, headers=headers
            ) as answer,
        ):
            text = await answer.text()
            return Answer(answer.status, answer.headers, json.loads(text), time.monotonic() - since)

    async def metrics(self) -> str:
        """What the replica counts, as Prometheus reads it."""
        assert self.replica is not None
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.replica.address}/metrics") as answer,
        ):
            return await answer.text()

    def delete(self, queue: str, *, again_for: int | None = None) -> None:
        """Delete a queue, as an operator does; and make it again at once, as a diagnosis' shared queue."""
        with closing(pika.BlockingConnection(pika.URLParameters(self.amqp_url))) as connection:
            channel = connection.channel()
            channel.queue_delete(queue)
            if again_for is not None:
                channel.queue_declare(
                    queue, durable=True, arguments=backlog_arguments(queue_type=self.queue_type)
                )
                channel.queue_bind(queue, EVENTS, f"diagnosis.{again_for}")

    @staticmethod
    def device_queue(diagnosis: int, client_id: str = "phone") -> str:
        """The queue of one of the patient's devices."""
        key = device_key(UserId(PATIENT), ClientId(client_id))
        return f"diagnosis.{diagnosis}.device.{key}"

    def depth(self, queue: str) -> int | None:
        """How many events are ready in a queue; None when it does not exist."""
        with closing(pika.BlockingConnection(pika.URLParameters(self.amqp_url))) as connection:
            try:
                declared = connection.channel().queue_declare(queue, passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                return None
            return int(declared.method.message_count)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, and how long it took."""

    status: int
    headers: Mapping[str, str]
    body: Any
    seconds: float


async def stop_cleanly(replica: Replica) -> None:
    """Stop a replica that runs; it leaves nothing to complain of."""
    if replica.code is None:
        assert await replica.stop() == 0
    assert not replica.complaints, replica.complaints


def token(user: int = PATIENT, *, scope: str = "", seconds: float = 3600) -> str:
    """A signed token."""
    return jwt.encode({"sub": str(user), "exp": time.time() + seconds, "scope": scope}, SECRET)


async def verdict(
    recorder: Recorder, diagnosis: int, audiences: Iterable[Audience], *, seconds: float = VERDICT_SECONDS
) -> Verdict:
    """What the checker says once nothing is missing any more, or the time is up."""
    audiences = list(audiences)
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = check(recorder.publications[diagnosis], audiences)
        if not found.lost or asyncio.get_running_loop().time() > deadline:
            return found
        await asyncio.sleep(0.1)


@asynccontextmanager
async def streaming(recorder: Recorder, diagnosis: int, count: int, *, pause: float) -> AsyncIterator[None]:
    """Publish `count` events meanwhile; return when all are confirmed."""
    async with asyncio.TaskGroup() as group:
        group.create_task(recorder.publish(diagnosis, count, pause=pause))
        yield


@asynccontextmanager
async def streaming_considerately(
    recorder: Recorder, diagnosis: int, count: int, audiences: Iterable[Audience]
) -> AsyncIterator[None]:
    """The same, never leaving an audience too much to prove: its queue keeps 100 while nobody is there."""
    audiences = list(audiences)

    def unproven(audience: Audience) -> set[int]:
        return recorder.confirmed(diagnosis) - proven_of(audience.connections)

    def outstanding() -> int:
        return max(len(unproven(audience)) for audience in audiences)

    async def publish() -> None:
        for _ in range(count // CONSIDERATE_STEP):
            try:
                await until(
                    lambda: outstanding() <= OUTSTANDING - CONSIDERATE_STEP, "all take what was published"
                )
            except AssertionError as error:
                missing = {
                    audience.name: (
                        sorted(unproven(audience)),
                        [(each.is_open, each.code, each.numbers[-1:]) for each in audience.connections[-3:]],
                    )
                    for audience in audiences
                }
                raise AssertionError(f"{error}: {missing}") from None
            await recorder.publish(diagnosis, CONSIDERATE_STEP, pause=0.002)

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        yield


@asynccontextmanager
async def streaming_meanwhile(
    recorder: Recorder, diagnosis: int, audiences: Iterable[Audience]
) -> AsyncIterator[None]:
    """The same for as long as this lasts."""
    audiences = list(audiences)
    over = asyncio.Event()

    async def publish() -> None:
        while not over.is_set():
            async with streaming_considerately(recorder, diagnosis, CONSIDERATE_STEP, audiences):
                pass

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        yield
        over.set()
