"""The scenarios of this folder in which queues return, drop or lose something, once more on quorum queues.

`REALTIME_TEST_QUEUE_TYPE=quorum pytest tests/service` runs the whole folder on them.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import pytest

from contracts.topology import QueueType
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service import test_backlog, test_broker_faults, test_half_open, test_replicas, test_returned
from tests.service.harness.world import World

Scenario = Callable[[World], Awaitable[None]]
FragileScenario = Callable[[World, PrivateRabbitMQ], Awaitable[None]]


@pytest.fixture
def queue_type() -> QueueType:
    """In the place of the folder's."""
    return "quorum"


async def half_open(world: World) -> None:
    """A window full of events goes back and to the next client."""
    dark = test_half_open.DIRECTIONS["both ways"]
    await test_half_open.test_what_a_dead_socket_swallowed_goes_to_the_next_client_in_order(world, dark)


async def replicas(world: World, broker: PrivateRabbitMQ) -> None:
    """The active one of three is killed, with unnamed clients and devices on each."""
    await test_replicas.test_every_client_gets_everything_in_order_when_the_active_one_is_killed(
        world, broker
    )


async def crash(world: World, broker: PrivateRabbitMQ) -> None:
    """The broker is killed under a stream."""
    fault = test_broker_faults.crash
    await test_broker_faults.test_clients_stay_connected_and_get_everything_when_the_broker(
        world, broker, fault
    )


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "a client goes half-open": half_open,
    "a full queue drops its oldest": test_backlog.test_of_what_a_client_missed_the_newest_hundred_wait,
    "a slow client is overrun": (
        test_backlog.test_a_burst_that_overruns_a_slow_client_is_announced_by_the_number_of_the_lost
    ),
    "events are returned many times": test_returned.test_events_that_are_returned_many_times_keep_their_places,
}
FRAGILE_SCENARIOS: Final[Mapping[str, FragileScenario]] = {
    "a replica is killed": replicas,
    "the broker crashes": crash,
    "the broker restarts with a backlog": test_broker_faults.test_a_backlog_outlives_a_restart_of_the_broker,
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
async def test_the_same_holds_on_quorum_queues_when(world: World, scenario: Scenario) -> None:
    await scenario(world)


@pytest.mark.parametrize("scenario", FRAGILE_SCENARIOS.values(), ids=FRAGILE_SCENARIOS)
async def test_the_same_holds_on_quorum_queues_of_a_broker_of_its_own_when(
    fragile_world: World, fragile_broker: PrivateRabbitMQ, scenario: FragileScenario
) -> None:
    await scenario(fragile_world, fragile_broker)
