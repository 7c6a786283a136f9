"""`GET /ws/status` counts all replicas, whichever is asked; one that does not answer is named, and not waited for."""

import signal

from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.status import reports, status
from tests.service.harness.waiting import until
from tests.service.harness.world import World


async def test_the_status_counts_all_replicas_and_names_those_that_are_silent(
    fragile_world: World,
) -> None:
    world = fragile_world
    one, two = await world.start_replica(), await world.start_replica()
    diagnosis = world.diagnosis()
    for place, replica in enumerate((one, one, two)):
        client = world.local_client(f"client {place}")
        await client.connect(world.url(diagnosis, address=replica.address))
        await until(lambda c=client: c.is_welcome, "it is welcome")  # type: ignore[misc]
    for replica in (one, two):
        await reports(
            replica, lambda r: r["connections_by_diagnosis"] == {str(diagnosis): 3}, "all are counted"
        )
        assert "silent_replicas" not in await status(replica)
    name = two.said("listening")[0]["replica"]
    two.signal(signal.SIGSTOP)
    report = await status(one)
    two.signal(signal.SIGCONT)
    assert report["connections_by_diagnosis"] == {str(diagnosis): 2}
    assert report["silent_replicas"] == [name]
    assert report["truncated"] is True
    await reports(one, lambda r: r["total_connections"] == 3, "it is counted again")
    assert await two.stop() == 0
    report = await status(one)
    assert report["total_connections"] == 2
    assert "silent_replicas" not in report


async def test_without_a_broker_the_status_tells_the_own_connections_and_names_the_others(
    fragile_world: World, fragile_broker: PrivateRabbitMQ
) -> None:
    world = fragile_world
    one, two = await world.start_replica(), await world.start_replica()
    diagnosis = world.diagnosis()
    client = world.local_client("client")
    await client.connect(world.url(diagnosis, address=one.address))
    await until(lambda: client.is_welcome, "it is welcome")
    await reports(two, lambda r: r["total_connections"] == 1, "they know each other")
    await reports(one, lambda r: "silent_replicas" not in r, "they know each other")
    fragile_broker.kill()
    try:
        report = await status(one)
        assert report["connections_by_diagnosis"] == {str(diagnosis): 1}
        assert report["silent_replicas"] == [two.said("listening")[0]["replica"]]
        assert report["truncated"] is True
    finally:
        fragile_broker.restart()
    await reports(one, lambda r: "silent_replicas" not in r, "they hear each other again")
