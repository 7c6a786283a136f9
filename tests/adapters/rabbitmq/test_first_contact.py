"""The door: what it lets in, in which order, what it holds, and what it turns away."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from contracts import topology
from contracts.ids import DiagnosisId
from realtime_service.adapters.rabbitmq.amqp.channel import Channel
from realtime_service.adapters.rabbitmq.barriers import BARRIER
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection
from realtime_service.adapters.rabbitmq.first_contact import MOST_UNKNOWN, PROVISION, FirstContact, Patience
from realtime_service.adapters.rabbitmq.link import BrokerLink
from realtime_service.adapters.rabbitmq.parking import Parking
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.topology import declare_topology
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from realtime_service.event_publisher import EventPublisher
from tests.fakes import FakeOwnership
from tests.service.harness.waiting import until, until_true
from tests.support.amqp import connected, ctl, killed, make_topology, remove_topology, take_all

_ids: Final = count(1_000_000)


class Link(BrokerLink):
    """A link on which something may happen before the door looks for (1), declares (2) or binds (3) its first queue."""

    opened = 0

    @staticmethod
    async def before(opening: int) -> None:
        """What happens before that channel is opened."""

    async def channel(self) -> Channel:
        self.opened += 1
        await self.before(self.opened)
        return await super().channel()


class Door:
    """A door that serves, the database it asks, and publishers before it."""

    def __init__(self, node: PrivateRabbitMQ, channel: AbstractChannel, events: EventPublisher) -> None:
        self.node = node
        self.ownership = FakeOwnership()
        self.provisioned: list[DiagnosisId] = []
        self.link = Link(node.amqp_url, "door")
        self._channel = channel
        self._events = events

    @asynccontextmanager
    async def serving(
        self,
        *,
        unknown_seconds: float = 60,
        bind_seconds: float = 10,
        prefetch: int = 1000,
    ) -> AsyncIterator[None]:
        """It stands open; what is left when it closes is still in the queue."""
        async with ConfirmedPublisher(self.node.amqp_url, name="door publishes") as publisher:
            parking = Parking(publisher, self.link)
            door = FirstContact(
                self.link,
                publisher,
                self.ownership,
                parking,
                topology.backlog_arguments(limit=5000),
                patience=Patience(
                    unknown_seconds=unknown_seconds,
                    quiet_seconds=0.02,
                    bind_seconds=bind_seconds,
                    retry_seconds=0.05,
                    prefetch=prefetch,
                ),
            )
            door.on_diagnosis = self.provisioned.append

            async def prepare(connection: BrokerConnection) -> None:
                await declare_topology(connection)
                await door.prepare(connection)

            running = asyncio.create_task(self.link.run(prepare))
            try:
                await until(lambda: self.link.is_up, "the door is open")
                yield
            finally:
                await door.close()
                running.cancel()
                await asyncio.wait([running])
                await parking.close()

    def diagnosis(self, *, known: bool = True) -> DiagnosisId:
        """One that no queue knows."""
        made = DiagnosisId(next(_ids))
        if known:
            self.ownership.owners[made] = 100
        return made

    async def publish(
        self, diagnosis: DiagnosisId, numbers: Sequence[int], *, prefix: str | None = None
    ) -> None:
        """Events that carry these numbers, in this order."""
        prefix = f"{diagnosis} " if prefix is None else prefix
        await asyncio.gather(
            *(
                self._events.broadcast_feedback_update(
                    diagnosis, number, 5, 0.5, event_id=f"{prefix}{number}"
                )
                for number in numbers
            )
        )

    async def request(self, diagnosis: DiagnosisId, reply_to: str) -> None:
        """Ask for a diagnosis' queue, as a connect does."""
        await self._channel.default_exchange.publish(
            aio_pika.Message(str(diagnosis).encode(), type=PROVISION, headers={"x-reply-to": reply_to}),
            topology.UNROUTED,
        )

    async def numbers(self, diagnosis: DiagnosisId) -> list[int]:
        """What waits in a diagnosis' queue, in order; each event once, where it came first."""
        async with connected(self.node.amqp_url) as (_, channel):
            messages = await take_all(channel, topology.shared_queue(diagnosis))
        return list(dict.fromkeys(json.loads(message.body)["feedback_id"] for message in messages))

    async def is_provisioned(self, diagnosis: DiagnosisId) -> None:
        await until(lambda: diagnosis in self.provisioned, "the diagnosis has its queue", seconds=30)

    async def depth(self, queue: str) -> int:
        """What is in a queue, ready or not settled; -1 where there is none."""
        lines = (await ctl(self.node, "list_queues", "name", "messages", "--quiet")).splitlines()
        return next((int(line.split()[1]) for line in lines if line.split()[0] == queue), -1)

    async def nothing_waits(self) -> None:
        """Wait until everything at the door is settled."""

        async def nothing() -> bool:
            return await self.depth(topology.UNROUTED) == 0

        await until_true(nothing, "everything is settled", seconds=30)

    async def parked(self) -> list[tuple[int, str]]:
        """Body's number and reason of everything that was parked."""
        async with connected(self.node.amqp_url) as (_, channel):
            messages = await take_all(channel, topology.PARKED)
        return [
            (json.loads(message.body)["feedback_id"], str(message.headers["x-park-reason"]))
            for message in messages
        ]


