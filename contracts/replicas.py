"""What replicas of this service tell each other through `realtime.nodes`.

Part of the wire: during a rolling upgrade replicas of two versions speak it. Unknown fields and kinds are ignored.
A message is JSON; AMQP `type` names its kind, and `sender` is the node queue an answer goes to.
"""

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import MAX_ID, ConnectionId, DiagnosisId, EventId, UserId

ALL_REPLICAS: Final = "replicas"
"""Routing key that every node queue is bound with."""


class Kind(StrEnum):
    """AMQP `type` of a message between replicas."""

    ASK = "ask"
    ANSWER = "answer"
    RELAY = "relay"
    PROVEN = "proven"
    BYE = "bye"
    TAKE_OVER = "take_over"
    QUEUE_LOST = "queue_lost"
    PRESENCE = "presence"
    CENSUS_ASK = "census_ask"
    CENSUS = "census"


_Id = Annotated[DiagnosisId, Field(ge=1, le=MAX_ID)]
Counts = dict[_Id, Annotated[int, Field(ge=0, le=MAX_ID)]]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    sender: Annotated[str, Field(pattern=r"^[ -~]{1,255}$")]
    """The node queue of the replica that speaks."""


class RelayedEvent(BaseModel):
    """An event as clients get it, with its place in the stream of the replica that consumed it."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    event_id: EventId
    message: str
    """The client's message, JSON text."""
    user_id: UserId | None = None
    exclude_connection_id: ConnectionId | None = None
    epoch: int
    """Counts the replicas that were active for the diagnosis, one after the other."""
    sequence: int
    """Counts the events within the epoch."""
    redelivered: bool = False
    """Somebody may have been sent it before."""


class Ask(_Message):
    """Somebody joins here: what do you hold that nobody has proven? Everybody with the room answers."""

    kind: Literal[Kind.ASK] = Kind.ASK
    diagnosis_id: DiagnosisId
    ask_id: str
    everybody: bool = False
    """Those without the room answer, too: the asker waits for every replica it knows of."""


class Answer(_Message):
    """A replica's unproven events. What it relays after this comes behind it."""

    kind: Literal[Kind.ANSWER] = Kind.ANSWER
    diagnosis_id: DiagnosisId
    ask_id: str
    watching: bool = True
    """False: nobody watches the diagnosis there."""
    epoch: int
    """The highest epoch the replica knows."""
    sequence: int
    """The last sequence number it sent or saw in that epoch."""
    consuming: bool
    """The broker counts it among the consumers of the shared queue."""
    leading: bool
    """It is the active one: `events` and `proven_ids` are all that was delivered and not settled."""
    events: tuple[RelayedEvent, ...]
    proven_ids: tuple[EventId, ...]
    """What was handed out and proven of late: whoever becomes active next may be delivered it again."""


class Relay(_Message):
    """The active replica got an event from the shared queue."""

    kind: Literal[Kind.RELAY] = Kind.RELAY
    diagnosis_id: DiagnosisId
    event: RelayedEvent


class Proven(_Message):
    """Clients of this replica proved that they have these events: whoever consumed them may settle them."""

    kind: Literal[Kind.PROVEN] = Kind.PROVEN
    diagnosis_id: DiagnosisId
    event_ids: tuple[EventId, ...]


class Bye(_Message):
    """The last client of the diagnosis left this replica."""

    kind: Literal[Kind.BYE] = Kind.BYE
    diagnosis_id: DiagnosisId


class TakeOver(_Message):
    """A device connected here; an older connection of it elsewhere yields."""

    kind: Literal[Kind.TAKE_OVER] = Kind.TAKE_OVER
    diagnosis_id: DiagnosisId
    device_key: str
    connection_id: ConnectionId
    connected_at: float
    """Unix seconds; the connection id breaks a tie."""


class QueueLost(_Message):
    """The diagnosis has no shared queue, and is about to get one. Who had one, and was away meanwhile, cannot see that.

    Said by the first-contact door; `sender` is the queue that it serves.
    """

    kind: Literal[Kind.QUEUE_LOST] = Kind.QUEUE_LOST
    diagnosis_id: DiagnosisId


class Presence(_Message):
    """I am here. Said every few seconds, and once more when leaving."""

    kind: Literal[Kind.PRESENCE] = Kind.PRESENCE
    replica: str
    leaving: bool = False


class CensusAsk(_Message):
    """How many connections do you have?"""

    kind: Literal[Kind.CENSUS_ASK] = Kind.CENSUS_ASK
    ask_id: str


class Census(_Message):
    """A replica's connections and what it holds unsettled, by diagnosis."""

    kind: Literal[Kind.CENSUS] = Kind.CENSUS
    ask_id: str
    replica: str
    connections: Counts
    unsettled: Counts


ReplicaMessage = Ask | Answer | Relay | Proven | Bye | TakeOver | QueueLost | Presence | CensusAsk | Census
MESSAGES: Final[dict[str, type[ReplicaMessage]]] = {
    Kind.ASK: Ask,
    Kind.ANSWER: Answer,
    Kind.RELAY: Relay,
    Kind.PROVEN: Proven,
    Kind.BYE: Bye,
    Kind.TAKE_OVER: TakeOver,
    Kind.QUEUE_LOST: QueueLost,
    Kind.PRESENCE: Presence,
    Kind.CENSUS_ASK: CensusAsk,
    Kind.CENSUS: Census,
}
