"""What upstream tasks import: one line to publish, and the truth about it."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from contracts import topology
from contracts.events import EventType, FeedbackUpdate
from contracts.ids import DiagnosisId
from realtime_service import publisher
from realtime_service.adapters.rabbitmq.connecting import close, connect
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.topology import declare_topology
from realtime_service.domain.errors import EventInvalid, PublishError, SettingsError
from realtime_service.embedded.rabbitmq import Broker
from realtime_service.publisher import EventOptions, EventPublisher
from tests.support.amqp import connected, nobody_there, take_all

QUEUE = "published events"
DIAGNOSIS = int(uuid.uuid4().int % 10**12) + 1
FEEDBACK = FeedbackUpdate(diagnosis_id=DiagnosisId(DIAGNOSIS), feedback_id=456, rating=5, effectiveness=0.9)


@pytest.fixture
async def channel(broker: Broker) -> AsyncIterator[AbstractChannel]:
    """A channel, and QUEUE with what is published about DIAGNOSIS from now on."""
    connection = await connect(broker.amqp_url, name="test")
    await declare_topology(connection)
    await close(connection)
    async with connected(broker.amqp_url) as (_, channel):
        queue = await channel.declare_queue(QUEUE, exclusive=True)
        for exchange in topology.EXCHANGES.values():
            await queue.bind(exchange, topology.routing_key(FEEDBACK.diagnosis_id))
        yield channel


@pytest.fixture
async def events(broker: Broker) -> AsyncIterator[EventPublisher]:
    async with EventPublisher(broker.amqp_url, app_id="analytics") as events:
        yield events


@pytest.fixture
async def environment(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The module's functions find the broker of this run."""
    monkeypatch.setenv("REALTIME_AMQP_URL", broker.amqp_url)
    yield
    await publisher.close_publisher()


async def _only(channel: AbstractChannel) -> AbstractIncomingMessage:
    (message,) = await take_all(channel, QUEUE)
    return message


# -- What is on the wire