@pytest.fixture
async def door(node: PrivateRabbitMQ) -> AsyncIterator[Door]:
    async with connected(node.amqp_url) as (_, channel):
        await remove_topology(channel)
    await make_topology(node.amqp_url)
    async with (
        connected(node.amqp_url) as (_, channel),
        EventPublisher(node.amqp_url) as events,
    ):
        yield Door(node, channel, events)


async def test_what_came_before_the_door_opened_and_what_comes_after_is_let_in_in_order(door: Door) -> None:
    diagnosis = door.diagnosis()
    await door.publish(diagnosis, range(50))
    async with door.serving():
        await door.is_provisioned(diagnosis)
        await door.publish(diagnosis, range(50, 60))
        assert await door.numbers(diagnosis) == list(range(60))
        await door.nothing_waits()


async def test_ids_that_publishers_use_for_several_diagnoses_do_not_change_the_order(door: Door) -> None:
    diagnoses = [door.diagnosis() for _ in range(5)]
    for shift, diagnosis in enumerate(diagnoses):
        await door.publish(diagnosis, [(number + shift * 7) % 40 for number in range(40)], prefix="")
    async with door.serving():
        for shift, diagnosis in enumerate(diagnoses):
            await door.is_provisioned(diagnosis)
            assert await door.numbers(diagnosis) == [(number + shift * 7) % 40 for number in range(40)]
        await door.nothing_waits()


async def test_a_diagnosis_that_stays_unknown_is_asked_for_again_and_then_parked(door: Door) -> None:
    diagnosis = door.diagnosis(known=False)
    await door.publish(diagnosis, range(3))
    async with door.serving(unknown_seconds=1):
        await door.nothing_waits()
        assert await door.parked() == [(number, "the diagnosis does not exist") for number in range(3)]
        assert door.ownership.asked[diagnosis] > 1
        assert await door.depth(topology.shared_queue(diagnosis)) == -1


async def test_a_diagnosis_that_appears_in_time_gets_all_its_events_in_order(door: Door) -> None:
    diagnosis = door.diagnosis(known=False)
    async with door.serving():
        await door.publish(diagnosis, range(5))
        await until(lambda: door.ownership.asked[diagnosis] > 1, "it is asked for again")
        await door.publish(diagnosis, range(5, 8))
        door.ownership.owners[diagnosis] = 100
        await door.is_provisioned(diagnosis)
        await door.nothing_waits()
    assert await door.numbers(diagnosis) == list(range(8))
    assert await door.parked() == []


async def test_events_are_held_while_the_database_is_away_however_long_and_come_in_order(door: Door) -> None:
    known, unknown = door.diagnosis(), door.diagnosis(known=False)
    door.ownership.available = False
    async with door.serving(unknown_seconds=0.1):
        await door.publish(known, range(5))
        await door.publish(unknown, [99])
        await until(lambda: door.ownership.asked[unknown] > 2, "it is asked for again, and again")
        assert await door.depth(topology.UNROUTED) == 6
        assert await door.parked() == []
        await door.publish(known, range(5, 8))
        door.ownership.available = True
        await door.is_provisioned(known)
        await door.nothing_waits()
        assert await door.numbers(known) == list(range(8))
        assert [number for number, _ in await door.parked()] == [99]


async def test_a_flood_of_unknown_ids_does_not_hold_up_known_ones(door: Door) -> None:
    flood = [door.diagnosis(known=False) for _ in range(Patience().prefetch + 200)]
    known = door.diagnosis()
    await asyncio.gather(*(door.publish(diagnosis, [1]) for diagnosis in flood))
    await door.publish(known, range(3))
    async with door.serving():
        await door.is_provisioned(known)
        assert await door.numbers(known) == [0, 1, 2]


async def test_a_burst_for_a_known_diagnosis_is_no_reason_to_give_up_an_unknown_one(door: Door) -> None:
    late, busy = door.diagnosis(known=False), door.diagnosis()
    await door.publish(late, [1])
    await door.publish(busy, range(MOST_UNKNOWN + 100))
    async with door.serving():
        await until(lambda: door.ownership.asked[late] > 1, "it is asked for again")
        door.ownership.owners[late] = 100
        await door.is_provisioned(late)
        await door.is_provisioned(busy)
    assert await door.numbers(late) == [1]
    assert await door.parked() == []


