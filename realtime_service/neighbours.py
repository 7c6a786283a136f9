"""What this replica and the others with clients of the same diagnosis say to each other.

Law: an event is settled only when the others were told of it, too; a newcomer is welcomed only after the others said
what they hold, or did not say so in time, and then the newcomer is told that something may be missing.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable
from typing import Final, Protocol

import structlog

from contracts.ids import ConnectionId, DiagnosisId, EventId
from contracts.replicas import (
    Answer,
    Ask,
    Bye,
    Proven,
    QueueLost,
    Relay,
    RelayedEvent,
    ReplicaMessage,
    TakeOver,
)
from realtime_service.domain import room as decided
from realtime_service.domain.errors import PublishError
from realtime_service.domain.event import Event
from realtime_service.domain.relays import Stamp
from realtime_service.domain.room import Effect, Held, Room, Word
from realtime_service.domain.sessions import Replicas
from realtime_service.logs import hashed
from realtime_service.metrics import Metrics

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 0.5
"""How long the others may take to say what they hold."""
PROVEN_SECONDS: Final = 0.05
"""Proofs are gathered for this long: the active replica's window is wide enough to wait."""
BARRIER_SECONDS: Final = 5.0
"""How long a replica that became the active one waits for what was relayed before: a broker may be starting."""
RELAY_AGAIN_SECONDS: Final = 0.5
LOOK_AGAIN_SECONDS: Final = 10.0
"""How long a replica that came back to the broker may take to consume its queues again."""