async def test_a_message_has_the_properties_of_the_contract(
    channel: AbstractChannel, events: EventPublisher
) -> None:
    before = time.time()
    event_id = await events.publish(FEEDBACK)
    message = await _only(channel)
    assert (message.exchange, message.routing_key) == ("diagnosis.feedback", f"diagnosis.{DIAGNOSIS}")
    assert json.loads(message.body) == {
        "diagnosis_id": DIAGNOSIS,
        "feedback_id": 456,
        "rating": 5,
        "effectiveness": 0.9,
    }
    assert message.message_id == event_id
    assert uuid.UUID(event_id).version == 4
    assert message.content_type == "application/json"
    assert message.delivery_mode == 2
    assert message.type == "feedback_update"
    assert message.app_id == "analytics"
    assert message.headers.keys() == {"timestamp_in_ms"}
    milliseconds = message.headers["timestamp_in_ms"]
    assert isinstance(milliseconds, int)
    assert int(before * 1000) <= milliseconds <= time.time() * 1000
    assert message.timestamp == datetime.fromtimestamp(milliseconds // 1000, UTC)
    for absent in ("correlation_id", "reply_to", "expiration", "user_id", "content_encoding"):
        assert getattr(message, absent) is None


async def test_the_options_become_headers(channel: AbstractChannel, events: EventPublisher) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event_id = await events.publish(
        FEEDBACK, event_id="mine", user_id=100, exclude_connection_id="a1", traceparent=traceparent
    )
    message = await _only(channel)
    assert event_id == message.message_id == "mine"
    headers = dict(message.headers)
    assert headers.pop("timestamp_in_ms")
    assert headers == {"user_id": 100, "exclude_connection_id": "a1", "traceparent": traceparent}


async def test_the_three_broadcasts_go_where_they_belong(channel: AbstractChannel, environment: None) -> None:
    ids = [
        await publisher.broadcast_recommendation_update(DIAGNOSIS, {}, {"dose": 2}, "new data"),
        await publisher.broadcast_effectiveness_update(DIAGNOSIS, 789, 0.85, 0.92, 100),
        await publisher.broadcast_feedback_update(DIAGNOSIS, 456, 5, 0.9, event_id="chosen"),
    ]
    messages = await take_all(channel, QUEUE)
    assert [message.message_id for message in messages] == ids
    assert ids[2] == "chosen"
    assert [(message.exchange, message.type) for message in messages] == [
        (topology.EXCHANGES[kind], kind.value) for kind in EventType
    ]
    assert [json.loads(message.body) for message in messages] == [
        {"diagnosis_id": DIAGNOSIS, "old_data": {}, "new_data": {"dose": 2}, "reason": "new data"},
        {
            "diagnosis_id": DIAGNOSIS,
            "recommendation_id": 789,
            "effectiveness": 0.85,
            "confidence": 0.92,
            "sample_size": 100,
        },
        {"diagnosis_id": DIAGNOSIS, "feedback_id": 456, "rating": 5, "effectiveness": 0.9},
    ]


# -- What is refused before anything is sent


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"rating": 6}, "rating: Input should be less than or equal to 5"),
        ({"rating": 4.5}, "rating: Input should be a valid integer"),
        ({"rating": "5"}, "rating: Input should be a valid integer"),
        ({"effectiveness": 1.01}, "effectiveness: Input should be less than or equal to 1"),
        ({"effectiveness": float("nan")}, "effectiveness: Input should be a finite number"),
        ({"diagnosis_id": 0}, "diagnosis_id: Input should be greater than or equal to 1"),
        ({"diagnosis_id": None, "rating": 0}, "diagnosis_id: Input should be a valid integer; rating: "),
        ({"event_id": ""}, "event_id must be 1 to 128 printable characters"),
        ({"event_id": "é" * 128}, "event_id must be 1 to 128 printable characters, 255 bytes at most"),
        ({"event_id": 7}, "event_id must be 1 to 128 printable characters"),
        ({"user_id": True}, "user_id: Input should be a valid integer"),
        ({"user_id": 0}, "user_id: Input should be greater than or equal to 1"),
        ({"exclude_connection_id": "a\nb"}, "exclude_connection_id must be 1 to 256 printable characters"),
        ({"traceparent": ""}, "traceparent must be 1 to 256 printable characters"),
    ],
)
async def test_an_argument_that_breaks_the_contract_is_refused(
    arguments: dict[str, Any], reason: str
) -> None:
    valid = {"diagnosis_id": DIAGNOSIS, "feedback_id": 1, "rating": 5, "effectiveness": 1}
    async with EventPublisher(nobody_there()) as events:
        with pytest.raises(EventInvalid) as caught:
            await events.broadcast_feedback_update(**{**valid, **arguments})
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("new_data", "reason"),
    [
        ({"scores": [1, float("inf")]}, "new_data: Input should be a finite number"),
        ({"at": datetime.now(UTC)}, "new_data: input was not a valid JSON value"),
        ({1: "no text"}, "new_data: Input should be a valid string"),
        ({"text": "\ud800"}, "the body holds text that is no Unicode"),
        ({"text": "x" * 65_536}, "the body is larger than 65536 bytes"),
        ([], "new_data: Input should be a valid dictionary"),
    ],
)
async def test_data_that_the_service_would_park_are_refused(new_data: Any, reason: str) -> None:
    async with EventPublisher(nobody_there()) as events:
        with pytest.raises(EventInvalid) as caught:
            await events.broadcast_recommendation_update(DIAGNOSIS, {}, new_data, "why")
    assert reason in str(caught.value)


# -- Where the broker is


async def test_a_publisher_can_share_a_connection_that_is_not_its_own(
    broker: Broker, channel: AbstractChannel
) -> None:
    async with ConfirmedPublisher(broker.amqp_url) as confirmed:
        async with EventPublisher(confirmed=confirmed) as events:
            await events.publish(FEEDBACK)
        assert confirmed.connected
        await EventPublisher(confirmed=confirmed).publish(FEEDBACK)
    assert len(await take_all(channel, QUEUE)) == 2


