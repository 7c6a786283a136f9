"""A state machine that drives a `Room` as the hub does, against the models, and checks the promises at every step.

One diagnosis, one shared queue, two devices, any number of unnamed clients. Every step is one thing that can happen to
a replica; afterwards the world heals (everybody answers, every session re-opens), and what was promised must be there.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contracts.ids import ConnectionId, DiagnosisId, EventId
from contracts.messages import ReceiptMode
from realtime_service.domain.event import Event
from realtime_service.domain.receipts import Receipts
from realtime_service.domain.room import SHARED, Effect, Member, Park, Room, Send, SessionKey, Settle, TellGap
from realtime_service.domain.window import WINDOW_BYTES
from tests.domain.model import LIMIT, OWNER, STRANGER, Client, Copy, Publication, Queue, ids_of

DIAGNOSIS = DiagnosisId(1)
DEVICES = ("phone", "tablet", "watch")
MESSAGES = {
    "small": b"{}",
    "some": bytes(10 * 1024),
    "large": bytes(WINDOW_BYTES * 2 // 5),
    "huge": bytes(WINDOW_BYTES * 3 // 2),
}
"""Two `some` call for a PING, a third `large` has to wait, one `huge` passes alone."""

picks = st.integers(0, 3)
few = st.integers(1, 4)
some = st.integers(1, 8)
modes: st.SearchStrategy[ReceiptMode] = st.sampled_from(["pong", "pong", "pong", "ack", "ack", "none"])
sizes = st.sampled_from(["small", "small", "small", "some", "large", "huge"])


class Promises(RuleBasedStateMachine):
    """The world, and what must hold in it."""

    make_room: Callable[[DiagnosisId], Room] = Room
    make_receipts: Callable[[ReceiptMode], Receipts] = Receipts

    def __init__(self) -> None:
        super().__init__()
        self.room = type(self).make_room(DIAGNOSIS)
        self.room.acquainted = True
        self.queues: dict[SessionKey, Queue] = {SHARED: Queue(SHARED)}
        self.clients: dict[ConnectionId, Client] = {}
        self.connections_of: dict[str, set[ConnectionId]] = {key: set() for key in DEVICES}
        self.publications: list[Publication] = []
        self.notices: list[tuple[SessionKey, Publication]] = []
        self.parks: list[tuple[Room, int, int, Copy]] = []
        self.depths: dict[str, tuple[Client, int | None]] = {}
        """New devices that asked how much waits in the shared queue, and the answer once it is on its way."""
        self.proven: set[EventId] = set()
        """Proven by anybody, ever."""
        self.proven_here: set[EventId] = set()
        """The same since this room came to be."""
        self.proven_by: dict[str, set[EventId]] = {key: set() for key in DEVICES}
        self.read_by: dict[str, set[EventId]] = {key: set() for key in DEVICES}
        self.excused: set[EventId] = set()
        """Excluding events whose audience was the excluded connection alone."""
        self.joins = 0
        self.broken = False

    # What publishers do

    @rule(size=sizes, count=few)
    def publish(self, size: str, count: int) -> None:
        for _ in range(count):
            self._publish(Event(self._new_id(), DIAGNOSIS, MESSAGES[size]))

    @rule(
        kind=st.sampled_from(["again", "again", "excluding", "excluding", "personal", "stranger", "rubbish"]),
        pick=picks,
    )
    def publish_special(self, kind: str, pick: int) -> None:
        if kind == "again" and self.publications:  # a publisher that saw no confirm; it keeps the id
            self._publish(self.publications[-1 - pick % len(self.publications)].event)
        elif kind == "excluding" and self.clients:
            self._publish(Event(self._new_id(), DIAGNOSIS, b"{}", excluded=self._client(pick).id))
        elif kind == "personal":
            self._publish(Event(self._new_id(), DIAGNOSIS, b"{}", user=OWNER))
        elif kind == "stranger":
            self._publish(Event(self._new_id(), DIAGNOSIS, b"{}", user=STRANGER))
        elif kind == "rubbish":
            self._publish(None)

    # What clients do

    @initialize(mode=modes, device=st.booleans())
    def first_join(self, mode: ReceiptMode, device: bool) -> None:
        self._join(mode, DEVICES[0] if device else None)
        for step in self._to_open():
            step()

    @rule(mode=modes, key=st.sampled_from([None, None, *DEVICES]), steps=picks)
    def join(self, mode: ReceiptMode, key: str | None, steps: int) -> None:
        """Its sessions open at once, or only the first steps are made."""
        for client in list(self.clients.values()):
            if key is not None and client.device == key:
                self._leave(client, acknowledged=True)
        self._join(mode, key)
        for _ in range(steps):
            if to_open := self._to_open():
                to_open[0]()

    @precondition(lambda self: self.clients)
    @rule(pick=picks, acknowledged=st.booleans())
    def leave(self, pick: int, acknowledged: bool) -> None:
        self._leave(self._client(pick), acknowledged=acknowledged)

    @precondition(lambda self: self.clients)
    @rule(pick=picks, frames=some)
    def read(self, pick: int, frames: int) -> None:
        self._read(self._client(pick), frames)

    @precondition(lambda self: any(client.can_answer for client in self.clients.values()))
    @rule(pick=picks, latest=st.booleans(), back=st.sampled_from([0, 0, 1, 2]))
    def answer(self, pick: int, latest: bool, back: int) -> None:
        able = [client for client in self.clients.values() if client.can_answer]
        client = able[pick % len(able)]
        if client.mode == "ack" and client.read:
            self._ack(client, back)
        if client.answers:
            self._pong(client, latest=latest)

    @precondition(lambda self: self.clients)
    @rule(pick=picks, number=st.sampled_from([-1, 0, 1000]))
    def answer_nonsense(self, pick: int, number: int) -> None:
        """A PONG nobody asked for, the receipt of an event that was never sent; then silence, and a heartbeat."""
        client = self._client(pick)
        self._perform(self.room.pong(client.member, number))
        self._perform(self.room.ack(client.member, EventId("unheard-of")))
        client.ping()

    # What the broker does

    @precondition(lambda self: any(queue.is_open for queue in self.queues.values()))
    @rule(pick=picks, count=some)
    def deliver(self, pick: int, count: int) -> None:
        queues = [queue for queue in self.queues.values() if queue.is_open]
        for _ in range(count):
            self._deliver(queues[pick % len(queues)])

    @rule(shared_first=st.booleans())
    def all_is_quiet(self, shared_first: bool) -> None:
        """For a moment the network is faster than anything else that happens."""
        for queue in list(self.queues.values())[:: 1 if shared_first else -1]:
            while self._deliver(queue):
                pass
        for client in self.clients.values():
            self._catch_up(client)

    @precondition(lambda self: any(queue.settled for queue in self.queues.values()))
    @rule()
    def acknowledgements_arrive(self) -> None:
        for queue in self.queues.values():
            queue.acknowledge()

    @precondition(lambda self: any(queue.is_open for queue in self.queues.values()))
    @rule(pick=picks, acknowledged=st.booleans())
    def lose_channel(self, pick: int, acknowledged: bool) -> None:
        queues = [queue for queue in self.queues.values() if queue.is_open]
        queue = queues[pick % len(queues)]
        self._close(queue, acknowledged=acknowledged)
        self.room.lost(queue.key)
        if queue.key is SHARED:
            self.depths.clear()

    @precondition(lambda self: self._to_open())
    @rule(pick=picks)
    def open_session(self, pick: int) -> None:
        to_open = self._to_open()
        to_open[pick % len(to_open)]()

    @precondition(lambda self: self.notices or self.parks)
    @rule(notices=few, parks=few)
    def hear(self, notices: int, parks: int) -> None:
        """Of evictions, and that the parking queue has what was brought there."""
        for _ in range(min(notices, len(self.notices))):
            self._evicted(*self.notices.pop(0))
        for _ in range(min(parks, len(self.parks))):
            self._parked(*self.parks.pop(0))

    @precondition(
        lambda self: self.clients and self.queues[SHARED].copies and not self.queues[SHARED].is_open
    )
    @rule(count=few)
    def other_replica_consumes(self, count: int) -> None:
        """While this replica's channel is lost, another one may settle what was handed out here."""
        audience = [client for client in self.clients.values() if client.device is None]
        for copy in self.queues[SHARED].copies[:count]:
            event = copy.publication.event
            if event is None or any(
                event.id not in client.sent for client in audience if client.may_get(event)
            ):
                break
            self.queues[SHARED].take(copy)

    # What time does

    @precondition(lambda self: self.depths)
    @rule(pick=picks)
    def ask_depth(self, pick: int) -> None:
        self._depth(list(self.depths)[pick % len(self.depths)])

    @precondition(lambda self: any(device.seeding for device in self.room.devices.values()))
    @rule()
    def seeding_deadline(self) -> None:
        self._seeding_ends()

    # The law

    @invariant()
    def windows_are_bounded(self) -> None:
        """Promise 6: a window hands out 1 MiB, or one larger event, before the first is settled."""
        for window in [self.room.shared, *(device.window for device in self.room.devices.values())]:
            unproven = window.unproven()
            self._check(
                len(unproven) <= 1 or sum(record.size for record in unproven) <= WINDOW_BYTES,
                "more is handed out than the window may hold",
            )

    @invariant()
    def new_devices_get_what_the_shared_queue_held(self) -> None:
        """… unless somebody proved it, or it was dropped, or took too long.

        A repeat of an older event in the device's own queue looks as if the shared stream had reached that already.
        """
        for client in self.clients.values():
            device = self.room.devices.get(client.device or "")
            if device and device.member is client.member and not device.seeding and client.owed:
                if self._holds_older_events(self.queues[client.device]):
                    client.owed.clear()
                lacks = client.owed - set(client.sent) - self.proven - self._missing_from_shared()
                self._check(not lacks, f"{client.id} goes on without {lacks}")
                client.owed.clear()

    def teardown(self) -> None:
        """The world heals; then everybody has what was promised."""
        if self.broken:
            return
        for _ in range(100):
            if not self._heal():
                break
        else:
            self._check(False, "the world never comes to rest")
        for client in self.clients.values():
            self._check_client(client)
        self._check_shared_queue()

    def _check_client(self, client: Client) -> None:
        self._check(not client.member.receipts.waiting, f"{client.id} has read and answered all, yet it owes")
        if client.device is None:
            published = [p for p in self.queues[SHARED].history if p.position > client.joined]
            first = {e for e in ids_of(published) if self._first_position(e) > client.joined}
            have, queue = set(client.read), self.queues[SHARED]
        else:
            queue = self.queues[client.device]
            first, have = ids_of(queue.history), self.read_by[client.device]
            self._check(not queue.copies, f"{client.device} has everything, yet its queue holds something")
        for publication in self.publications:
            event = publication.event
            if event and event.id in first - have and not queue.lost_for_good(event.id):
                excluded = event.excluded in (
                    {client.id} | self.connections_of.get(client.device or "", set())
                )
                self._check(excluded, f"{client.id} never got {event.id}")

    def _check_shared_queue(self) -> None:
        """Promise 4: it holds what nobody has proven; what stands behind that has to wait with it."""
        copies = self.queues[SHARED].copies
        if not self.clients or not copies:
            return
        self._check(all(client.device for client in self.clients.values()), "everybody here has proven it")
        event = copies[0].publication.event
        self._check(
            event is not None and event.id not in self.proven_here, "the oldest is proven, yet unsettled"
        )

    # Carrying out what the room decides

    def _perform(self, effects: Iterable[Effect]) -> None:
        self._excuse()
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case Settle(key, generation, tag):
                    self._settle(self.queues[key], generation, tag)
                case Park(key, generation, tag):
                    queue = self.queues[key]
                    copies = [copy for copy in queue.copies if copy.tag == tag]
                    self._check(
                        queue.is_open and generation == queue.generation and copies != [], "park what?"
                    )
                    self.parks.append((self.room, generation, tag, copies[0]))
                case TellGap(members, evicted):
                    for member in members:
                        self.clients[member.id].gaps.append(evicted)
                case _:
                    self._check(False, "there is no other replica to be told")

    def _send(self, send: Send) -> None:
        event = send.event
        for member in send.members:
            client = self.clients.get(member.id)
            self._check(client is not None, "an event for a connection that is gone")
            assert client is not None
            self._check(client.may_get(event), "an event for somebody whom it is not for")
            self._check(event.id not in client.sent, f"promise 3: {event.id} twice to {client.id}")
            self._check_order(client, event.id)
            client.write(event)

    def _check_order(self, client: Client, event: EventId) -> None:
        """Promise 1, with any of an event's publications as its place."""
        positions = [p.position for p in self.publications if p.event and p.event.id == event]
        later = [position for position in positions if position > client.last_position]
        if client.made_queue and (len(positions) > 1 or event in self._missing_from_shared()):
            return  # its two streams differ by what the shared one knew or lost: nobody can put that in order
        self._check(later != [], f"promise 1: {event} to {client.id}, behind a later one")
        client.last_position = later[0]

    def _settle(self, queue: Queue, generation: int, tag: int) -> None:
        copies = queue.unsettled(tag)
        self._check(
            queue.is_open and generation == queue.generation, "a settlement on a channel that is gone"
        )
        self._check(copies != [] and copies[-1].tag == tag, "a settlement of what was not delivered")
        for copy in copies:
            self._check(self._may_go(queue, copy), f"promise 2: {copy.publication} goes, and nobody has it")
        queue.settled = tag

    def _may_go(self, queue: Queue, copy: Copy) -> bool:
        event = copy.publication.event
        if event is None or not copy.publication.deliverable:
            return copy.parked or queue.key is not SHARED
        if queue.key is SHARED:
            return event.id in self.proven | self.excused
        return event.id in self.proven_by[queue.key] or event.excluded in self.connections_of[queue.key]

    def _excuse(self) -> None:
        """An excluded connection proves an event only when nobody else is in the audience."""
        audience = {client.id for client in self.clients.values() if self._in_shared_audience(client)}
        for copy in self.queues[SHARED].copies:
            event = copy.publication.event
            if (
                event
                and copy.tag is not None
                and event.excluded in self.clients
                and audience <= {event.excluded}
            ):
                self.excused.add(event.id)

    def _in_shared_audience(self, client: Client) -> bool:
        if client.device is None:
            return True
        device = self.room.devices.get(client.device)
        return device is not None and device.member is client.member and device.seeding

    # Parts

    def _publish(self, event: Event | None) -> None:
        publication = Publication(len(self.publications) + 1, event)
        self.publications.append(publication)
        for queue in self.queues.values():
            self.notices += [(queue.key, dropped) for dropped in queue.publish(publication)]

    def _join(self, mode: ReceiptMode, device: str | None) -> None:
        self.joins += 1
        id_ = ConnectionId(f"c{self.joins}")
        member = Member(id_, OWNER, type(self).make_receipts(mode), device)
        self.clients[id_] = Client(member, len(self.publications))
        if device is not None:
            self.connections_of[device].add(id_)
        self._perform(self.room.join(member))

    def _leave(self, client: Client, *, acknowledged: bool) -> None:
        del self.clients[client.id]
        if client.device is not None:
            self.depths.pop(client.device, None)
            if (queue := self.queues.get(client.device)) and queue.is_open:
                self._close(queue, acknowledged=acknowledged)
        self._perform(self.room.leave(client.member))
        if not self.clients:
            if self.queues[SHARED].is_open:
                self._close(self.queues[SHARED], acknowledged=acknowledged)
            self.room = type(self).make_room(DIAGNOSIS)
            self.room.acquainted = True
            self.proven_here.clear()

    def _read(self, client: Client, frames: int) -> None:
        client.flush()
        read = client.receive(frames)
        if client.mode == "none":
            read = client.sent  # no proof can be had: what is written is taken as received
            self._note_proof(client, read)
            self._perform(self.room.written(client.member))
        if client.device is not None:
            self.read_by[client.device].update(read)

    def _pong(self, client: Client, *, latest: bool) -> None:
        number, events = client.answer(latest=latest)
        if client.mode == "pong":
            self._note_proof(client, events)
        self._perform(self.room.pong(client.member, number))

    def _ack(self, client: Client, back: int) -> None:
        upto = len(client.read) - back % len(client.read)
        self._note_proof(client, client.read[:upto])
        self._perform(self.room.ack(client.member, client.read[upto - 1]))

    def _catch_up(self, client: Client) -> None:
        self._read(client, 1000)
        while client.answers:
            self._pong(client, latest=False)
        if client.mode == "ack" and client.read:
            self._ack(client, 0)

    def _note_proof(self, client: Client, events: Sequence[EventId]) -> None:
        self.proven.update(events)
        self.proven_here.update(events)
        if client.device is not None:
            self.proven_by[client.device].update(events)

    def _deliver(self, queue: Queue) -> bool:
        copy = queue.deliver()
        if copy is None or copy.tag is None:
            return False
        event = copy.publication.event
        if event is None:
            self._perform(self.room.refuse(queue.key, copy.tag, "rubbish"))
        else:
            self._perform(self.room.deliver(queue.key, copy.tag, event, redelivered=copy.redelivered))
        return True

    def _close(self, queue: Queue, *, acknowledged: bool) -> None:
        if acknowledged:
            queue.acknowledge()
        self.notices += [(queue.key, dropped) for dropped in queue.close()]

    def _to_open(self) -> list[Callable[[], None]]:
        """Sessions that somebody wants: the shared one first, a device's queue made before its session opens."""
        shared = self.queues[SHARED]
        steps: list[Callable[[], None]] = []
        if self.clients and not shared.is_open:
            steps.append(partial(self._open, shared, None))
        for client in self.clients.values():
            if client.device is None or (not shared.is_open and not client.queue_open):
                continue
            queue = self.queues.get(client.device)
            if queue is None:
                steps.append(partial(self._make_queue, client))
            elif not queue.is_open:
                steps.append(partial(self._open, queue, client))
        return steps

    def _make_queue(self, client: Client) -> None:
        assert client.device is not None
        self.queues[client.device] = Queue(client.device)
        client.made_queue = True
        held = [copy.publication for copy in self.queues[SHARED].copies]
        client.owed = (
            ids_of(p for p in held if p.event and client.may_get(p.event)) - self.proven - self.excused
        )

    def _open(self, queue: Queue, client: Client | None) -> None:
        """As `hub._Listener.opened`."""
        full = queue.ready >= LIMIT
        generation = queue.generation + 1
        ready = queue.open(generation)
        if client is not None and client.device is not None and not client.queue_open:
            client.queue_open = True
            if client.made_queue:
                self.depths[client.device] = (client, None)
            self._perform(self.room.join_device(client.member, new=client.made_queue))
        effects = self.room.opened(queue.key, generation, ready, full=full)
        audience = [c for c in self.clients.values() if c.device is None] if client is None else [client]
        told = {
            member.id for e in effects if isinstance(e, TellGap) and e.evicted is None for member in e.members
        }
        self._check(
            told == ({c.id for c in audience} if full else set()), "a full queue means a gap, another none"
        )
        for member in (c.member for c in audience if full):
            device = self.room.devices.get(member.device or "")
            self._check(
                bool(device and device.seeding) or self.room.gap_for(member), "the welcome speaks of no gap"
            )
        self._perform(effects)

    def _evicted(self, key: SessionKey, publication: Publication) -> None:
        event = publication.event
        if event is None:
            return
        effects = self.room.evicted(key, event.id)
        told = {member.id for effect in effects if isinstance(effect, TellGap) for member in effect.members}
        audience = [c for c in self.clients.values() if c.device == key and (key is SHARED or c.queue_open)]
        since = {c.id: c.joined if key is SHARED else 0 for c in audience}
        lack = {c.id for c in audience if event.id not in c.sent}
        if publication.deliverable:
            must = {c.id for c in audience if c.id in lack and c.may_get(event)}
            must = {id_ for id_ in must if self._first_position(event.id) > since[id_]}
            self._check(must <= told, f"{must - told} lack {event.id}, and nobody tells them")
        self._check(not told or bool(told & lack), f"a gap for {told}, and all of them have {event.id}")
        self._perform(effects)

    def _parked(self, room: Room, generation: int, tag: int, copy: Copy) -> None:
        copy.parked = True
        if room is self.room:
            self._perform(room.parked(SHARED, generation, tag))

    def _depth(self, key: str) -> None:
        """First the broker counts, then, some deliveries later, its answer is here."""
        client, ready = self.depths[key]
        if ready is not None:
            del self.depths[key]
            self._perform(self.room.shared_depth(key, ready))
        elif self.queues[SHARED].is_open:
            self.depths[key] = (client, self.queues[SHARED].ready)
        else:
            del self.depths[key]

    def _seeding_ends(self) -> bool:
        """As `hub._seed` after its deadline: whether anybody was still being seeded."""
        late = [
            client for client in self.clients.values() if client.device and self._in_shared_audience(client)
        ]
        for client in late:
            client.owed.clear()
            effects = self.room.seeding_takes_too_long(client.device or "")
            told = [effect for effect in effects if isinstance(effect, TellGap)]
            self._check(
                told == [TellGap((client.member,), None)], "something may be missing, and nobody says so"
            )
            self._perform(effects)
        return bool(late)

    def _heal(self) -> bool:
        """One round of everything that is due; whether anything was."""
        if steps := self._to_open():
            steps[0]()
            return True
        busy = bool(self.parks or self.notices or self.depths)
        while self.parks:
            self._parked(*self.parks.pop(0))
        while self.notices:
            self._evicted(*self.notices.pop(0))
        for key in list(self.depths):
            self._depth(key)
        for queue in self.queues.values():
            while self._deliver(queue):
                busy = True
        for client in self.clients.values():
            busy |= not client.idle or client.member.receipts.waiting
            self._catch_up(client)
        for queue in self.queues.values():
            busy |= queue.acknowledge()
        if not busy:
            busy |= self._seeding_ends()
        return busy

    def _client(self, pick: int) -> Client:
        return list(self.clients.values())[pick % len(self.clients)]

    def _new_id(self) -> EventId:
        return EventId(f"e{len(self.publications) + 1}")

    def _first_position(self, event: EventId) -> int:
        return next(p.position for p in self.publications if p.event and p.event.id == event)

    def _holds_older_events(self, queue: Queue) -> bool:
        own = {publication.position for publication in queue.history}
        return any(self._first_position(event) not in own for event in ids_of(queue.history))

    def _missing_from_shared(self) -> set[EventId]:
        return ids_of(self.queues[SHARED].dropped) | ids_of(self.queues[SHARED].taken)

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken = True
            raise AssertionError(otherwise)
