"""What a welcomed client is sent: the welcome, what waited, what comes; to whom, and how often."""

import asyncio
import json
import re

import aiohttp

from realtime_service.domain.window import WINDOW_EVENTS
from tests.web.replica import FEEDBACK, STRANGER, Replica, Visitors, feedback_body, token

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")


async def test_the_welcome_says_what_a_client_may_count_on(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.connect(diagnosis)
    welcome = await client.frame()
    assert welcome.pop("timestamp")
    connection_id = welcome["data"].pop("connection_id")
    assert re.fullmatch(r"[0-9a-f]{32}", connection_id)
    assert welcome == {
        "type": "connect",
        "diagnosis_id": diagnosis,
        "data": {
            "queued_messages": 0,
            "gap": False,
            "resumed": True,
            "receipts": "pong",
            "window": WINDOW_EVENTS,
            "receipt_timeout_seconds": 30.0,
            "heartbeat_seconds": 25.0,
        },
    }


async def test_each_kind_of_event_arrives_as_it_was_published(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    old, new = {"dose": 1, "note": "früh"}, {"dose": None, "more": [1, {"a": 0.5}]}
    ids = [
        await replica.events.broadcast_recommendation_update(diagnosis, old, new, "new evidence 💊"),
        await replica.events.broadcast_effectiveness_update(diagnosis, 789, 0.85, 0.92, 100),
        await replica.events.broadcast_feedback_update(diagnosis, 456, 4, 0.75),
    ]
    frames = await client.events(3)
    for frame in frames:
        assert RFC3339.match(frame.pop("timestamp"))
    assert frames == [
        {
            "type": "recommendation_update",
            "diagnosis_id": diagnosis,
            "event_id": ids[0],
            "data": {"old_data": old, "new_data": new, "reason": "new evidence 💊"},
        },
        {
            "type": "effectiveness_update",
            "diagnosis_id": diagnosis,
            "event_id": ids[1],
            "data": {"recommendation_id": 789, "effectiveness": 0.85, "confidence": 0.92, "sample_size": 100},
        },
        {
            "type": "feedback_update",
            "diagnosis_id": diagnosis,
            "event_id": ids[2],
            "data": {"feedback_id": 456, "rating": 4, "effectiveness": 0.75},
        },
    ]


async def test_the_timestamp_is_the_publishers_to_the_millisecond(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    key = f"diagnosis.{diagnosis}"
    await replica.amqp.publish(
        FEEDBACK, key, feedback_body(diagnosis), timestamp=1, headers={"timestamp_in_ms": 1_795_341_600_123}
    )
    await replica.amqp.publish(FEEDBACK, key, feedback_body(diagnosis), timestamp=1_795_341_600)
    exact, seconds = await client.events(2)
    assert exact["timestamp"] == "2026-11-22T10:00:00.123Z"
    assert seconds["timestamp"] == "2026-11-22T10:00:00.000Z"


async def test_what_waited_comes_first_and_in_order_then_what_comes(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    await replica.feedback(diagnosis, *range(30))
    await replica.amqp.has_depth(f"diagnosis.{diagnosis}", 30)
    client = await visitors.connect(diagnosis)
    welcome = await client.welcome()
    await replica.feedback(diagnosis, *range(30, 60))
    assert await client.numbers(60) == list(range(60))
    assert not welcome["gap"]
    assert welcome["queued_messages"] == 30


async def test_of_150_events_the_newest_100_wait_and_the_client_is_told(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    await (await visitors.welcomed(diagnosis)).leave()
    queue = f"diagnosis.{diagnosis}"
    await replica.feedback(diagnosis, *range(150))
    await replica.amqp.has_depth(queue, 100)
    client = await visitors.connect(diagnosis)
    welcome = await client.welcome()
    assert welcome["gap"]
    assert welcome["queued_messages"] == 100
    assert await client.numbers(100) == list(range(50, 150))
    await replica.nothing_waits(diagnosis)
    await client.leave()

    again = await (await visitors.connect(diagnosis)).welcome()
    assert not again["gap"]
    assert again["queued_messages"] == 0


async def test_all_clients_get_an_event_whatever_library_they_use(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    clients = [await visitors.welcomed(diagnosis) for _ in range(5)]
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(replica.url(diagnosis, token=token())) as other,
    ):
        assert (await other.receive_json())["type"] == "connect"
        await replica.feedback(diagnosis, 7)
        assert (await other.receive_json())["data"]["feedback_id"] == 7
    assert [await client.numbers(1) for client in clients] == [[7]] * 5


async def test_many_who_come_at_once_are_welcomed_without_doubts(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    clients = await asyncio.gather(*(visitors.open(replica.url(diagnosis)) for _ in range(250)))
    for client in clients:
        await client.send({"type": "auth", "token": token()})
    welcomes = await asyncio.gather(*(client.welcome() for client in clients))
    assert not any(welcome["gap"] for welcome in welcomes)
    await replica.feedback(diagnosis, 1)
    assert await asyncio.gather(*(client.numbers(1) for client in clients)) == [[1]] * 250


async def test_the_same_event_published_twice_is_sent_once(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    await replica.feedback(diagnosis, 1, 1, event_id="the same")
    await client.ping()
    await replica.feedback(diagnosis, 1, event_id="the same")
    await replica.feedback(diagnosis, 2)
    assert await client.numbers(1) == [2]


async def test_equal_messages_without_an_id_are_two_events(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    for _ in range(2):
        await replica.amqp.publish(FEEDBACK, f"diagnosis.{diagnosis}", feedback_body(diagnosis))
    first, second = await client.events(2)
    assert first["event_id"] != second["event_id"]
    assert first["data"] == second["data"]


async def test_equal_messages_without_an_id_are_two_events_also_at_the_first_contact(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    for _ in range(2):
        await replica.amqp.publish(FEEDBACK, f"diagnosis.{diagnosis}", feedback_body(diagnosis))
    await replica.amqp.has_depth(f"diagnosis.{diagnosis}", 2)
    client = await visitors.welcomed(diagnosis)
    first, second = await client.events(2)
    assert first["event_id"] != second["event_id"]


async def test_a_publishers_id_is_kept_as_it_is(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    odd = "Ärzte/7#*.{} €" + "x" * 100
    await replica.feedback(diagnosis, 1, event_id=odd)
    assert [event["event_id"] for event in await client.events(1)] == [odd]


async def test_unknown_fields_are_dropped_and_the_type_is_the_exchanges(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    body = feedback_body(diagnosis, type="connect", secret="not for phones")
    await replica.amqp.publish(FEEDBACK, f"diagnosis.{diagnosis}", body, type="recommendation_update")
    [event] = await client.events(1)
    assert event["type"] == "feedback_update"
    assert "secret" not in json.dumps(event)


async def test_a_personal_event_goes_to_its_user(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    clients = [await visitors.welcomed(diagnosis), await visitors.welcomed(diagnosis, client_id="phone")]
    await replica.feedback(diagnosis, 1, user_id=100)
    await replica.feedback(diagnosis, 2)
    assert [await client.numbers(2) for client in clients] == [[1, 2], [1, 2]]


async def test_a_personal_event_for_somebody_else_is_parked(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    clients = [await visitors.welcomed(diagnosis), await visitors.welcomed(diagnosis, client_id="phone")]
    await replica.feedback(diagnosis, 1, user_id=STRANGER, event_id=f"personal {diagnosis}")
    await replica.feedback(diagnosis, 2)
    assert [await client.numbers(1) for client in clients] == [[2], [2]]
    parked = await replica.amqp.find_parked(lambda message: message.message_id == f"personal {diagnosis}")
    assert parked.exchange == FEEDBACK
    assert parked.routing_key == f"diagnosis.{diagnosis}"
    assert "user" in parked.reason
    await replica.amqp.has_depth(f"diagnosis.{diagnosis}", 0)


async def test_an_excluded_connection_is_left_out(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    causing = await visitors.connect(diagnosis)
    excluded = (await causing.welcome())["connection_id"]
    watching = await visitors.welcomed(diagnosis)
    await replica.feedback(diagnosis, 1, exclude_connection_id=excluded)
    await replica.feedback(diagnosis, 2)
    assert await watching.numbers(2) == [1, 2]
    assert await causing.numbers(1) == [2]


async def test_an_event_that_excludes_the_only_connection_does_not_wait_for_ever(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    causing = await visitors.connect(diagnosis)
    excluded = (await causing.welcome())["connection_id"]
    await replica.feedback(diagnosis, 1, exclude_connection_id=excluded)
    await replica.feedback(diagnosis, 2)
    assert await causing.numbers(1) == [2]
    await replica.nothing_waits(diagnosis)


async def test_events_while_nobody_reads_them_are_not_lost_to_a_client_that_is_cut_off(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    silent = await visitors.raw(diagnosis)
    assert (await silent.message())["type"] == "connect"
    await replica.feedback(diagnosis, *range(10))
    assert [(await silent.message())["data"]["feedback_id"] for _ in range(10)] == list(range(10))
    await silent.abort()
    heir = await visitors.connect(diagnosis)
    welcome = await heir.welcome()
    frames = await heir.events(10)
    assert [frame["data"]["feedback_id"] for frame in frames] == list(range(10))
    assert all(frame["redelivered"] is True for frame in frames)
    assert welcome["queued_messages"] == 10


async def test_a_newcomer_gets_what_is_unproven_before_what_comes(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    silent = await visitors.raw(diagnosis)
    assert (await silent.message())["type"] == "connect"
    await replica.feedback(diagnosis, *range(5))
    for _ in range(5):
        await silent.message()
    newcomer = await visitors.connect(diagnosis)
    assert (await newcomer.welcome())["queued_messages"] == 5
    await replica.feedback(diagnosis, 5)
    assert await newcomer.numbers(6) == list(range(6))
    await replica.nothing_waits(diagnosis)


async def test_clients_that_come_and_go_at_once_leave_nothing_behind(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    for _ in range(3):
        await asyncio.gather(*(visitors.connect(diagnosis) for _ in range(10)))
    client = await visitors.welcomed(diagnosis)
    await replica.feedback(diagnosis, 1)
    assert await client.numbers(1) == [1]
