"""The port between the delivery rules and the broker: a session is one durable queue, consumed until released."""

from typing import NamedTuple, Protocol

from contracts.ids import DiagnosisId, EventId
from contracts.replicas import ReplicaMessage
from realtime_service.domain.event import Event


class Depth(NamedTuple):
    """A queue at a moment."""

    ready: int
    """Events that wait in it."""
    consumers: int
    """Sessions on it, of all replicas; one of them is active."""


class Replicas(Protocol):
    """The other replicas. Every call returns after the broker's confirm, in the order of the calls."""

    name: str
    """The node queue of this replica."""

    async def tell_room(self, diagnosis: DiagnosisId, message: ReplicaMessage) -> None:
        """Tell every replica that watches a diagnosis, this one too. Raises PublishError."""

    async def tell(self, node: str, message: ReplicaMessage) -> None:
        """Tell one replica. Raises PublishError."""

    async def tell_all(self, message: ReplicaMessage) -> None:
        """Tell every replica, this one too. Raises PublishError."""


class SessionListener(Protocol):
    """Told what happens to a session; every call returns at once."""

    def making(self) -> None:
        """The queue does not exist and is about to be made. Raises Disconnect if it must not be."""

    def opened(self, generation: int, ready: int, *, full: bool, made: bool) -> None:
        """A channel is about to consume: `ready` events wait; the queue was `full`; it was `made` just now."""

    def delivered(self, tag: int, event: Event, *, redelivered: bool) -> None:
        """The broker handed over an event, in the queue's order."""

    def refused(self, tag: int, reason: str) -> None:
        """The broker handed over something that is no event."""

    def parked(self, generation: int, tag: int) -> None:
        """A refused delivery is safe in the parking queue."""

    def lost(self) -> None:
        """The channel is gone; unsettled deliveries will come again."""


class Session(Protocol):
    """One durable queue, consumed on a channel of its own."""

    consumers: int
    """Sessions on the queue, of all replicas, when this one had begun to consume; 0 before it did."""

    def open(self) -> None:
        """Want the session; it opens as soon as there is a broker, and again after every loss."""

    async def opened(self) -> None:
        """Return once it consumes. Raises Disconnect when its listener would not have the queue made."""

    async def release(self) -> None:
        """Stop; what is unsettled is back in the queue, in its place, when this returns."""

    def renew(self) -> None:
        """Give everything unsettled back and consume anew."""

    def settle(self, generation: int, tag: int) -> None:
        """Acknowledge every delivery up to `tag` of that generation's channel."""

    def park(self, generation: int, tag: int, reason: str) -> None:
        """Bring a refused delivery to the parking queue, then tell the listener."""

    async def depth(self) -> Depth:
        """The queue, behind every delivery made so far. Raises when the session is not open."""


class Sessions(Protocol):
    """Makes sessions, and keeps this replica within hearing of what is dropped from their queues."""

    def shared(self, diagnosis: DiagnosisId, listener: SessionListener) -> Session:
        """The session on a diagnosis' shared queue; one that does not exist is asked for at the first-contact door."""

    def device(self, diagnosis: DiagnosisId, key: str, listener: SessionListener) -> Session:
        """The session on a device's queue; one that does not exist is made."""

    def watch(self, diagnosis: DiagnosisId) -> None:
        """Hear of evictions."""

    def unwatch(self, diagnosis: DiagnosisId) -> None:
        """Hear no more of them."""


class EvictionListener(Protocol):
    """Told of events that the broker dropped from a queue."""

    def evicted(self, queue: str, event: EventId) -> None:
        """`event` was dropped from `queue`: too many waited, or for too long."""
