"""A trace goes from the task that publishes through RabbitMQ to the delivery; spans are kept in memory."""

from collections.abc import AsyncIterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from realtime_service import tracing
from realtime_service.embedded.rabbitmq import Broker
from realtime_service.event_publisher import EventPublisher
from tests.service.harness.waiting import until
from tests.web.replica import Amqp, Diagnoses, Replica, Visitors, replica_of

STRANGE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def provider() -> TracerProvider:
    """For these tests alone: a global one would trace all that come after."""
    return TracerProvider()


@pytest.fixture
def spans(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Everything that the service traces."""
    kept = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("test"))
    return kept


@pytest.fixture
async def replica(
    broker: Broker, spans: InMemorySpanExporter, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Replica]:
    diagnoses, amqp = Diagnoses(tmp_path_factory.mktemp("traces") / "diagnoses.db"), Amqp(broker.amqp_url)
    async with EventPublisher(broker.amqp_url) as events, replica_of(amqp, events, diagnoses) as replica:
        yield replica
    await amqp.close()


def of(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


async def test_a_delivery_is_linked_to_the_publish_that_is_below_the_task(
    replica: Replica, spans: InMemorySpanExporter, provider: TracerProvider
) -> None:
    diagnosis = replica.diagnoses.add()
    async with Visitors(replica) as visitors:
        clients = [await visitors.welcomed(diagnosis) for _ in range(2)]
        with provider.get_tracer("a task").start_as_current_span("task") as task:
            await replica.feedback(diagnosis, 1)
        events = [(await client.events(1))[0] for client in clients]
        await until(lambda: of(spans, "deliver"), "the delivery is traced")
    (publish,), (deliver,) = of(spans, "publish diagnosis.feedback"), of(spans, "deliver")
    assert publish.context is not None
    assert deliver.context is not None
    assert publish.parent == task.get_span_context()
    assert publish.kind is trace.SpanKind.PRODUCER
    assert deliver.kind is trace.SpanKind.CONSUMER
    (link,) = deliver.links
    assert link.context.span_id == publish.context.span_id
    assert deliver.context.trace_id == publish.context.trace_id == task.get_span_context().trace_id
    assert deliver.attributes is not None
    assert deliver.attributes["realtime.clients"] == 2
    assert {deliver.attributes["messaging.message.id"]} == {event["event_id"] for event in events}


async def test_the_trace_of_a_publisher_in_another_language_goes_on(
    replica: Replica, spans: InMemorySpanExporter
) -> None:
    diagnosis = replica.diagnoses.add()
    async with Visitors(replica) as visitors:
        client = await visitors.welcomed(diagnosis)
        body = {"diagnosis_id": diagnosis, "feedback_id": 1, "rating": 5, "effectiveness": 0.5}
        for header in (STRANGE, "nonsense", 7):
            key = f"diagnosis.{diagnosis}"
            await replica.amqp.publish("diagnosis.feedback", key, body, headers={"traceparent": header})
        await client.events(3)
        await until(lambda: of(spans, "deliver"), "the delivery is traced")
    (deliver,) = of(spans, "deliver")
    (link,) = deliver.links
    assert trace.format_trace_id(link.context.trace_id) == STRANGE.split("-")[1]
    assert trace.format_span_id(link.context.span_id) == STRANGE.split("-")[2]


def test_where_a_caller_says_a_trace_the_publish_is_below_it(spans: InMemorySpanExporter) -> None:
    with tracing.publishing("x", "event", STRANGE) as sent:  # type: ignore[arg-type]
        pass
    (publish,) = of(spans, "publish x")
    assert publish.parent is not None
    assert trace.format_span_id(publish.parent.span_id) == STRANGE.split("-")[2]
    assert sent is not None
    assert sent.split("-")[1] == STRANGE.split("-")[1]
    assert sent != STRANGE


def test_without_opentelemetry_a_trace_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "AVAILABLE", False)
    with tracing.publishing("x", "event", STRANGE) as sent:  # type: ignore[arg-type]
        assert sent == STRANGE
    assert tracing.deliveries() is None
    with tracing.exporting():
        pass
