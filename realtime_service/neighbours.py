"""What this replica and the others with clients of the same diagnosis say to each other.

Law: an event is settled only when the others were told of it, too; a newcomer is welcomed only after the others said
what they hold, or did not say so in time, and then the newcomer is told that something may be missing.
"""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterable
from typing import Final, Protocol

import structlog

from contracts.ids import ConnectionId, DiagnosisId, EventId
from contracts.replicas import Answer, Ask, Bye, Proven, Relay, RelayedEvent, ReplicaMessage, TakeOver
from realtime_service.domain import room as decided
from realtime_service.domain.errors import PublishError
from realtime_service.domain.event import Event
from realtime_service.domain.relays import Stamp
from realtime_service.domain.room import Effect, Held, Room
from realtime_service.domain.sessions import Depth, Replicas
from realtime_service.metrics import Metrics

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 0.5
"""How long the others may take to say what they hold."""
PROVEN_SECONDS: Final = 0.05
"""Proofs are gathered for this long: the active replica's window is wide enough to wait."""
BARRIER_SECONDS: Final = 5.0
"""How long a replica that became the active one waits for what was relayed before: a broker may be starting."""
RELAY_AGAIN_SECONDS: Final = 0.5


class Place(Protocol):
    """A room at work on this replica."""

    room: Room
    counted: bool

    async def depth(self) -> Depth:
        """The shared queue. Raises when it is not consumed."""

    def perform(self, effects: Iterable[Effect]) -> None:
        """Carry out what the room decided."""

    def yield_device(self, key: str, newer: tuple[float, str]) -> None:
        """End an older connection of a device that connected elsewhere."""


