"""`/metrics`: what becomes of events, how long it takes, and no label that names a diagnosis or a user."""

import asyncio
from collections.abc import AsyncIterator
from typing import get_args

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from contracts.ids import ConnectionId, EventId, UserId
from realtime_service.domain.room import GapCause, Member
from realtime_service.metrics import ProofTimes
from realtime_service.tallies import Spread
from tests.service.harness.waiting import until_true
from tests.web.conftest import StartReplica
from tests.web.replica import Replica, Visitors

ALERTED = (
    "realtime_gaps_total",
    "realtime_events_evicted_total",
    "realtime_events_parked_total",
    "realtime_authentications_refused_total",
)
LABELS = {"type", "stage", "le", "code", "cause", "reason", "queue", "event", "status"}


@pytest.fixture(scope="module")
async def replica(start_replica: StartReplica) -> AsyncIterator[Replica]:
    """A replica that nobody has visited."""
    async with start_replica() as running:
        yield running


async def samples(replica: Replica) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Everything that is shown now."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{replica.address}/metrics") as answer,
    ):
        families = list(text_string_to_metric_families(await answer.text()))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


async def value(replica: Replica, name: str, **labels: str) -> float:
    """One of them."""
    return (await samples(replica))[name, frozenset(labels.items())]


async def test_an_event_is_counted_by_type_and_stage_and_its_ways_are_timed(replica: Replica) -> None:
    diagnosis = replica.diagnoses.add()
    async with Visitors(replica) as visitors, asyncio.timeout(30):
        client = await visitors.welcomed(diagnosis)
        assert await value(replica, "realtime_sessions") == 1
        assert await value(replica, "realtime_unsent_bytes") == 0
        await replica.events.broadcast_feedback_update(diagnosis, 2, 5, 0.5)
        (event,) = await client.events(1)
        assert event["type"] == "feedback_update"

        async def proven() -> bool:
            return await value(replica, "realtime_sent_to_proven_seconds_count") == 1

        await until_true(proven, "its proof is timed")
    for stage, expected in {"consumed": 1, "returned": 0, "sent": 1, "proven": 1}.items():
        assert await value(replica, "realtime_events_total", type="feedback_update", stage=stage) == expected
    assert await value(replica, "realtime_publish_to_sent_seconds_count") == 1


async def test_the_lag_of_the_event_loop_is_looked_at(replica: Replica) -> None:
    async def looked() -> bool:
        return await value(replica, "realtime_event_loop_lag_seconds_count") > 0

    await until_true(looked, "a look at the event loop is counted")


async def test_what_wakes_an_operator_is_there_before_it_happens(start_replica: StartReplica) -> None:
    """`increase()` of a counter that begins at 1 is 0: the first gap would be no alert."""
    async with start_replica() as unvisited:
        shown = await samples(unvisited)
    at_zero = {
        name: {dict(labels).popitem()[1] for other, labels in shown if other == name and labels}
        for name in ALERTED
    }
    assert at_zero["realtime_gaps_total"] == set(get_args(GapCause))
    assert at_zero["realtime_events_evicted_total"] == {"shared", "device"}
    assert at_zero["realtime_events_parked_total"] >= {"body", "not_json", "unknown_diagnosis", "exchange"}
    assert at_zero["realtime_authentications_refused_total"] >= {"expired", "signature", "not_allowed"}
    closed = {frozenset(labels) for name, labels in shown if name == "realtime_connections_closed_total"}
    for code, cause in (("4408", "no_receipt"), ("1013", "slow"), ("1013", "broker"), ("1012", "restarting")):
        assert frozenset({("code", code), ("cause", cause)}) in closed


async def test_no_label_can_name_a_diagnosis_or_a_user(replica: Replica) -> None:
    assert {label for _, labels in await samples(replica) for label, _ in labels} <= LABELS


def test_a_client_that_leaves_is_waited_for_no_more() -> None:
    histogram = Spread("proofs", "Proofs", (0.1, 1.0), CollectorRegistry())
    times = ProofTimes(histogram)
    first, second = (Member.of(ConnectionId(name), UserId(1), "ack", None) for name in "ab")
    for member in (first, second):
        member.receipts.sent(EventId("e"), 1)
        times.sent(EventId("e"), member)
    second.receipts.ack(EventId("e"))
    times.proved(second)
    assert _count(histogram) == 0
    times.left(first)
    second.receipts.sent(EventId("f"), 1)
    times.sent(EventId("f"), second)
    second.receipts.ack(EventId("f"))
    times.proved(second)
    assert _count(histogram) == 1


def test_what_was_proved_before_it_is_looked_at_is_waited_for_no_more() -> None:
    """Some of a crowd are sent an event before the others."""
    histogram = Spread("proofs", "Proofs", (0.1, 1.0), CollectorRegistry())
    times = ProofTimes(histogram)
    early, late = (Member.of(ConnectionId(name), UserId(1), "ack", None) for name in "ab")
    times.sent(EventId("e"), early)
    late.receipts.sent(EventId("f"), 1)
    times.sent(EventId("f"), late)
    late.receipts.ack(EventId("f"))
    times.proved(late)
    assert _count(histogram) == 1


def _count(histogram: Spread) -> float:
    (family,) = histogram.collect()
    return next(sample.value for sample in family.samples if sample.name.endswith("_count"))