class Place(Protocol):
    """A room at work on this replica."""

    room: Room
    counted: bool

    async def consumers(self) -> int:
        """Sessions on the shared queue, of all replicas: now, or when this one began, if it was not asked before.

        Whoever began later counts this one. Raises when the queue is not consumed.
        """

    def perform(self, effects: Iterable[Effect]) -> None:
        """Carry out what the room decided."""

    def flush(self) -> None:
        """Write what waits to be written, and relay what waits for that."""

    def renew(self) -> None:
        """Consume the shared queue anew."""

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
        self.known: Callable[[], frozenset[str] | None] | None = None
        """The other replicas, where a queue does not count those who wait for their turn; None: not known yet."""
        self.some_may_be_away: Callable[[], bool] = lambda: False
        """Whether another replica may not be back at the broker: it has clients, and no queue counts it."""
        self._unacquainted: dict[DiagnosisId, Place] = {}
        self._asked: dict[str, _Asked] = {}
        self._barriers: dict[str, Callable[[], None]] = {}
        self._proven: dict[DiagnosisId, list[EventId]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._relaying: dict[asyncio.Task[None], Place] = {}

    # What the hub asks for

    async def words(self, place: Place) -> tuple[list[Word], bool]:
        """What other replicas say of a room, and whether all that consume its queue said so in time."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                expected = await self._expected(place)
        except Exception as error:
            log.warning("consumers_unknown", error=type(error).__name__)
            return [], False
        place.counted = True
        if expected == 0:
            self._acquaint(place)
            return [], True  # those known may be away for a moment: they are told of events all the same
        asked = await self._ask(place, expected)
        answers = [answer for answer in asked.answers if answer.watching]
        for answer in answers:
            place.room.peers |= {answer.sender}
        if expected is not None and asked.complete.is_set():
            place.room.acquainted = True
        words = [_word(answer) for answer in answers]
        if words:
            place.room.stream.catch_up(max(word.at for word in words))
        return words, expected is None or asked.complete.is_set()

    def _acquaint(self, place: Place) -> None:
        """Nobody else consumes the queue. Who may be about to is told of events: its node queue keeps them."""
        place.room.acquainted = not self.some_may_be_away()
        if not place.room.acquainted:
            if not self._unacquainted:
                asyncio.get_running_loop().call_later(LOOK_AGAIN_SECONDS, self._look_again)
            self._unacquainted[place.room.diagnosis] = place

    def _look_again(self) -> None:
        places, self._unacquainted = self._unacquainted, {}
        for diagnosis, place in places.items():
            if self._find(diagnosis) is place:
                self._acquaint(place)

    async def _expected(self, place: Place) -> int | None:
        """How many other replicas are to answer; None: as many as do so in time. Raises when the queue does not say.

        A classic queue counts the consumers that wait for their turn, a quorum queue does not (RabbitMQ 3.10 to 4.3).
        """
        if self.known is None:
            return max(0, await place.consumers() - 1)
        others = self.known()
        return None if others is None else len(others)

    async def _ask(self, place: Place, expected: int | None) -> "_Asked":
        everybody = self.known is not None
        sender, ask_id = self._replicas.name, uuid.uuid4().hex
        ask = Ask(sender=sender, diagnosis_id=place.room.diagnosis, ask_id=ask_id, everybody=everybody)
        asked = self._asked[ask_id] = _Asked(expected, everybody=everybody)
        self._spawn(self._introduce(place, ask))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await asked.complete.wait()
        except TimeoutError:
            if expected is not None:
                self._metrics.unanswered.inc()
                log.warning("replicas_silent", expected=expected, answered=len(asked.answers))
        finally:
            del self._asked[ask_id]
        return asked

    def relay(self, place: Place, relay: decided.Relay) -> None:
        """Tell the others of an event; the room hears when the broker has it."""
        task = self._spawn(self._relay(place, relay))
        self._relaying[task] = place
        task.add_done_callback(self._relaying.pop)

    async def relayed(self, place: Place) -> None:
        """Wait a moment for what the others are being told: what is proven and not relayed would come again."""
        if tasks := [task for task, whose in self._relaying.items() if whose is place]:
            await asyncio.wait(tasks, timeout=ANSWER_SECONDS)

    def proven(self, place: Place, events: Iterable[EventId]) -> None:
        """Tell whoever consumed these events that clients here have them; what comes within a moment goes along."""
        diagnosis = place.room.diagnosis
        if diagnosis not in self._proven:
            self._proven[diagnosis] = []
            asyncio.get_running_loop().call_later(PROVEN_SECONDS, self._tell_proven, diagnosis)
        self._proven[diagnosis].extend(events)

    def left(self, place: Place) -> None:
        """Who proved something left, and may be about to join elsewhere: it is told at once."""
        self._tell_proven(place.room.diagnosis)

    def _tell_proven(self, diagnosis: DiagnosisId) -> None:
        if not (events := tuple(self._proven.pop(diagnosis, ()))):
            return
        message = Proven(sender=self._replicas.name, diagnosis_id=diagnosis, event_ids=events)
        self._spawn(self._tell_room(diagnosis, message))

    def barrier(self, place: Place, generation: int) -> None:
        """Let word come through this replica's own node queue, behind all that was said before."""

        def passed(*, heard: bool) -> None:
            if self._barriers.pop(ask.ask_id, None):
                place.perform(place.room.barrier_passed(generation, heard=heard))

        ask = Ask(sender=self._replicas.name, diagnosis_id=place.room.diagnosis, ask_id=uuid.uuid4().hex)
        self._barriers[ask.ask_id] = lambda: passed(heard=True)
        self._spawn(self._tell(self._replicas.name, ask))
        asyncio.get_running_loop().call_later(BARRIER_SECONDS, lambda: passed(heard=False))

    def back(self, place: Place) -> None:
        """The shared queue is consumed again. Who opened the room meanwhile does not know of this replica."""
        message = Ask(sender=self._replicas.name, diagnosis_id=place.room.diagnosis, ask_id=uuid.uuid4().hex)
        self._spawn(self._introduce(place, message))

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
        place.flush()
        if not place.room.alone:
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
            elif message.watching and (place := self._find(message.diagnosis_id)):
                place.room.peers |= {message.sender}
                place.perform(place.room.answered_late(_word(message)))
            return
        if not isinstance(message, Ask | Relay | Proven | Bye | TakeOver | QueueLost):
            return
        place = self._find(message.diagnosis_id)
        if place is None:
            if isinstance(message, Ask) and message.everybody:
                self._answer_without_room(message)
            return
        match message:
            case Ask():
                self._answer(place, message)
            case Relay():
                held = _held(message.diagnosis_id, message.event)
                self._metrics.relays_received.inc()
                place.perform(place.room.relayed(held.event, held.stamp, repeated=message.event.redelivered))
            case Proven():
                place.perform(place.room.proved_elsewhere(message.event_ids))
            case Bye():
                place.room.peers -= {message.sender}
            case QueueLost():
                if place.room.queue_lost():
                    place.renew()
            case TakeOver():
                place.yield_device(message.device_key, (message.connected_at, message.connection_id))

    def _answer(self, place: Place, ask: Ask) -> None:
        """Say what is unproven here. From here on the asker is told of every event: behind this answer."""
        place.flush()  # what was handed out before is said before
        place.room.peers |= {ask.sender}
        word = place.room.word()
        answer = Answer(
            sender=self._replicas.name,
            diagnosis_id=ask.diagnosis_id,
            ask_id=ask.ask_id,
            epoch=word.at.epoch,
            sequence=word.at.sequence,
            consuming=place.room.consuming,
            leading=word.leading,
            events=tuple(_relayed(held.event, held.stamp) for held in word.held),
            proven_ids=word.proven,
        )
        self._spawn(self._tell(ask.sender, answer))

    def _answer_without_room(self, ask: Ask) -> None:
        answer = Answer(
            sender=self._replicas.name,
            diagnosis_id=ask.diagnosis_id,
            ask_id=ask.ask_id,
            watching=False,
            epoch=0,
            sequence=0,
            consuming=False,
            leading=False,
            events=(),
            proven_ids=(),
        )
        self._spawn(self._tell(ask.sender, answer))

    async def _introduce(self, place: Place, ask: Ask) -> None:
        """Ask, also when nobody waits for the answer any more: who is not asked does not know of this replica.

        It would go on without telling it of anything.
        """
        while self._find(ask.diagnosis_id) is place:
            try:
                if ask.everybody:
                    await self._replicas.tell_all(ask)
                else:
                    await self._replicas.tell_room(ask.diagnosis_id, ask)
            except PublishError as error:
                log.warning("replicas_not_told", kind=ask.kind, error=str(error))
                await asyncio.sleep(RELAY_AGAIN_SECONDS)
            else:
                return

    async def _relay(self, place: Place, relay: decided.Relay) -> None:
        message = Relay(
            sender=self._replicas.name,
            diagnosis_id=place.room.diagnosis,
            event=_relayed(relay.event, relay.stamp, repeated=relay.repeated),
        )
        began = time.monotonic()
        while self._find(place.room.diagnosis) is place:
            try:
                await self._replicas.tell_room(place.room.diagnosis, message)
            except PublishError as error:
                self._metrics.relays_failed.inc()
                log.warning("relay_failed", diagnosis=hashed(place.room.diagnosis), error=str(error))
                await asyncio.sleep(RELAY_AGAIN_SECONDS)
            else:
                self._metrics.relays_sent.inc()
                self._metrics.relay_seconds.observe(time.monotonic() - began)
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

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Asked:
    """A question to the other replicas."""

    def __init__(self, expected: int | None, *, everybody: bool) -> None:
        self._expected = expected
        self._everybody = everybody
        self.answers: list[Answer] = []
        self.complete = asyncio.Event()

    def answered(self, answer: Answer) -> None:
        self.answers.append(answer)
        senders = {each.sender for each in self.answers if self._everybody or each.consuming}
        if self._expected is not None and len(senders) >= self._expected:
            self.complete.set()


def _word(answer: Answer) -> Word:
    held = tuple(_held(answer.diagnosis_id, each) for each in answer.events)
    return Word(Stamp(answer.epoch, answer.sequence), answer.leading, held, answer.proven_ids)


def _held(diagnosis: DiagnosisId, relayed: RelayedEvent) -> Held:
    event = Event(
        relayed.event_id,
        diagnosis,
        relayed.message.encode(),
        relayed.user_id,
        relayed.exclude_connection_id,
    )
    return Held(event, Stamp(relayed.epoch, relayed.sequence))


def _relayed(event: Event, stamp: Stamp, *, repeated: bool = False) -> RelayedEvent:
    return RelayedEvent(
        event_id=event.id,
        message=event.message.decode(),
        user_id=event.user,
        exclude_connection_id=event.excluded,
        epoch=stamp.epoch,
        sequence=stamp.sequence,
        redelivered=repeated,
    )