class Neighbours:
    """The other replicas, as the rooms of this one deal with them."""

    def __init__(
        self, replicas: Replicas, find: Callable[[DiagnosisId], Place | None], metrics: Metrics
    ) -> None:
        self._replicas = replicas
        self._find = find
        self._metrics = metrics
        self._asked: dict[str, _Asked] = {}
        self._barriers: dict[str, Callable[[], None]] = {}
        self._proven: dict[DiagnosisId, list[EventId]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # What the hub asks for

    async def held(self, place: Place) -> tuple[list[Held], bool]:
        """What other replicas hold unproven, and whether all of them said so in time."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                consumers = (await place.depth()).consumers
        except Exception as error:
            log.warning("consumers_unknown", error=type(error).__name__)
            return [], False
        place.counted = True
        if consumers <= 1:
            return [], True  # those known may be away for a moment: they are told of events all the same
        asked = _Asked(consumers - 1)
        ask = Ask(sender=self._replicas.name, diagnosis_id=place.room.diagnosis, ask_id=uuid.uuid4().hex)
        self._asked[ask.ask_id] = asked
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._replicas.tell_room(place.room.diagnosis, ask)
                await asked.complete.wait()
        except (TimeoutError, PublishError):
            self._metrics.unanswered.inc()
            log.warning("replicas_silent", expected=asked.expected, answered=len(asked.answers))
        finally:
            del self._asked[ask.ask_id]
        for answer in asked.answers:
            place.room.peers.add(answer.sender)
        if asked.answers:
            place.room.stream.catch_up(max(Stamp(each.epoch, each.sequence) for each in asked.answers))
        held = [_held(place.room.diagnosis, each) for answer in asked.answers for each in answer.events]
        return held, asked.complete.is_set()

    def relay(self, place: Place, relay: decided.Relay) -> None:
        """Tell the others of an event; the room hears when the broker has it."""
        self._spawn(self._relay(place, relay))

    def proven(self, place: Place, events: Iterable[EventId]) -> None:
        """Tell whoever consumed these events that clients here have them; what comes within a moment goes along."""
        diagnosis = place.room.diagnosis
        if diagnosis not in self._proven:
            self._proven[diagnosis] = []
            asyncio.get_running_loop().call_later(PROVEN_SECONDS, self._tell_proven, diagnosis)
        self._proven[diagnosis].extend(events)

    def _tell_proven(self, diagnosis: DiagnosisId) -> None:
        events = tuple(self._proven.pop(diagnosis))
        message = Proven(sender=self._replicas.name, diagnosis_id=diagnosis, event_ids=events)
        self._spawn(self._tell_room(diagnosis, message))

    def barrier(self, place: Place, generation: int) -> None:
        """Let word come through this replica's own node queue, behind all that was said before."""

        def passed() -> None:
            if self._barriers.pop(ask.ask_id, None):
                place.perform(place.room.barrier_passed(generation))

        ask = Ask(sender=self._replicas.name, diagnosis_id=place.room.diagnosis, ask_id=uuid.uuid4().hex)
        self._barriers[ask.ask_id] = passed
        self._spawn(self._tell(self._replicas.name, ask))
        asyncio.get_running_loop().call_later(BARRIER_SECONDS, passed)

    def back(self, place: Place) -> None:
        """The shared queue is consumed again. Who opened the room meanwhile does not know of this replica."""
        message = Ask(sender=self._replicas.name, diagnosis_id=place.room.diagnosis, ask_id=uuid.uuid4().hex)
        self._spawn(self._tell_room(place.room.diagnosis, message))

    def take_over(self, place: Place, device: str, newer: tuple[float, str]) -> None:
        """A device connected here: (connect time, connection id)."""
        message = TakeOver(
            sender=self._replicas.name,
            diagnosis_id=place.room.diagnosis,
            device_key=device,
            connected_at=newer[0],
            connection_id=ConnectionId(newer[1]),
        )
        self._spawn(self._tell_room(place.room.diagnosis, message))

    def bye(self, place: Place) -> None:
        """The last client of a diagnosis left this replica."""
        if place.room.peers:
            message = Bye(sender=self._replicas.name, diagnosis_id=place.room.diagnosis)
            self._spawn(self._tell_room(place.room.diagnosis, message))

    async def close(self) -> None:
        """Say what is to be said, and no more."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=ANSWER_SECONDS)
        for task in self._tasks:
            task.cancel()

    # What the others say

    def heard(self, message: ReplicaMessage) -> None:
        """A message came through the node queue."""
        if message.sender == self._replicas.name:
            if isinstance(message, Ask) and (passed := self._barriers.get(message.ask_id)):
                passed()
            return
        if isinstance(message, Answer):
            if asked := self._asked.get(message.ask_id):
                asked.answered(message)
            elif place := self._find(message.diagnosis_id):
                place.room.peers.add(message.sender)
            return
        if not isinstance(message, Ask | Relay | Proven | Bye | TakeOver):
            return
        place = self._find(message.diagnosis_id)
        if place is None:
            return
        match message:
            case Ask():
                self._answer(place, message)
            case Relay():
                held = _held(message.diagnosis_id, message.event)
                self._metrics.relays_received.inc()
                place.perform(place.room.relayed(held.event, held.stamp))
            case Proven():
                place.perform(place.room.proved_elsewhere(message.event_ids))
            case Bye():
                place.room.peers.discard(message.sender)
            case TakeOver():
                place.yield_device(message.device_key, (message.connected_at, message.connection_id))

    def _answer(self, place: Place, ask: Ask) -> None:
        """Say what is unproven here. From here on the asker is told of every event: behind this answer."""
        place.room.peers.add(ask.sender)
        at = place.room.stream.at
        answer = Answer(
            sender=self._replicas.name,
            diagnosis_id=ask.diagnosis_id,
            ask_id=ask.ask_id,
            epoch=at.epoch,
            sequence=at.sequence,
            events=tuple(_relayed(held.event, held.stamp) for held in place.room.held()),
        )
        self._spawn(self._tell(ask.sender, answer))

    async def _relay(self, place: Place, relay: decided.Relay) -> None:
        message = Relay(
            sender=self._replicas.name,
            diagnosis_id=place.room.diagnosis,
            event=_relayed(relay.event, relay.stamp),
        )
        while self._find(place.room.diagnosis) is place:
            try:
                await self._replicas.tell_room(place.room.diagnosis, message)
            except PublishError as error:
                log.warning("relay_failed", error=str(error))
                await asyncio.sleep(RELAY_AGAIN_SECONDS)
            else:
                self._metrics.relays_sent.inc()
                place.perform(place.room.relay_confirmed(relay.event.id))
                return

    async def _tell(self, node: str, message: ReplicaMessage) -> None:
        try:
            await self._replicas.tell(node, message)
        except PublishError as error:
            log.warning("replica_not_told", kind=message.kind, error=str(error))

    async def _tell_room(self, diagnosis: DiagnosisId, message: ReplicaMessage) -> None:
        try:
            await self._replicas.tell_room(diagnosis, message)
        except PublishError as error:
            log.warning("replicas_not_told", kind=message.kind, error=str(error))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Asked:
    """A question to the other replicas."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.answers: list[Answer] = []
        self.complete = asyncio.Event()

    def answered(self, answer: Answer) -> None:
        self.answers.append(answer)
        if len({each.sender for each in self.answers}) >= self.expected:
            self.complete.set()


def _held(diagnosis: DiagnosisId, relayed: RelayedEvent) -> Held:
    event = Event(
        relayed.event_id,
        diagnosis,
        relayed.message.encode(),
        relayed.user_id,
        relayed.exclude_connection_id,
    )
    return Held(event, Stamp(relayed.epoch, relayed.sequence))


def _relayed(event: Event, stamp: Stamp) -> RelayedEvent:
    return RelayedEvent(
        event_id=event.id,
        message=event.message.decode(),
        user_id=event.user,
        exclude_connection_id=event.excluded,
        epoch=stamp.epoch,
        sequence=stamp.sequence,
    )
