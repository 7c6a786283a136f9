"""Three replicas as a state machine: their rooms are real; the broker between them is a model, and so are the clients.

The model's broker has one queue with a single active consumer, and a node queue for each replica. A sender's messages
keep their order; everything else interleaves as Hypothesis likes. Channels are lost and opened again, replicas crash.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from realtime_service.domain.event import Event
from realtime_service.domain.relays import Clock, Stamp
from realtime_service.domain.room import (
    SHARED,
    Barrier,
    Effect,
    Member,
    Relay,
    Room,
    Send,
    Settle,
    TellGap,
    TellProven,
    Word,
)

REPLICAS: Final = 3
OWNER: Final = UserId(100)
ACTIVE: Final = -1
replica_numbers = st.integers(0, REPLICAS - 1)
victims = st.sampled_from([ACTIVE, ACTIVE, *range(REPLICAS)])
Message = Callable[["Replica"], None]


@dataclass(eq=False)
class Client:
    """An unnamed connection."""

    member: Member
    since: int
    """The first event published after it was welcome."""
    welcome: bool = False
    got: list[int] = field(default_factory=list)
    waits_for: set["Replica"] = field(default_factory=set)
    words: list[Word] = field(default_factory=list)
    gaps: int = 0


@dataclass(eq=False)
class Replica:
    """A room, its channel, and its two ways through the broker."""

    room: Room
    clients: list[Client] = field(default_factory=list)
    generation: int = 0
    tag: int = 0
    delivered: deque[tuple[int, int, bool]] = field(default_factory=deque)
    """On their way to it: (tag, event, redelivered)."""
    unsettled: list[tuple[int, int]] = field(default_factory=list)
    """The broker keeps these: (tag, event)."""
    outbox: deque[tuple["Replica | None", Message, EventId | None]] = field(default_factory=deque)
    """On their way to the broker: (to one or to all others, what it does there, the relayed event to confirm)."""
    inbox: deque[Message] = field(default_factory=deque)
    """Its node queue."""


class Replicas(RuleBasedStateMachine):
    """The promises between replicas."""

    make_room: Callable[[DiagnosisId, Clock], Room] = Room

    def __init__(self) -> None:
        super().__init__()
        self.queue: deque[tuple[int, bool]] = deque()
        self.settled: deque[int] = deque(maxlen=5)
        """The last acknowledgements: a broker that crashes forgets some."""
        self.published = 0
        self.proven: set[int] = set()
        self.names = count()
        self.clock = count(1)
        self.replicas: list[Replica] = []
        self.consumers: list[Replica] = []
        """In the order in which they came; the broker activates the first."""

    @initialize()
    def begin(self) -> None:
        for _ in range(REPLICAS):
            self._start(len(self.replicas))

    # What happens

    @rule(more=st.integers(1, 3))
    def publish(self, more: int) -> None:
        for _ in range(more):
            self.published += 1
            self.queue.append((self.published, False))

    @rule(choices=st.lists(st.integers(0, 99), min_size=1, max_size=6))
    def something_arrives(self, choices: list[int]) -> None:
        """At the broker, or from it."""
        for choice in choices:
            if under_way := self._under_way():
                under_way[choice % len(under_way)]()

    @rule()
    def all_arrives(self) -> None:
        """Everything that is under way, and nobody proves anything."""
        while under_way := self._under_way():
            for arrive in under_way:
                arrive()

    def _under_way(self) -> list[Callable[[], None]]:
        ways: list[Callable[[], None]] = [self._broker_delivers] if self.queue and self.consumers else []
        for replica in self.replicas:
            ways += [partial(self._delivery_arrives, replica)] if replica.delivered else []
            ways += [partial(self._broker_takes, replica)] if replica.outbox else []
            ways += [partial(self._message_arrives, replica)] if replica.inbox else []
        return ways

    def _broker_delivers(self) -> None:
        active = self.consumers[0]
        event, redelivered = self.queue.popleft()
        active.tag += 1
        active.delivered.append((active.tag, event, redelivered))
        active.unsettled.append((active.tag, event))

    def _delivery_arrives(self, replica: Replica) -> None:
        tag, number, redelivered = replica.delivered.popleft()
        self._perform(replica, replica.room.deliver(SHARED, tag, _event(number), redelivered=redelivered))

    def _broker_takes(self, sender: Replica) -> None:
        to, message, relayed = sender.outbox.popleft()
        for replica in self.replicas if to is None else [to]:
            if to is not None or replica is not sender:
                replica.inbox.append(message)
        if relayed is not None:
            self._perform(sender, sender.room.relay_confirmed(relayed))

    def _message_arrives(self, replica: Replica) -> None:
        replica.inbox.popleft()(replica)

    @rule(at=replica_numbers, data=st.data())
    def a_client_proves(self, at: int, data: st.DataObject) -> None:
        replica = self.replicas[at]
        if clients := [client for client in replica.clients if client.got]:
            client = data.draw(st.sampled_from(clients))
            self._prove(replica, client, data.draw(st.integers(0, len(client.got) - 1)))

    @rule(at=replica_numbers)
    def a_client_comes(self, at: int) -> None:
        if len(self.replicas[at].clients) < 3:
            self._join(self.replicas[at])

    @rule(at=replica_numbers)
    def nobody_answers_in_time(self, at: int) -> None:
        """Whoever waits is welcomed; the others live, and go on."""
        replica = self.replicas[at]
        for client in replica.clients:
            for silent in list(client.waits_for):
                self._no_word_of(silent, replica, client)

    @rule(at=replica_numbers)
    def the_first_client_leaves(self, at: int) -> None:
        replica = self.replicas[at]
        if len(replica.clients) > 1:
            self._perform(replica, replica.room.leave(replica.clients.pop(0).member))

    @rule(at=victims, for_a_moment=st.booleans())
    def a_channel_is_lost(self, at: int, for_a_moment: bool = True) -> None:
        replica = self.replicas[self._victim(at)]
        if replica in self.consumers:
            self._requeue(replica)
            replica.room.lost(SHARED)
        if for_a_moment and replica not in self.consumers:
            self._consume(replica)

    @rule(at=replica_numbers)
    def a_channel_is_opened_again(self, at: int) -> None:
        replica = self.replicas[at]
        if replica not in self.consumers:
            self._consume(replica)

    @rule(forgotten=st.integers(0, 5), order=st.permutations(range(REPLICAS)))
    def the_broker_crashes(self, forgotten: int, order: list[int]) -> None:
        """It comes back with what was not settled, and with some of what was."""
        for replica in list(self.consumers):
            self._requeue(replica)
            replica.room.lost(SHARED)
        again = list(self.settled)[len(self.settled) - min(forgotten, len(self.settled)) :]
        self.settled.clear()
        self.queue = deque(sorted([(event, True) for event in again] + list(self.queue)))
        for at in order:
            self._consume(self.replicas[at])

    @rule(at=victims)
    def a_replica_crashes(self, at: int) -> None:
        at = self._victim(at)
        crashed = self.replicas[at]
        self.settled.clear()  # who else would know of it? the broker has had its time
        if crashed in self.consumers:
            self._requeue(crashed)
        for replica in self.replicas:  # its answers never come
            for client in replica.clients:
                self._no_word_of(crashed, replica, client)
        self._start(at)

    # What must be true

    @invariant()
    def nobody_gets_an_event_twice_or_out_of_order(self) -> None:
        for replica in self.replicas:
            for client in replica.clients:
                assert len(client.got) == len(set(client.got)), client.got
                if not client.member.unsure:
                    assert client.got == sorted(client.got), client.got

    def teardown(self) -> None:
        """Everything under way arrives and everybody proves: then nothing is missing."""
        if not self.replicas:
            return
        for at in range(REPLICAS):
            self.a_channel_is_opened_again(at)
        self.all_arrives()
        while any(client.member.receipts.unproven for each in self.replicas for client in each.clients):
            for replica in self.replicas:
                self.all_prove_all(replica)
            self.all_arrives()
        self.nobody_gets_an_event_twice_or_out_of_order()
        assert not any(replica.unsettled for replica in self.replicas), "everything was proven"
        for replica in self.replicas:
            for client in replica.clients:
                assert client.welcome
                missing = set(range(client.since, self.published + 1)) - set(client.got)
                assert not missing or client.gaps, f"lost: {missing} of {client.got}"

    # Parts

    def all_prove_all(self, replica: Replica) -> None:
        """Every client of a replica proves what it got."""
        for client in replica.clients:
            if client.member.receipts.unproven:
                self._prove(replica, client, len(client.got) - 1)

    def _victim(self, at: int) -> int:
        if at == ACTIVE:
            return self.replicas.index(self.consumers[0]) if self.consumers else 0
        return at

    def _start(self, at: int) -> None:
        replica = Replica(self.make_room(DiagnosisId(1), lambda: next(self.clock)))
        self.replicas[at : at + 1] = [replica]
        self._consume(replica)
        self._join(replica)

    def _consume(self, replica: Replica) -> None:
        replica.generation += 1
        replica.tag = 0
        self.consumers.append(replica)
        self._perform(replica, replica.room.opened(SHARED, replica.generation, len(self.queue), full=False))

    def _requeue(self, replica: Replica) -> None:
        """The broker takes back, to their old places, what is unsettled on a channel."""
        self.queue.extendleft((event, True) for _, event in reversed(replica.unsettled))
        replica.unsettled.clear()
        replica.delivered.clear()
        self.consumers.remove(replica)

    def _join(self, replica: Replica) -> None:
        member = Member.of(ConnectionId(str(next(self.names))), OWNER, "ack")
        client = Client(member, self.published + 1)
        client.waits_for = {other for other in self.consumers if other is not replica}
        replica.clients.append(client)
        self._perform(replica, replica.room.join(member, ask=True))

        def ask(other: Replica) -> None:
            word, consuming = other.room.word(), other.room.consuming
            other.outbox.append((replica, lambda asker: answer(asker, other, word, consuming), None))

        def answer(asker: Replica, other: Replica, word: Word, consuming: bool) -> None:
            if client.welcome:
                return
            asker.room.stream.catch_up(word.at)
            client.words.append(word)
            if consuming:
                client.waits_for.discard(other)
                self._welcome_if_answered(asker, client)
            else:
                self._no_word_of(other, asker, client)

        replica.outbox.append((None, ask, None))
        self._welcome_if_answered(replica, client)

    def _no_word_of(self, silent: Replica, replica: Replica, client: Client) -> None:
        """The client was told to wait for it, and waits in vain."""
        if silent in client.waits_for:
            client.waits_for.discard(silent)
            client.member.unsure = True  # its welcome says so, of what was before it
            self._welcome_if_answered(replica, client)

    def _welcome_if_answered(self, replica: Replica, client: Client) -> None:
        if not client.waits_for and not client.welcome and client in replica.clients:
            client.welcome = True
            client.since = self.published + 1
            self._perform(replica, replica.room.arrive(client.member, client.words))

    def _prove(self, replica: Replica, client: Client, place: int) -> None:
        self.proven.update(client.got[: place + 1])
        self._perform(replica, replica.room.ack(client.member, EventId(str(client.got[place]))))

    def _perform(self, replica: Replica, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(event, members):
                    for client in [each for each in replica.clients if each.member in members]:
                        client.member.receipts.sent(event.id, len(event.message))
                        client.got.append(int(event.id))
                case Settle(_, generation, tag) if generation == replica.generation:
                    settled = {event for known, event in replica.unsettled if known <= tag}
                    assert settled <= self.proven, "settled and proven by nobody"
                    self.settled += sorted(settled)
                    replica.unsettled = [each for each in replica.unsettled if each[0] > tag]
                case Relay(event, stamp):
                    replica.outbox.append((None, self._relay(event, stamp), event.id))
                case Barrier(generation):
                    replica.outbox.append((replica, self._pass_barrier(generation), None))
                case TellProven(events):
                    replica.outbox.append((None, self._tell_proven(events), None))
                case TellGap(members):
                    for client in replica.clients:
                        client.gaps += client.member in members

    def _relay(self, event: Event, stamp: Stamp) -> Message:
        return lambda other: self._perform(other, other.room.relayed(event, stamp))

    def _pass_barrier(self, generation: int) -> Message:
        return lambda own: self._perform(own, own.room.barrier_passed(generation))

    def _tell_proven(self, events: tuple[EventId, ...]) -> Message:
        return lambda other: self._perform(other, other.room.proved_elsewhere(events))


def _event(number: int) -> Event:
    return Event(EventId(str(number)), DiagnosisId(1), str(number).encode())