async def test_a_request_makes_the_queue_and_is_answered_behind_the_events_before_it(door: Door) -> None:
    diagnosis = door.diagnosis()
    async with connected(door.node.amqp_url) as (_, channel):
        answers = await channel.declare_queue(topology.node_queue("answers"), exclusive=True)
        await door.publish(diagnosis, range(3))
        await door.request(diagnosis, answers.name)
        async with door.serving():
            await until_true(lambda: answers.get(fail=False, no_ack=True), "the request is answered")
            assert await door.numbers(diagnosis) == [0, 1, 2]
            await door.nothing_waits()


async def test_a_request_for_an_unknown_diagnosis_is_dropped(door: Door) -> None:
    diagnosis = door.diagnosis(known=False)
    await door.request(diagnosis, "nobody")
    async with door.serving():
        await until(lambda: door.ownership.asked[diagnosis], "it is asked for")
        await door.nothing_waits()
        assert await door.depth(topology.shared_queue(diagnosis)) == -1
        assert await door.parked() == []


async def test_nothing_is_lost_and_the_order_kept_when_the_broker_dies_while_events_are_let_in(
    door: Door,
) -> None:
    diagnoses = [door.diagnosis() for _ in range(3)]
    for diagnosis in diagnoses:
        await door.publish(diagnosis, range(800))
    async with door.serving():
        async with killed(door.node):
            pass
        await until(lambda: set(diagnoses) <= set(door.provisioned), "all have their queues", seconds=40)
        await door.nothing_waits()
    for diagnosis in diagnoses:
        assert await door.numbers(diagnosis) == list(range(800))
    assert await door.parked() == []


async def test_nothing_is_lost_when_the_door_closes_at_any_moment(door: Door) -> None:
    diagnosis = door.diagnosis()
    await door.publish(diagnosis, range(500))
    for _ in range(3):
        async with door.serving():
            pass
    async with door.serving():
        await door.is_provisioned(diagnosis)
        await door.nothing_waits()
    assert await door.numbers(diagnosis) == list(range(500))


async def test_a_queue_that_another_connection_owns_is_that_diagnosis_problem_alone(door: Door) -> None:
    taken, free = door.diagnosis(), door.diagnosis()
    async with connected(door.node.amqp_url) as (_, channel):
        await channel.declare_queue(topology.shared_queue(taken), exclusive=True)
        async with door.serving():
            await door.publish(taken, range(3))
            await door.publish(free, range(3))
            await door.is_provisioned(free)
            assert await door.numbers(free) == [0, 1, 2]
            assert door.link.is_up
            assert taken not in door.provisioned
            await channel.queue_delete(topology.shared_queue(taken))
            await door.is_provisioned(taken)
            await door.nothing_waits()
            assert await door.numbers(taken) == [0, 1, 2]


async def test_replicas_are_told_of_a_queue_that_was_not_there_and_of_no_other(
    door: Door, channel: AbstractChannel
) -> None:
    """They may have had one of that name, and be away."""
    new, known = door.diagnosis(), door.diagnosis()
    async with door.serving():
        heard = await channel.declare_queue(exclusive=True)
        for diagnosis in (new, known):
            await heard.bind(topology.NODES, topology.routing_key(diagnosis))
        await channel.declare_queue(topology.shared_queue(known), durable=True)
        await door.publish(new, [1])
        await door.publish(known, [1])
        await door.is_provisioned(new)
        await door.is_provisioned(known)
    said = await take_all(channel, heard.name)
    assert [(message.type, json.loads(message.body)["diagnosis_id"]) for message in said] == [
        ("queue_lost", new)
    ]


async def test_nothing_is_bound_while_an_event_is_on_its_way_to_the_door(door: Door) -> None:
    known, unknown = door.diagnosis(), door.diagnosis(known=False)
    for diagnosis, number in ((known, 1), (unknown, 1), (unknown, 2), (known, 2)):
        await door.publish(diagnosis, [number])
    async with door.serving(prefetch=2):
        await until(lambda: door.ownership.asked[unknown] > 5, "the unknown one holds everything up")
        await door.publish(known, [3])
        door.ownership.owners[unknown] = 100
        await door.is_provisioned(known)
        await door.publish(known, [4])
        await door.nothing_waits()
    assert await door.numbers(known) == [1, 2, 3, 4]
    assert await door.numbers(unknown) == [1, 2]


