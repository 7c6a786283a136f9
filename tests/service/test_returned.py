"""Events that client after client takes and does not prove go back to their places, however often."""

from typing import Final

from tests.service.harness.checker import Audience
from tests.service.harness.waiting import until
from tests.service.harness.world import World, verdict

RETURNS: Final = 30
"""RabbitMQ 4 drops what was returned to a quorum queue more than 20 times, unless the queue has another limit."""


async def test_events_that_are_returned_many_times_keep_their_places(world: World) -> None:
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    client = world.local_client("client", ack=True)
    url = world.url(diagnosis, receipts="ack")
    client.answers = False
    await recorder.publish(diagnosis, 1)
    for returned in range(1, RETURNS + 1):
        connection = await client.connect(url)
        await until(lambda c=connection, n=returned: len(c.events) == n, "it gets all there is")  # type: ignore[misc]
        await recorder.publish(diagnosis, 1)
    await client.leave()
    client.answers = True
    connection = await client.connect(url)
    await until(lambda: connection.proven == RETURNS + 1, "it has everything")
    assert connection.numbers == list(range(1, RETURNS + 2))
    found = await verdict(recorder, diagnosis, [Audience("the client", [client])])
    assert not found.faults
    assert not found.dropped
