"""A replica leaves when it is told to, whatever has become of the broker."""

import pytest

from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.waiting import until
from tests.service.harness.world import World


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_replica_with_clients_stops_cleanly_while_the_broker_is(
    fragile_world: World, fragile_broker: PrivateRabbitMQ, fault: str
) -> None:
    replica = await fragile_world.start_replica(drain_seconds=0)
    diagnosis = fragile_world.diagnosis()
    client = await fragile_world.client("unnamed", fragile_world.url(diagnosis))
    device = await fragile_world.client("device", fragile_world.url(diagnosis, client_id="phone"))
    await until(lambda: client.is_welcome and device.is_welcome, "both are welcome")
    if fault == "killed":
        fragile_broker.kill()
        await until(lambda: replica.said("broker_lost"), "the loss is noticed")
    else:
        fragile_broker.pause()
    try:
        assert await replica.stop() == 0
        await until(lambda: client.connections[0].code == 1012, "the client is told to come back")
    finally:
        if fault == "killed":
            fragile_broker.restart()
        else:
            fragile_broker.resume()