async def test_the_url_may_stand_in_a_file(
    broker: Broker,
    channel: AbstractChannel,
    environment: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = tmp_path / "amqp_url"
    secret.write_text(broker.amqp_url + "\n")
    monkeypatch.delenv("REALTIME_AMQP_URL")
    monkeypatch.setenv("REALTIME_AMQP_URL_FILE", str(secret))
    event_id = await publisher.broadcast_feedback_update(DIAGNOSIS, 456, 5, 0.9)
    assert (await _only(channel)).message_id == event_id


def test_an_unusable_url_is_told_without_being_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALTIME_AMQP_URL", "http://guest:sesame@rabbit/")
    with pytest.raises(
        SettingsError, match=r"^REALTIME_AMQP_URL: the AMQP URL must look like amqp://"
    ) as caught:
        EventPublisher()
    assert "sesame" not in str(caught.value)
    monkeypatch.delenv("REALTIME_AMQP_URL")
    monkeypatch.setenv("REALTIME_AMQP_URL_FILE", "/nowhere/at/all")
    with pytest.raises(SettingsError, match="REALTIME_AMQP_URL_FILE: the file cannot be read"):
        EventPublisher()


async def test_a_broker_that_is_away_is_an_error_in_time() -> None:
    async with EventPublisher(nobody_there(), timeout_seconds=0.3) as events:
        for options in (EventOptions(event_id="mine"), EventOptions(event_id="mine", timeout_seconds=0.5)):
            started = time.monotonic()
            with pytest.raises(
                PublishError, match=r"'mine' to exchange 'diagnosis.feedback' was not confirmed"
            ):
                await events.publish(FEEDBACK, **options)
            assert (options.get("timeout_seconds") or 0.3) <= time.monotonic() - started < 2


# -- Event loops


async def test_after_closing_the_next_call_opens_another(channel: AbstractChannel, environment: None) -> None:
    await publisher.close_publisher()
    await publisher.broadcast_feedback_update(DIAGNOSIS, 1, 5, 0.9)
    await publisher.close_publisher()
    await publisher.broadcast_feedback_update(DIAGNOSIS, 2, 5, 0.9)
    assert len(await take_all(channel, QUEUE)) == 2


_TWENTY_LOOPS = """
import asyncio, gc, os, threading
from realtime_service import publisher

async def task(number):
    await publisher.broadcast_feedback_update({diagnosis}, number, 5, 0.9)
    await asyncio.gather(*(publisher.broadcast_feedback_update({diagnosis}, number, 5, 0.9) for _ in range(4)))
    if number % 5 == 0:
        await publisher.close_publisher()
    if number % 5 == 1:
        abandoned.append(asyncio.create_task(publisher.broadcast_feedback_update({diagnosis}, number, 5, 0.9)))
        await asyncio.sleep(0)

abandoned = []
descriptors = len(os.listdir("/proc/self/fd"))
for number in range(20):
    asyncio.run(task(number))
gc.collect()
print(len(os.listdir("/proc/self/fd")) - descriptors, threading.active_count())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts open files the Linux way")
async def test_twenty_event_loops_one_after_another_leave_nothing_behind(
    broker: Broker, channel: AbstractChannel
) -> None:
    """Warnings are errors, and what asyncio says about tasks and sockets left behind goes to stderr."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-X", "dev", "-W", "error", "-c", _TWENTY_LOOPS.format(diagnosis=DIAGNOSIS)],
        env={**os.environ, "REALTIME_AMQP_URL": broker.amqp_url, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    complaints = [
        line for line in done.stderr.splitlines() if not line.startswith("Executing <")
    ]  # slow, says -X dev
    assert complaints == []
    assert done.stdout.split() == ["0", "1"]
    assert len(await take_all(channel, QUEUE)) >= 100