async def test_nothing_is_bound_for_a_request_either_while_an_event_is_behind_it(door: Door) -> None:
    known, unknown = door.diagnosis(), door.diagnosis(known=False)
    await door.publish(unknown, [1])
    await door.request(known, "nobody")
    await door.publish(unknown, [2])
    await door.publish(known, [1])
    async with door.serving(prefetch=2):
        await until(lambda: door.ownership.asked[unknown] > 5, "the unknown one holds everything up")
        await door.publish(known, [2])
        door.ownership.owners[unknown] = 100
        await door.is_provisioned(known)
        await door.nothing_waits()
    assert await door.numbers(known) == [1, 2]


async def test_what_comes_while_it_is_bound_is_let_in_before_the_door_is_done_with_it(door: Door) -> None:
    known, unknown = door.diagnosis(), door.diagnosis(known=False)

    async def before(opening: int) -> None:
        if opening == 3:
            await door.publish(unknown, [1, 2])
            await door.publish(known, [2])

    door.link.before = before  # type: ignore[method-assign]
    async with connected(door.node.amqp_url) as (_, channel):
        answers = await channel.declare_queue(topology.node_queue("answers"), exclusive=True)
        await door.publish(known, [1])
        await door.request(known, answers.name)
        async with door.serving(prefetch=3):
            await until(lambda: door.ownership.asked[unknown] > 5, "the unknown one holds everything up")
            assert known not in door.provisioned
            assert await answers.get(fail=False, no_ack=True) is None
            door.ownership.owners[unknown] = 100
            await until_true(lambda: answers.get(fail=False, no_ack=True), "the request is answered")
            assert await door.numbers(known) == [1, 2]


async def test_a_door_that_is_held_up_binds_after_a_while_all_the_same(door: Door) -> None:
    known, unknown = door.diagnosis(), door.diagnosis(known=False)
    for diagnosis, number in ((known, 1), (unknown, 1), (unknown, 2), (known, 2)):
        await door.publish(diagnosis, [number])
    async with door.serving(prefetch=2, bind_seconds=0.2):
        await door.is_provisioned(known)
        door.ownership.owners[unknown] = 100
        await door.nothing_waits()
    assert await door.numbers(known) == [1, 2]


async def test_more_events_than_the_door_holds_do_not_stop_its_barrier(door: Door) -> None:
    diagnosis = door.diagnosis()
    await door.request(diagnosis, "nobody")
    await door.publish(diagnosis, range(200))
    async with door.serving(prefetch=10, bind_seconds=60):
        await door.is_provisioned(diagnosis)
        await door.nothing_waits()
    assert await door.numbers(diagnosis) == list(range(200))


async def test_the_barrier_of_a_former_door_says_nothing(door: Door) -> None:
    diagnosis = door.diagnosis()
    async with connected(door.node.amqp_url) as (_, channel):
        await channel.default_exchange.publish(
            aio_pika.Message(b"", type=BARRIER, message_id="of another"), topology.UNROUTED
        )
    await door.publish(diagnosis, range(3))
    async with door.serving():
        await door.is_provisioned(diagnosis)
        await door.nothing_waits()
        assert await door.numbers(diagnosis) == [0, 1, 2]
        assert await door.parked() == []


async def test_a_queue_that_refuses_events_now_and_then_gets_them_in_order(door: Door) -> None:
    diagnosis = door.diagnosis()
    got: list[int] = []
    async with connected(door.node.amqp_url) as (_, channel):
        await channel.set_qos(prefetch_count=1)
        refusing = await channel.declare_queue(
            topology.shared_queue(diagnosis),
            durable=True,
            arguments={"x-max-length": 1, "x-overflow": "reject-publish"},
        )

        async def take(message: AbstractIncomingMessage) -> None:
            got.append(json.loads(message.body)["feedback_id"])
            await message.ack()

        await refusing.consume(take)
        await door.publish(diagnosis, range(50))
        async with door.serving():
            await until(lambda: len(set(got)) == 50, "all have arrived", seconds=30)
        assert list(dict.fromkeys(got)) == list(range(50))


async def test_the_parking_queue_is_made_again_when_somebody_deleted_it(door: Door) -> None:
    diagnosis = door.diagnosis(known=False)
    async with door.serving(unknown_seconds=0):
        async with connected(door.node.amqp_url) as (_, channel):
            await channel.queue_delete(topology.PARKED)
        await door.publish(diagnosis, [1])
        await door.nothing_waits()
        assert await door.parked() == [(1, "the diagnosis does not exist")]


async def test_a_thousand_diagnoses_at_once_are_let_in_without_losing_the_connection(door: Door) -> None:
    diagnoses = [door.diagnosis() for _ in range(1000)]
    await asyncio.gather(*(door.publish(diagnosis, [1]) for diagnosis in diagnoses))
    async with door.serving():
        connection = door.link.connection
        await until(lambda: set(diagnoses) <= set(door.provisioned), "all have their queues", seconds=60)
        assert door.link.connection is connection
        await door.nothing_waits()
