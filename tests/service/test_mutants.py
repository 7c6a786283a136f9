"""The checker against whole replicas that break one rule: it finds each of them out, and nothing in one that keeps all.

Every scenario provokes its fault by what it does, not by luck, and judges the service as it is in the same way.
"""

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import pytest

from realtime_service.domain.window import WINDOW_EVENTS
from tests.service.harness.checker import Audience, Verdict
from tests.service.harness.clients import LocalClient
from tests.service.harness.mutants import MUTATIONS, program
from tests.service.harness.proxy import Proxy
from tests.service.harness.replica import SERVE, Replica
from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import World, verdict
from tests.support.amqp import address_of, through

RELAYS_RECEIVED: Final = re.compile(r"^realtime_relays_received_total (\S+)$", re.MULTILINE)
CONSUMES, PUBLISHES = b" consumes", b" publishes"
"""What a replica calls its two connections to the broker."""

LATELY: Final = WINDOW_EVENTS
"""Of so many events a replica tells a newcomer that they are proven; it hands none of them out, whoever relays them."""

Program = Sequence[str]
Scenario = Callable[[World, Program], Awaitable[Verdict]]


async def welcomed(
    world: World, name: str, diagnosis: int, at: Replica | Proxy, *, ack: bool = True
) -> LocalClient:
    """A client that is connected."""
    client = world.local_client(name, ack=ack)
    query = {"receipts": "ack"} if ack else {}
    await client.connect(world.url(diagnosis, address=at.address, **query))
    await until(lambda: client.is_welcome, f"the {name} is welcome")
    return client


async def behind(world: World, proxy: Proxy, program: Program) -> Replica:
    """A replica that speaks to its broker through a proxy."""
    return await world.start_replica(program, amqp_url=f"{through(world.amqp_url, proxy)}?heartbeat=60")


async def a_dead_socket(world: World, program: Program) -> Verdict:
    """What is sent to a client goes nowhere, then its connection ends, and another client comes."""
    replica = await world.start_replica(program)
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    async with Proxy(replica.address) as tunnel:
        phone = await welcomed(world, "phone", diagnosis, tunnel, ack=False)
        tunnel.swallow(to_client=True)
        await recorder.publish(diagnosis, 10)
        await until(lambda: tunnel.swallowed > 0, "something was swallowed")
        tunnel.cut()
        await until(lambda: replica.said("connection_closed"), "the phone is gone")
        tablet = await welcomed(world, "tablet", diagnosis, replica, ack=False)
        await recorder.publish(diagnosis, 1)
        await until(lambda: 11 in tablet.connections[0].proven_numbers, "the tablet has what came last")
        return await verdict(recorder, diagnosis, [Audience("both", [phone, tablet])], seconds=0)


async def a_hand_over(world: World, program: Program) -> Verdict:
    """A client leaves with ten events unproven; the next one comes to another replica, and then ten more."""
    here, there = await asyncio.gather(*(world.start_replica(program) for _ in range(2)))
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    phone = await welcomed(world, "phone", diagnosis, here)
    phone.answers = False
    await recorder.publish(diagnosis, 10)
    await until(lambda: len(phone.connections[0].events) == 10, "the phone has the first ten")
    await phone.leave()
    await until(lambda: here.said("connection_closed"), "the phone is gone")
    tablet = await welcomed(world, "tablet", diagnosis, there)
    await recorder.publish(diagnosis, 10)
    await until(lambda: tablet.connections[0].proven == 20, "the tablet has everything")
    return await verdict(recorder, diagnosis, [Audience("both", [phone, tablet])], seconds=0)


async def a_publisher_s_retry(world: World, program: Program) -> Verdict:
    """A publisher sends an event again under its id, as it must when a confirm is lost."""
    replica = await world.start_replica(program)
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    client = await welcomed(world, "client", diagnosis, replica)
    await recorder.publish(diagnosis, 5)
    await recorder.publish_again(diagnosis)
    await recorder.publish(diagnosis, 1)
    await until(lambda: 6 in client.connections[0].proven_numbers, "the client has what came last")
    return await verdict(recorder, diagnosis, [Audience("the client", [client])], seconds=0)


async def a_death_before_the_relay(world: World, program: Program) -> Verdict:
    """The active replica dies when its clients proved events of which the other one was not told."""
    async with Proxy(address_of(world.amqp_url)) as wire:
        active, other = await asyncio.gather(behind(world, wire, program), world.start_replica(program))
        diagnosis, recorder = world.diagnosis(), await world.recorder()
        here = await welcomed(world, "client here", diagnosis, active)
        there = await welcomed(world, "client there", diagnosis, other)
        await recorder.publish(diagnosis, 1)
        await until(lambda: there.connections[0].proven == 1, "the stream is on its way")
        wire.hold(PUBLISHES)
        await recorder.publish(diagnosis, 10)
        await until(lambda: here.connections[0].proven == 11 and wire.held, "proved, and not told")
        for _ in range(2):
            await here.be_heard()
        await active.kill()
        await recorder.publish(diagnosis, 1)
        await until(lambda: 12 in there.connections[0].proven_numbers, "the other one goes on")
        return await verdict(recorder, diagnosis, [Audience("the client there", [there])], seconds=0)


