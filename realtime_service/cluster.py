"""All replicas together: who is there, and how many connections they have.

Law: nobody waits for a replica that does not answer. It is named instead, and what it holds is not in the numbers.

Every replica says that it is there, every few seconds, to all and to itself. Time is counted in one's own words that
came back: while the broker is away nobody is forgotten, for nobody could be heard.
"""

import asyncio
import math
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, NamedTuple

import structlog

from contracts.ids import DiagnosisId
from contracts.replicas import Census, CensusAsk, Presence
from realtime_service.domain.errors import PublishError
from realtime_service.domain.sessions import Replicas

log = structlog.get_logger(__name__)

PRESENCE_SECONDS: Final = 5.0
"""A word costs a message to every replica."""
MOST_MISSED: Final = 3
"""A replica is forgotten after this many words of ours without one of its: 15 s."""
ANSWER_SECONDS: Final = 0.5
"""How long the others may take to say what they have: an operator waits for it."""

Counts = dict[DiagnosisId, int]
CENSUS_MESSAGES: Final = (Presence, CensusAsk, Census)
"""What `Cluster.heard` is to be told."""


class Counted(NamedTuple):
    """What all replicas that answered have, by diagnosis."""

    connections: Counts
    unsettled: Counts
    """Deliveries of shared queues that are handed out and not settled: the broker does not count them as ready."""
    silent: list[str]
    """Replicas that did not answer."""
    by_replica: Mapping[str, Counts] = {}
    """`connections`, of each replica that answered."""


class Cluster:
    """This replica among the others."""

    def __init__(
        self,
        replicas: Replicas,
        replica: str,
        connections: Callable[[], Counts],
        unsettled: Callable[[], Counts],
    ) -> None:
        """`replica` is the name that operators see; the functions say what is here."""
        self._replicas = replicas
        self._replica = replica
        self._connections = connections
        self._unsettled = unsettled
        self._others: dict[str, _Other] = {}  # by node queue
        self._asked: dict[str, _Asked] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_heard = False
        self._knows_all_from = math.inf  # on the loop's clock
        self._away: set[str] = set()  # by node queue; those who are gone are in it, too
        self._return_id = ""
        self._leaving = False

    async def run(self) -> None:
        """Say that this replica is there; for ever."""
        while not self._leaving:
            await self._tell(self._presence())
            if self.some_may_be_away():
                self._spawn_ask(self._return_id)
            await asyncio.sleep(PRESENCE_SECONDS if self._is_heard else ANSWER_SECONDS)

    async def leave(self) -> None:
        """Say that this replica leaves: nobody is to wait for it."""
        self._leaving = True
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._tell(self._presence())
        except TimeoutError:
            pass  # the others will miss it

    def others(self) -> frozenset[str] | None:
        """The other replicas, by their node queues; None until they have had the time to say that they are there."""
        if asyncio.get_running_loop().time() < self._knows_all_from:
            return None
        return frozenset(self._others)

    def returned(self) -> None:
        """The connection to the broker is a new one. Who was known before may have lost its own, too."""
        self._away, self._return_id = set(self._others), uuid.uuid4().hex
        if self._away:
            self._spawn_ask(self._return_id)

    def some_may_be_away(self) -> bool:
        """Whether a replica that is known has not answered since this one came back to the broker."""
        return not self._away.isdisjoint(self._others)

    async def census(self) -> Counted:
        """Ask everybody, and count what is here and what came in time. Raises nothing."""
        asked = _Asked(set(self._others))
        ask_id = uuid.uuid4().hex
        self._asked[ask_id] = asked
        try:
            if asked.missing:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._replicas.tell_all(CensusAsk(sender=self._replicas.name, ask_id=ask_id))
                    await asked.complete.wait()
        except (TimeoutError, PublishError):
            log.warning("replicas_not_counted", missing=len(asked.missing))
        finally:
            del self._asked[ask_id]
        by_replica = {self._replica: self._connections()}
        connections, unsettled = Counter(self._connections()), Counter(self._unsettled())
        for answer in asked.answers.values():
            by_replica[answer.replica] = answer.connections
            connections.update(answer.connections)
            unsettled.update(answer.unsettled)
        silent = [other.replica for node in asked.missing if (other := self._others.get(node))]
        return Counted(dict(connections), dict(unsettled), sorted(silent), by_replica)

    def heard(self, message: Presence | CensusAsk | Census) -> None:
        """A message came through the node queue."""
        if message.sender == self._replicas.name:
            if isinstance(message, Presence):
                self._heard_myself()
            return
        match message:
            case Presence(leaving=True):
                self._others.pop(message.sender, None)
                for asked in self._asked.values():
                    asked.left(message.sender)
            case Presence():
                self._others[message.sender] = _Other(message.replica)
            case CensusAsk():
                self._spawn_answer(message)
            case Census():
                self._others[message.sender] = _Other(message.replica)
                if message.ask_id == self._return_id:
                    self._away.discard(message.sender)
                if asked_for := self._asked.get(message.ask_id):
                    asked_for.answered(message)

    def _heard_myself(self) -> None:
        """A word of ours came back: others are heard, too, and have had their time to say theirs."""
        if not self._is_heard:
            self._is_heard = True
            self._knows_all_from = asyncio.get_running_loop().time() + ANSWER_SECONDS
            self._spawn_ask(uuid.uuid4().hex)  # who else is there? Those who answer are known from then on
        for node, other in list(self._others.items()):
            other.missed += 1
            if other.missed > MOST_MISSED:
                log.warning("replica_gone", replica=other.replica)
                del self._others[node]

    def _presence(self) -> Presence:
        return Presence(sender=self._replicas.name, replica=self._replica, leaving=self._leaving)

    def _spawn_ask(self, ask_id: str) -> None:
        self._spawn(self._tell(CensusAsk(sender=self._replicas.name, ask_id=ask_id)))

    def _spawn_answer(self, ask: CensusAsk) -> None:
        if self._leaving:
            return
        answer = Census(
            sender=self._replicas.name,
            ask_id=ask.ask_id,
            replica=self._replica,
            connections=self._connections(),
            unsettled=self._unsettled(),
        )
        self._spawn(self._tell(answer, node=ask.sender))

    async def _tell(self, message: Presence | CensusAsk | Census, *, node: str | None = None) -> None:
        try:
            if node is None:
                await self._replicas.tell_all(message)
            else:
                await self._replicas.tell(node, message)
        except PublishError as error:
            log.debug("replicas_not_told", kind=message.kind, error=str(error))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Other:
    """Another replica."""

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.missed = 0
        """Words of ours since its last."""


class _Asked:
    """A census under way."""

    def __init__(self, nodes: set[str]) -> None:
        self.missing = nodes
        self.answers: dict[str, Census] = {}
        self.complete = asyncio.Event()

    def answered(self, answer: Census) -> None:
        self.answers[answer.sender] = answer
        self.left(answer.sender)

    def left(self, node: str) -> None:
        """This one is not waited for any more."""
        self.missing.discard(node)
        if not self.missing:
            self.complete.set()
