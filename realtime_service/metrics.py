"""What an operator can count. No label carries a diagnosis or a user."""

import time
from typing import Final, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from contracts.close_codes import CloseCode
from contracts.events import EventType
from contracts.ids import EventId
from contracts.topology import EVENT_TYPES
from realtime_service.domain.errors import TokenFault
from realtime_service.domain.event import Event
from realtime_service.domain.room import GapCause, Member
from realtime_service.logs import TROUBLES
from realtime_service.tallies import Spread, Tallies, Tally, tally

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Buckets of what should take milliseconds, up to what an operator is woken for."""
TRY_LATER_CAUSES: Final = (
    "slow",
    "broker",
    "database",
    "keys",
    "connections",
    "user_connections",
    "devices",
)
"""Why clients are told to come back later."""
_TYPE_AT: Final = len(b'{"type":"')
"""Where the type stands in an event's message."""


class Stages(NamedTuple):
    """What became of the events of a type: counters."""

    consumed: Tally
    returned: Tally
    sent: Tally
    proven: Tally
    parked: Tally
    evicted: Tally


class ProofTimes:
    """How long proofs take, of one event to one client at a time: the next is looked at when that one is proven."""

    __slots__ = ("_began", "_event", "_histogram", "_member")

    def __init__(self, histogram: Spread) -> None:
        self._histogram = histogram
        self._member: Member | None = None
        self._event = EventId("")
        self._began = 0.0

    def sent(self, event: EventId, member: Member) -> None:
        """An event was written to this client, among others; it may have proved it already."""
        if self._member is None and member.receipts.mode != "none" and event in member.receipts:
            self._member, self._event, self._began = member, event, time.monotonic()

    def proved(self, member: Member) -> None:
        """This client proved something."""
        if member is self._member and self._event not in member.receipts:
            self._histogram.observe(time.monotonic() - self._began)
            self._member = None

    def left(self, member: Member) -> None:
        """This client is gone."""
        if member is self._member:
            self._member = None


class Metrics:
    """The service's metrics on a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(TROUBLES)
        self.connections = Gauge("realtime_connections", "Open, authenticated connections", registry=registry)
        self.rooms = Gauge("realtime_rooms", "Diagnoses with a connection here", registry=registry)
        self.delivered = tally("realtime_deliveries", "Events handed over by the broker", registry)
        self.sent = tally("realtime_messages_sent", "Event messages written to connections", registry)
        self.proven = tally("realtime_messages_proven", "Event messages proved to have arrived", registry)
        self.parked = Counter(
            "realtime_events_parked", "Bad events brought to the parking queue", ["reason"], registry=registry
        )
        self.evicted = Counter(
            "realtime_events_evicted", "Events dropped from a watched backlog", ["queue"], registry=registry
        )
        self.gaps = Counter(
            "realtime_gaps",
            "Times that clients of a diagnosis may have missed events",
            ["cause"],
            registry=registry,
        )
        self.queues_lost = Counter(
            "realtime_queues_lost", "Queues that were deleted while they were consumed", registry=registry
        )
        self.closed = Counter(
            "realtime_connections_closed",
            "Connections refused or ended by the server",
            ["code", "cause"],
            registry=registry,
        )
        self.refused = Counter(
            "realtime_authentications_refused", "Tokens or diagnoses refused", ["reason"], registry=registry
        )
        self.revoked = Counter(
            "realtime_connections_revoked", "Connections whose user lost the diagnosis", registry=registry
        )
        self.rechecks_failed = Counter(
            "realtime_ownership_rechecks_failed",
            "Looks at who may stay that the database did not answer",
            registry=registry,
        )
        self.untrusted = Counter(
            "realtime_connections_without_receipts", "Connections whose PONGs never came", registry=registry
        )
        self.relays_sent = Counter("realtime_relays_sent", "Events told to other replicas", registry=registry)
        self.relays_received = Counter(
            "realtime_relays_received", "Events told by other replicas", registry=registry
        )
        self.relays_failed = Counter(
            "realtime_relays_failed",
            "Relays that the broker did not confirm, and that were repeated",
            registry=registry,
        )
        self.unanswered = Counter(
            "realtime_replicas_silent", "Joins that other replicas did not answer in time", registry=registry
        )
        self.sessions = Gauge(
            "realtime_sessions", "Queues that this replica consumes, or wants to", registry=registry
        )
        self.unsent = Gauge(
            "realtime_unsent_bytes",
            "Bytes that wait in this process for the networks of clients",
            registry=registry,
        )
        events = Tallies(
            "realtime_events",
            "Events by type: consumed, returned (delivered by the broker once more), sent to anybody, "
            "proven and settled, parked, evicted while watched",
            ["type", "stage"],
            registry,
        )
        self._stages = {
            kind.encode(): Stages(*(events.labels(kind, stage) for stage in Stages._fields))
            for kind in (*EventType, "other")
        }
        self.delay = Spread(
            "realtime_publish_to_sent_seconds",
            "From publishing, by the publisher's clock, to the first write",
            SECONDS,
            registry,
        )
        self.proof_times = ProofTimes(
            Spread(
                "realtime_sent_to_proven_seconds",
                "From writing an event to a client to its proof, of one at a time",
                SECONDS,
                registry,
            )
        )
        self.relay_seconds = Spread(
            "realtime_relay_seconds",
            "Until the broker had confirmed what was told to other replicas",
            SECONDS,
            registry,
        )
        self.loop_lag = Spread(
            "realtime_event_loop_lag_seconds",
            "How late the event loop woke a task, looked at four times a second",
            SECONDS,
            registry,
        )
        self.broker_up = Gauge("realtime_broker_up", "1 while the broker connection is up", registry=registry)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Show what has not happened yet: Prometheus sees no increase in a series that begins with its first event."""
        for cause in get_args(GapCause):
            self.gaps.labels(cause=cause)
        for queue in ("shared", "device"):
            self.evicted.labels(queue=queue)
        for reason in (*TokenFault, "not_allowed", "origin"):
            self.refused.labels(reason=str(reason))
        for code in CloseCode:
            for cause in TRY_LATER_CAUSES if code is CloseCode.TRY_LATER else (code.name.lower(),):
                if code is not CloseCode.NORMAL:
                    self.closed.labels(code=str(int(code)), cause=cause)

    def stages_of(self, event: Event) -> Stages:
        """The counters of an event's type."""
        message = event.message
        return self.stages_of_type(message[_TYPE_AT : message.find(b'"', _TYPE_AT)])

    def stages_of_type(self, kind: bytes | None) -> Stages:
        """The counters of a type; of the others, where it is none."""
        return self._stages.get(kind or b"") or self._stages[b"other"]

    def was_parked(self, exchange: str, reason: str) -> None:
        """An event that was published to this exchange was refused."""
        self.parked.labels(reason=reason).inc()
        self.stages_of_type(_type_of(exchange)).parked.inc()

    def was_evicted(self, exchange: str, queue: str) -> None:
        """An event that was published to this exchange was dropped from such a queue."""
        self.evicted.labels(queue=queue).inc()
        self.stages_of_type(_type_of(exchange)).evicted.inc()


def _type_of(exchange: str) -> bytes | None:
    kind = EVENT_TYPES.get(exchange)
    return kind.encode() if kind is not None else None
