"""A publisher's trace goes on to the delivery, where OpenTelemetry is installed (the extra `tracing`).

    task's span ─► publish (producer) ── header `traceparent` ──► deliver (consumer), linked to publish

Without OpenTelemetry nothing here costs more than a comparison. Where spans go is said by its own variables
(`OTEL_EXPORTER_OTLP_ENDPOINT` and the like); attributes are named as in its semantic conventions for messaging (1.37).
W3C Trace Context §3.2 for the header.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from contracts.ids import EventId
from contracts.topology import Header
from realtime_service.domain.event import Event

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _installed = False
else:
    _installed = True

AVAILABLE: Final = _installed
"""Whether OpenTelemetry's API is installed."""

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

_NAME: Final = "realtime_service"
_HEADER: Final = Header.TRACEPARENT.value
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@contextmanager
def publishing(exchange: str, event: EventId, traceparent: str | None = None) -> Iterator[str | None]:
    """A span around a publish, below that one or the current one; yields the `traceparent` to send along, if any."""
    if not AVAILABLE:
        yield traceparent
        return
    above = None if traceparent is None else TraceContextTextMapPropagator().extract({_HEADER: traceparent})
    attributes = {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": exchange,
        "messaging.message.id": event,
    }
    with _tracer().start_as_current_span(
        f"publish {exchange}", context=above, kind=trace.SpanKind.PRODUCER, attributes=attributes
    ):
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        yield carrier.get(_HEADER, traceparent)


Delivered = Callable[[Event, int], None]
"""Told of each event that was sent, and to how many clients."""


def deliveries() -> Delivered | None:
    """What makes a span of each event that is sent to clients here; None where nobody traces."""
    if not AVAILABLE:
        return None
    tracer = _tracer()

    def delivered(event: Event, clients: int) -> None:
        _deliver(tracer, event, clients)

    return delivered


def _tracer() -> "Tracer":
    return trace.get_tracer(_NAME)


def _deliver(tracer: "Tracer", event: Event, clients: int) -> None:
    if event.trace is None:
        return
    published = TraceContextTextMapPropagator().extract({_HEADER: event.trace})
    context = trace.get_current_span(published).get_span_context()
    if not context.is_valid:
        return
    attributes: dict[str, str | int] = {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "deliver",
        "messaging.operation.type": "process",
        "messaging.message.id": event.id,
        "realtime.clients": clients,
    }
    span = tracer.start_span(
        "deliver",
        context=published,
        kind=trace.SpanKind.CONSUMER,
        links=[trace.Link(context)],
        attributes=attributes,
    )
    span.end()


@contextmanager
def exporting() -> Iterator[None]:
    """Send spans where OpenTelemetry's variables say, until this is left; nothing where they say nothing.

    A provider that somebody else set up (`opentelemetry-instrument`) stays.
    """
    provider = _provider()
    if provider is None:
        yield
        return
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


def _provider() -> "TracerProvider | None":
    if not (AVAILABLE and any(os.environ.get(name) for name in _ENDPOINTS)):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return None
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return None
    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", _NAME)})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
