"""An operator hears of it: each kind of loss or refusal is counted once, and said in one line without any secret."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from wsproto.frame_protocol import Opcode

from contracts import topology
from contracts.events import EventType
from contracts.ids import DiagnosisId
from realtime_service.adapters.rabbitmq.parking import code_of
from realtime_service.logs import hashed
from tests.service.harness.waiting import until_true
from tests.web.conftest import StartReplica
from tests.web.replica import Replica, Visitors, token

SMALL = 5
MARK = "do-not-tell"
Case = Callable[[Replica, Visitors, int], Awaitable[None]]


@pytest.fixture(scope="module")
async def strict(start_replica: StartReplica) -> AsyncIterator[Replica]:
    """A replica at whose limits one is soon."""
    async with start_replica(
        receipt_timeout_seconds=1,
        frame_burst=3,
        frames_per_second=1,
        new_devices_per_day=1,
        backlog_limit=SMALL,
    ) as replica:
        yield replica


async def counted(replica: Replica, name: str, labels: dict[str, str]) -> float:
    """A counter's value now."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{replica.address}/metrics") as answer,
    ):
        families = text_string_to_metric_families(await answer.text())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"{name}_total" and sample.labels == labels
    )


async def grown(replica: Replica, name: str, labels: dict[str, str], before: float) -> bool:
    return await counted(replica, name, labels) > before


