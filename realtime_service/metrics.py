"""What an operator can count. No label carries a diagnosis or a user."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from realtime_service.logs import TROUBLES


class Metrics:
    """The service's metrics on a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(TROUBLES)
        self.connections = Gauge("realtime_connections", "Open, authenticated connections", registry=registry)
        self.rooms = Gauge("realtime_rooms", "Diagnoses with a connection here", registry=registry)
        self.delivered = Counter("realtime_deliveries", "Events handed over by the broker", registry=registry)
        self.sent = Counter(
            "realtime_messages_sent", "Event messages written to connections", registry=registry
        )
        self.proven = Counter(
            "realtime_messages_proven", "Event messages proved to have arrived", registry=registry
        )
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
        self.broker_up = Gauge("realtime_broker_up", "1 while the broker connection is up", registry=registry)
