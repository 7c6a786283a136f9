"""A replica dies, or is replaced by the next version: clients come back, and nothing is lost."""

import signal
from typing import Final

import pytest

from tests.service.harness.checker import Audience
from tests.service.harness.proxy import Proxy
from tests.service.harness.recorder import every_other
from tests.service.harness.waiting import until
from tests.service.harness.world import World, streaming_considerately, verdict

COUNT: Final = 300
BEFORE: Final = 100


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["it is killed", "it is stopped"])
async def test_clients_come_back_to_another_replica_and_miss_nothing_when(
    world: World, number: signal.Signals
) -> None:
    old = await world.start_replica(drain_seconds=1)
    diagnosis = world.diagnosis()
    recorder = await world.recorder(named=every_other)
    async with Proxy(old.address) as balancer:
        at = balancer.address
        device = await world.client("device", world.url(diagnosis, address=at, client_id="phone"))
        clients = [
            await world.client("unnamed", world.url(diagnosis, address=at)),
            await world.client("acks", world.url(diagnosis, address=at), ack=True),
            device,
        ]
        await until(lambda: all(client.is_welcome for client in clients), "all are welcome")
        audiences = [Audience("everybody", clients), Audience("the device", [device])]

        async with streaming_considerately(recorder, diagnosis, COUNT, audiences):
            await until(
                lambda: all(client.connections[0].proven > BEFORE for client in clients), "the stream runs"
            )
            if number is signal.SIGKILL:
                old.signal(number)
                new = await world.start_replica()
                balancer.target = new.address
            else:
                new = await world.start_replica()
                balancer.target = new.address
                old.signal(number)
            code = await old.ended()

        found = await verdict(recorder, diagnosis, audiences)
        assert not found.faults
        assert not found.dropped
        await until(lambda: all(client.is_welcome for client in clients), "all came back")
        codes = {client.name: client.connections[0].code for client in clients}
        if number is signal.SIGKILL:
            assert set(codes.values()) == {1006}
        else:
            assert code == 0
            assert set(codes.values()) == {1012}
        await until(lambda: new.said("connection_opened"), "they are with the new replica")
        for client in clients:
            await client.stop()
        await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "the queue is empty")