async def a_bad_event(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    await visitors.welcomed(diagnosis)
    body = f'{{"diagnosis_id":{diagnosis},"feedback_id":"{MARK}"}}'.encode()
    await replica.amqp.publish("diagnosis.feedback", f"diagnosis.{diagnosis}", body)


async def a_bad_token(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    client = await visitors.open(replica.url(diagnosis, token=f"{MARK}.x.y"))
    assert (await client.closed())[0] == 1008


async def a_silent_client(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    client = await visitors.raw(diagnosis)
    assert (await client.closed())[0] == 4408


async def a_chatterbox(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    client = await visitors.welcomed(diagnosis)
    for _ in range(10):
        await client.send(MARK)
    assert (await client.closed())[0] == 4429


async def a_large_frame(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    client = await visitors.welcomed(diagnosis)
    await client.send(MARK * 1000)
    assert (await client.closed())[0] == 1009


async def no_utf8(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    client = await visitors.raw(diagnosis)
    await client.message()
    await client.send(Opcode.TEXT, b"\xff")
    assert (await client.closed())[0] == 1007


async def an_unknown_opcode(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    client = await visitors.raw(diagnosis)
    await client.message()
    await client.send(3, MARK.encode())
    assert (await client.closed())[0] == 1002


async def no_utf8_before_the_welcome(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    client = await visitors.raw_at(replica.path(diagnosis))
    await client.send(Opcode.TEXT, b"\xff")
    assert (await client.closed())[0] == 1007


async def the_same_device_twice(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    first = await visitors.welcomed(diagnosis, user=700 + diagnosis, client_id="phone")
    await visitors.welcomed(diagnosis, user=700 + diagnosis, client_id="phone")
    assert (await first.closed())[0] == 4409


async def too_many_devices(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    await visitors.welcomed(diagnosis, user=700 + diagnosis, client_id="one")
    second = await visitors.connect(diagnosis, user=700 + diagnosis, client_id="two")
    assert (await second.closed())[0] == 1013


async def a_deleted_queue(replica: Replica, visitors: Visitors, diagnosis: int) -> None:
    await visitors.welcomed(diagnosis)
    await replica.amqp.delete(topology.shared_queue(DiagnosisId(diagnosis)))


CLOSED = "realtime_connections_closed"
CASES: dict[str, tuple[Case, str, dict[str, str], str, dict[str, object]]] = {
    "parked": (a_bad_event, "realtime_events_parked", {"reason": "body"}, "event_parked", {}),
    "parked, by type": (
        a_bad_event,
        "realtime_events",
        {"type": "feedback_update", "stage": "parked"},
        "event_parked",
        {},
    ),
    "refused": (
        a_bad_token,
        CLOSED,
        {"code": "1008", "cause": "not_allowed"},
        "connection_refused",
        {"code": 1008},
    ),
    "no receipt": (
        a_silent_client,
        CLOSED,
        {"code": "4408", "cause": "no_receipt"},
        "connection_ended",
        {"code": 4408},
    ),
    "too many frames": (
        a_chatterbox,
        CLOSED,
        {"code": "4429", "cause": "too_many_frames"},
        "connection_ended",
        {"code": 4429},
    ),
    "large frame": (
        a_large_frame,
        CLOSED,
        {"code": "1009", "cause": "frame_too_large"},
        "connection_ended",
        {"code": 1009},
    ),
    "protocol": (no_utf8, CLOSED, {"code": "1007", "cause": "protocol"}, "connection_ended", {"code": 1007}),
    "unknown opcode": (
        an_unknown_opcode,
        CLOSED,
        {"code": "1002", "cause": "protocol"},
        "connection_ended",
        {"code": 1002},
    ),
    "protocol, before the welcome": (
        no_utf8_before_the_welcome,
        CLOSED,
        {"code": "1007", "cause": "protocol"},
        "connection_refused",
        {"code": 1007, "cause": "protocol"},
    ),
    "take-over": (
        the_same_device_twice,
        CLOSED,
        {"code": "4409", "cause": "replaced"},
        "connection_ended",
        {"code": 4409},
    ),
    "devices": (
        too_many_devices,
        CLOSED,
        {"code": "1013", "cause": "devices"},
        "connection_refused",
        {"code": 1013, "cause": "devices"},
    ),
    "queue deleted": (a_deleted_queue, "realtime_queues_lost", {}, "queue_lost", {"device": False}),
    "gap": (a_deleted_queue, "realtime_gaps", {"cause": "full"}, "gap", {"cause": "full"}),
}


@pytest.mark.parametrize(("case", "counter", "labels", "event", "fields"), CASES.values(), ids=CASES)
async def test_it_is_counted_and_said_once(
    strict: Replica, case: Case, counter: str, labels: dict[str, str], event: str, fields: dict[str, object]
) -> None:
    diagnosis = strict.diagnoses.add()
    if case in (the_same_device_twice, too_many_devices):
        strict.diagnoses.execute(
            "UPDATE diagnoses SET patient_id = ? WHERE id = ?", (700 + diagnosis, diagnosis)
        )
    before = await counted(strict, counter, labels)
    with capture_logs() as logs:
        async with Visitors(strict) as visitors, asyncio.timeout(30):
            await case(strict, visitors, diagnosis)
            await until_true(lambda: grown(strict, counter, labels, before), "it is counted")
            lines = [line for line in logs if line["event"] == event and fields.items() <= line.items()]
            assert len(lines) == 1, logs
    assert await counted(strict, counter, labels) == before + 1
    assert_tells_no_secret(logs, diagnosis)


def assert_tells_no_secret(logs: list[MutableMapping[str, Any]], diagnosis: int) -> None:
    said = str(logs)
    assert MARK not in said
    assert str(diagnosis) not in said
    assert str(700 + diagnosis) not in said
    assert token()[:20] not in said


async def test_an_eviction_is_counted_and_said_for_each_event(strict: Replica) -> None:
    diagnosis = strict.diagnoses.add()
    labels = {"queue": "shared"}
    async with Visitors(strict) as visitors:
        await visitors.welcomed(diagnosis)
        before = await counted(strict, "realtime_events_evicted", labels)
        of_type = {"type": EventType.FEEDBACK.value, "stage": "evicted"}
        of_type_before = await counted(strict, "realtime_events", of_type)
        with capture_logs() as logs:
            exchange = topology.EXCHANGES[EventType.FEEDBACK]
            death = {"queue": f"diagnosis.{diagnosis}", "exchange": exchange, "reason": "maxlen"}
            key = topology.routing_key(DiagnosisId(diagnosis))
            await strict.amqp.publish(
                topology.NODES, key, b"{}", message_id="nobody-had-it", headers={"x-death": [death]}
            )
            counter = "realtime_events_evicted"
            await until_true(lambda: grown(strict, counter, labels, before), "it is counted")
        assert await counted(strict, "realtime_events", of_type) == of_type_before + 1
        (line,) = (line for line in logs if line["event"] == "event_evicted")
        assert (line["diagnosis"], line["queue"]) == (hashed(DiagnosisId(diagnosis)), "shared")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("the body is not JSON (RFC 8259)", "not_json"),
        ("the routing key must be diagnosis.<id>", "routing_key"),
        ("the routing key names another diagnosis than the body", "routing_key"),
        ("the diagnosis does not exist", "unknown_diagnosis"),
        ("rating: Input should be less than or equal to 5", "body"),
        ("message_id must be 1 to 128 printable characters", "properties"),
        ("a personal event for a user who may not watch this diagnosis", "personal"),
    ],
)
def test_reasons_to_park_are_counted_under_few_words(reason: str, code: str) -> None:
    assert code_of(reason) == code


def test_a_diagnosis_is_the_same_in_all_lines_and_not_to_be_read() -> None:
    assert hashed(DiagnosisId(123)) == hashed(DiagnosisId(123)) != hashed(DiagnosisId(124))
    assert re.fullmatch("[0-9a-f]{12}", hashed(DiagnosisId(123)))
