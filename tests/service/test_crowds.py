"""Crowds on two replicas: what is gathered for a pass over a crowd is neither lost, nor sent again, nor overtaken."""

import signal
from typing import Final

from realtime_service.crowd import CROWD
from tests.service.harness.checker import Audience
from tests.service.harness.clients import LocalClient
from tests.service.harness.waiting import until
from tests.service.harness.world import World, streaming_meanwhile, verdict

SIZE: Final = CROWD + 4
GUESTS: Final = 12
BEFORE: Final = 60


async def test_crowds_get_all_in_order_while_others_come_and_go_and_a_replica_dies(
    fragile_world: World,
) -> None:
    world = fragile_world
    active, other = await world.start_replica(), await world.start_replica()
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    here = [world.local_client(f"here {number}", ack=number % 2 == 0) for number in range(SIZE)]
    there = [world.local_client(f"there {number}", ack=number % 2 == 0) for number in range(SIZE)]
    guests = [world.local_client(f"guest {number}", ack=number % 2 == 0) for number in range(GUESTS)]

    async def all_connect(clients: list[LocalClient], address: str) -> None:
        for client in clients:
            receipts = "ack" if int(client.name.split()[1]) % 2 == 0 else "pong"
            await client.connect(world.url(diagnosis, address=address, receipts=receipts))
        await until(lambda: all(client.is_welcome for client in clients), "they are welcome")

    await all_connect(here, active.address)
    await all_connect(there, other.address)
    together = Audience("all of them", [*here, *there, *guests])
    async with streaming_meanwhile(recorder, diagnosis, [Audience("who stays", there), together]):
        await until(lambda: min(len(each.connections[0].events) for each in there) > BEFORE, "it streams")
        for number, guest in enumerate(guests):
            await all_connect([guest], (active, other)[number % 2].address)
            await until(lambda guest=guest: guest.connections[-1].events, "the guest gets events")  # type: ignore[misc]
        for guest in guests[::3]:
            await guest.leave()
        active.signal(signal.SIGKILL)
        await active.ended()
        died_at = max(recorder.confirmed(diagnosis))
        await until(lambda: max(recorder.confirmed(diagnosis)) > died_at + BEFORE, "it streams again")
        await all_connect(here[::4], other.address)
    await recorder.publish(diagnosis, 1)
    found = await verdict(
        recorder, diagnosis, [together, *(Audience(client.name, [client]) for client in there)]
    )
    assert not found.faults
    assert not found.dropped
    for client in (*here, *there, *guests):
        await client.leave()
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "the queue is empty")
