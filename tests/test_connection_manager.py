"""The replaced module's tests, by name, against the running service."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from contracts.close_codes import CloseCode
from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from contracts.messages import WebSocketMessage, rfc3339
from realtime_service import publisher
from realtime_service.connection_manager import ConnectionManager, get_connection_manager
from realtime_service.domain.errors import EventInvalid
from realtime_service.domain.receipts import CrowdLog
from realtime_service.domain.room import Member
from realtime_service.embedded.rabbitmq import Broker
from realtime_service.event_publisher import EventPublisher
from tests.service.harness.waiting import until_true
from tests.web.replica import OWNER, STRANGER, Amqp, Diagnoses, Replica, Visitors, replica_of


@pytest.fixture(scope="module")
async def replica(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replica]:
    diagnoses = Diagnoses(tmp_path_factory.mktemp("manager") / "diagnoses.db")
    amqp = Amqp(broker.amqp_url)
    async with (
        EventPublisher(broker.amqp_url) as events,
        replica_of(amqp, events, diagnoses, receipt_timeout_seconds=30) as replica,
    ):
        yield replica
    await amqp.close()


@pytest.fixture
def manager(replica: Replica) -> ConnectionManager:
    return get_connection_manager()


@pytest.fixture
async def visitors(replica: Replica) -> AsyncIterator[Visitors]:
    async with Visitors(replica) as visitors:
        yield visitors


class Inside:
    """A connection that somebody in this process made."""

    def __init__(self, diagnosis: int, name: str = "inside") -> None:
        self.diagnosis = DiagnosisId(diagnosis)
        self.member = Member.of(ConnectionId(name), UserId(OWNER), "none")
        self.connected_at = time.time()
        self.ended: CloseCode | None = None

    def send(self, event: EventId, frame: bytes) -> None: ...

    def ask(self) -> None: ...

    def step_in(self, log: CrowdLog) -> bool:
        return False

    def writer(self) -> Callable[[bytes], object]:
        raise AssertionError("it never steps in")

    def ask_now(self) -> None: ...

    def owes(self) -> None: ...

    def end_if_slow(self) -> None: ...

    unsent_bytes = 0

    def tell_gap(self, evicted: int | None) -> None: ...

    def end_when_proven(self, code: CloseCode) -> None: ...

    def progress(self) -> None: ...

    def rest(self) -> None: ...

    def end(self, code: CloseCode) -> None:
        self.ended = code


def message(diagnosis: int, number: int = 1, **changed: Any) -> WebSocketMessage:
    data = {"feedback_id": number, "rating": 5, "effectiveness": 0.5, **changed}
    return WebSocketMessage(
        type="feedback_update", diagnosis_id=DiagnosisId(diagnosis), timestamp=rfc3339(time.time()), data=data
    )


def test_singleton(replica: Replica, manager: ConnectionManager) -> None:
    assert get_connection_manager() is manager is replica.service.manager


async def test_connect_creates_an_entry_and_disconnect_removes_it(
    replica: Replica, manager: ConnectionManager
) -> None:
    diagnosis = replica.diagnoses.add()
    connection = Inside(diagnosis)
    assert await manager.connect(connection) is True
    assert manager.get_connection_count(diagnosis) == 1
    await manager.disconnect(connection)
    assert manager.get_connection_count(diagnosis) == 0
    await manager.disconnect(connection)
    assert manager.get_connection_count(diagnosis) == 0
    assert connection.ended is None


async def test_connect_and_disconnect_of_a_client(
    replica: Replica, manager: ConnectionManager, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    assert manager.get_connection_count(diagnosis) == 1
    await client.leave()
    await replica.gone(diagnosis)


async def test_broadcast_reaches_all(
    replica: Replica, manager: ConnectionManager, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    clients = [await visitors.welcomed(diagnosis) for _ in range(3)]
    others = await visitors.welcomed(replica.diagnoses.add())
    sent = await manager.broadcast(diagnosis, message(diagnosis, 7))
    for client in clients:
        [event] = await client.events(1)
        assert event["event_id"] == sent
        assert event["data"] == {"feedback_id": 7, "rating": 5, "effectiveness": 0.5}
    await others.send("ping")
    assert (await others.frame())["type"] == "pong"


async def test_broadcast_excludes_one(
    replica: Replica, manager: ConnectionManager, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    [excluded] = manager._hub.connections_of(DiagnosisId(diagnosis))
    other = await visitors.welcomed(diagnosis)
    await manager.broadcast(diagnosis, message(diagnosis, 1), exclude_websocket=excluded)
    await manager.broadcast(diagnosis, message(diagnosis, 2))
    assert await other.numbers(2) == [1, 2]
    assert await client.numbers(1) == [2]


async def test_personal_message(replica: Replica, manager: ConnectionManager, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    await manager.send_personal_message(diagnosis, STRANGER, message(diagnosis, 1))
    await manager.send_personal_message(diagnosis, OWNER, message(diagnosis, 2))
    assert await client.numbers(1) == [2]


async def test_message_queueing_and_delivery_on_reconnect(
    replica: Replica, manager: ConnectionManager, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    await (await visitors.welcomed(diagnosis)).leave()
    await replica.gone(diagnosis)
    for number in range(5):
        await manager.broadcast(diagnosis, message(diagnosis, number))
    await replica.amqp.has_depth(f"diagnosis.{diagnosis}", 5)
    client = await visitors.connect(diagnosis)
    assert (await client.welcome())["queued_messages"] == 5
    assert await client.numbers(5) == list(range(5))
    await replica.nothing_waits(diagnosis)


async def test_max_queue_size(replica: Replica, manager: ConnectionManager, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    await (await visitors.welcomed(diagnosis)).leave()
    await replica.gone(diagnosis)
    for number in range(110):
        await manager.broadcast(diagnosis, message(diagnosis, number))
    client = await visitors.connect(diagnosis)
    assert (await client.welcome())["gap"] is True
    assert await client.numbers(100) == list(range(10, 110))


async def test_connection_count(replica: Replica, manager: ConnectionManager, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    for count in range(3):
        assert manager.get_connection_count(diagnosis) == count
        await visitors.welcomed(diagnosis)
    assert manager.get_connection_count(replica.diagnoses.unknown()) == 0


async def test_all_connections_info(replica: Replica, manager: ConnectionManager, visitors: Visitors) -> None:
    await replica.empty()
    first, second = replica.diagnoses.add(), replica.diagnoses.add()
    for diagnosis in (first, first, second):
        await visitors.welcomed(diagnosis)
    unproven = await visitors.welcomed(second, receipts="ack")
    await replica.feedback(second, 1)
    await unproven.events(1)
    info = manager.get_all_connections_info()
    queued = info.pop("queued_messages_by_diagnosis")
    assert info == {
        "total_diagnoses": 2,
        "total_connections": 4,
        "connections_by_diagnosis": {str(first): 2, str(second): 2},
    }
    assert set(queued) <= {str(second)}


async def test_status_endpoint(replica: Replica, visitors: Visitors) -> None:
    await replica.empty()
    watched, waiting = replica.diagnoses.add(), replica.diagnoses.add()
    await visitors.welcomed(watched)
    await replica.feedback(waiting, 1, 2)

    async def listed() -> bool:
        queued: dict[str, int] = (await replica.status())["queued_messages_by_diagnosis"]
        return queued.get(str(waiting)) == 2

    await until_true(listed, "the waiting events are listed")
    report = await replica.status()
    assert report["total_diagnoses"] == report["total_connections"] == 1
    assert report["connections_by_diagnosis"] == {str(watched): 1}
    assert str(watched) not in report["queued_messages_by_diagnosis"]


async def test_the_three_broadcasts(
    broker: Broker, replica: Replica, visitors: Visitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALTIME_AMQP_URL", broker.amqp_url)
    await publisher.close_publisher()
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    try:
        await publisher.broadcast_recommendation_update(diagnosis, {"dose": 1}, {"dose": 2}, "better")
        await publisher.broadcast_effectiveness_update(diagnosis, 789, 0.85, 0.92, 100)
        await publisher.broadcast_feedback_update(diagnosis, 456, 4, 0.75)
    finally:
        await publisher.close_publisher()
    assert [(event["type"], event["data"]) for event in await client.events(3)] == [
        ("recommendation_update", {"old_data": {"dose": 1}, "new_data": {"dose": 2}, "reason": "better"}),
        (
            "effectiveness_update",
            {"recommendation_id": 789, "effectiveness": 0.85, "confidence": 0.92, "sample_size": 100},
        ),
        ("feedback_update", {"feedback_id": 456, "rating": 4, "effectiveness": 0.75}),
    ]


async def test_a_message_that_is_no_event_is_refused_before_it_is_sent(
    replica: Replica, manager: ConnectionManager
) -> None:
    diagnosis = replica.diagnoses.add()
    good = message(diagnosis)
    for bad in (
        message(diagnosis, rating=6),
        message(diagnosis, effectiveness=1.5),
        message(diagnosis + 1),
        good.model_copy(update={"type": "connect"}),
        good.model_copy(update={"type": "anything"}),
        good.model_copy(update={"data": [1]}),
        good.model_copy(update={"data": {"feedback_id": object()}}),
    ):
        with pytest.raises(EventInvalid):
            await manager.broadcast(diagnosis, bad)


def test_without_a_running_service_there_is_no_manager() -> None:
    program = "from realtime_service.connection_manager import get_connection_manager as g; g()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("RuntimeError: no realtime service runs in this process")
