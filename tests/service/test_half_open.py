"""A socket that is dead in one direction or both while each end believes it open: a phone in a tunnel."""

from collections.abc import Mapping

import pytest

from tests.service.harness.checker import Audience, Verdict
from tests.service.harness.proxy import Proxy
from tests.service.harness.waiting import until
from tests.service.harness.world import RECEIPT_SECONDS, World, verdict

BEFORE, MEANWHILE, AFTER = 50, 30, 20
NOTICED_SECONDS = RECEIPT_SECONDS + 3.0

DIRECTIONS: Mapping[str, Mapping[str, bool]] = {
    "to the client": {"to_client": True},
    "to the server": {"to_server": True},
    "both ways": {"to_client": True, "to_server": True},
}


async def go_through_a_tunnel(world: World, dark: Mapping[str, bool], *, returned: int) -> Verdict:
    """A client's socket goes dark, events follow; once so many are back in the queue, another client comes."""
    assert world.replica is not None
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    async with Proxy(world.replica.address) as proxy:
        phone, tablet = world.local_client("phone"), world.local_client("tablet")
        first = await phone.connect(world.url(diagnosis, address=proxy.address))
        await until(lambda: phone.is_welcome, "the phone is welcome")
        await recorder.publish(diagnosis, BEFORE)
        await until(lambda: first.proven == BEFORE, "the first events are proved")
        await phone.be_heard()

        proxy.swallow(**dark)
        await recorder.publish(diagnosis, MEANWHILE)
        await until(lambda: proxy.swallowed > 0, "something was swallowed")
        await until(
            lambda: world.depth(f"diagnosis.{diagnosis}") == returned,
            f"{returned} events are back in the queue",
            seconds=NOTICED_SECONDS,
        )
        second = await tablet.connect(world.url(diagnosis))
        await until(lambda: tablet.is_welcome, "the tablet is welcome")
        await recorder.publish(diagnosis, AFTER)
        audience = Audience("the unnamed", [phone, tablet])
        await until(lambda: len(second.events) >= returned + AFTER, "the tablet has everything", seconds=5)
        assert second.welcome
        assert second.welcome["queued_messages"] == returned
        assert [event.redelivered for event in second.events] == [True] * returned + [False] * AFTER
        return await verdict(recorder, diagnosis, [audience], seconds=1)


@pytest.mark.parametrize("dark", DIRECTIONS.values(), ids=DIRECTIONS)
async def test_what_a_dead_socket_swallowed_goes_to_the_next_client_in_order(
    world: World, dark: Mapping[str, bool]
) -> None:
    found = await go_through_a_tunnel(world, dark, returned=MEANWHILE)
    assert not found.faults
    assert not found.dropped