async def a_ghost(world: World, program: Program) -> Verdict:
    """What a replica relayed before it froze arrives when another one has led the stream for a while."""
    async with Proxy(address_of(world.amqp_url)) as wire:
        ghost, second, third = await asyncio.gather(
            behind(world, wire, program), world.start_replica(program), world.start_replica(program)
        )
        diagnosis, recorder = world.diagnosis(), await world.recorder()
        haunted = await welcomed(world, "client of the ghost", diagnosis, ghost)
        stays = await welcomed(world, "client that stays", diagnosis, second)
        await recorder.publish(diagnosis, 1)
        await until(lambda: stays.connections[0].proven == 1, "the stream is on its way")
        wire.hold(PUBLISHES)
        await recorder.publish(diagnosis, 10)
        await until(lambda: haunted.connections[0].proven == 11 and wire.held, "the relays are on their way")
        await haunted.be_heard()
        ghost.signal(signal.SIGSTOP)
        wire.cut(CONSUMES)
        await until(lambda: stays.connections[0].proven == 11, "the second replica leads")
        await recorder.publish(diagnosis, LATELY)
        await until(lambda: stays.connections[0].proven == 11 + LATELY, "what the ghost has is long proven")
        await stays.be_heard()
        comes = await welcomed(world, "client that comes", diagnosis, third)
        await recorder.publish(diagnosis, 1)
        newest = 12 + LATELY
        await until(lambda: newest in comes.connections[0].proven_numbers, "the third replica follows")
        before = await relays_received(third)
        wire.let_go()

        async def ghosts_came() -> bool:
            return await relays_received(third) >= before + 10

        await until_true(ghosts_came, "the ghost's relays arrive")
        await recorder.publish(diagnosis, 1)
        await until(lambda: newest + 1 in comes.connections[0].proven_numbers, "the stream goes on")
        await ghost.kill()
        audiences = [Audience("the one that stays", [stays]), Audience("the one that comes", [comes], newest)]
        return await verdict(recorder, diagnosis, audiences, seconds=0)


async def relays_received(replica: Replica) -> float:
    """How many relays other replicas sent to this one."""
    url = f"http://{replica.address}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        found = RELAYS_RECEIVED.search(await answer.text())
        return float(found[1]) if found else 0.0


async def a_crowd_at_the_door(world: World, program: Program) -> Verdict:
    """Ten events wait for their diagnosis to be known; more are published while its queue is made."""
    replica = await world.start_replica(program)
    diagnosis, recorder = world.new_id(), await world.recorder()
    await recorder.publish(diagnosis, 10)
    world.database.add(diagnosis)
    while not world.depth(f"diagnosis.{diagnosis}"):
        await recorder.publish(diagnosis, 1, pause=0.05)
    client = await welcomed(world, "client", diagnosis, replica)
    everything = recorder.confirmed(diagnosis)
    await until(lambda: set(client.connections[0].proven_numbers) >= everything, "the client has everything")
    return await verdict(recorder, diagnosis, [Audience("the client", [client])], seconds=0)


@dataclass(frozen=True, slots=True)
class Case:
    """What provokes a mutant's fault, and the checker's word for it."""

    scenario: Scenario
    fault: str


CASES: Final[Mapping[str, Case]] = {
    "acknowledges on write": Case(a_dead_socket, "lost"),
    "releases by basic.cancel": Case(a_hand_over, "reordered"),
    "hands out repetitions": Case(a_publisher_s_retry, "repeated"),
    "settles before the relay is confirmed": Case(a_death_before_the_relay, "lost"),
    "accepts an old epoch": Case(a_ghost, "reordered"),
    "binds before it forwards": Case(a_crowd_at_the_door, "reordered"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_the_checker_catches_a_service_that(fragile_world: World, mutation: str) -> None:
    case = CASES[mutation]
    if fragile_world.queue_type == "quorum" and mutation == "releases by basic.cancel":
        pytest.skip(
            "with quorum queues who joins asks every replica, and is told what the one that leaves still holds"
        )
    found = await case.scenario(fragile_world, program(mutation))
    assert getattr(found, case.fault), found


@pytest.mark.parametrize("case", CASES.values(), ids=[case.scenario.__name__ for case in CASES.values()])
async def test_the_checker_finds_no_fault_in_the_service_after(fragile_world: World, case: Case) -> None:
    found = await case.scenario(fragile_world, SERVE)
    assert not found.faults
