"""Speaks to the other replicas through `realtime.nodes`. `domain.sessions.Replicas`."""

import uuid
from typing import Final

from contracts import topology
from contracts.ids import DiagnosisId
from contracts.replicas import ALL_REPLICAS, ReplicaMessage
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher

PUBLISH_SECONDS: Final = 10.0


class RabbitReplicas:
    """One publisher's channel for everything, so that an answer is a marker in the stream of relays."""

    def __init__(self, publisher: ConfirmedPublisher, name: str) -> None:
        self._publisher = publisher
        self.name = name

    async def tell_room(self, diagnosis: DiagnosisId, message: ReplicaMessage) -> None:
        """Tell every replica that watches a diagnosis."""
        await self._publish(topology.NODES, topology.routing_key(diagnosis), message)

    async def tell(self, node: str, message: ReplicaMessage) -> None:
        """Tell one replica."""
        await self._publish("", node, message)

    async def tell_all(self, message: ReplicaMessage) -> None:
        """Tell every replica."""
        await self._publish(topology.NODES, ALL_REPLICAS, message)

    async def _publish(self, exchange: str, key: str, message: ReplicaMessage) -> None:
        await self._publisher.publish(
            exchange,
            key,
            message.model_dump_json().encode(),
            message_id=uuid.uuid4().hex,
            timeout_seconds=PUBLISH_SECONDS,
            message_type=message.kind,
        )
