"""What can befall a cluster while events are published: its replicas, its broker, its database, its clients."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.cluster import Cluster
from tests.service.harness.replica import Replica
from tests.service.harness.waiting import until
from tests.service.harness.world import RECEIPT_SECONDS

GHOST_SECONDS: Final = 5.0
"""Long enough for the broker to give a silent replica up, with a heartbeat of 1 s."""
NAP_SECONDS: Final = 1.0
AWAY_SECONDS: Final = 1.0
"""How long the database, or memory, is away."""
AT_THE_DOOR: Final = 20
"""Events published while their diagnosis has no queue."""
TUNNEL_SECONDS: Final = RECEIPT_SECONDS + 1.0

Fault = Callable[[Cluster, PrivateRabbitMQ], Awaitable[None]]


# Replicas


async def kill_the_active(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGKILL, and another comes in its place."""
    replica = await cluster.active()
    cluster.forget(replica)
    await replica.kill()
    await cluster.start()


async def freeze_the_active(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGSTOP until the broker has given it up, then it wakes: a ghost."""
    await _freeze_the_active(cluster, GHOST_SECONDS)


async def nap(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGSTOP, but it wakes in time."""
    await _freeze_the_active(cluster, NAP_SECONDS)


async def _freeze_the_active(cluster: Cluster, seconds: float) -> None:
    replica = await cluster.active()
    address = replica.address
    cluster.balancer.targets.remove(address)
    replica.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)  # the fault itself, not a wait
    replica.signal(signal.SIGCONT)
    cluster.balancer.targets.append(address)


async def roll(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGTERM to one after the other, after their successors came."""
    old = list(cluster.replicas)
    await asyncio.gather(*(cluster.start() for _ in old))
    for replica in old:
        cluster.forget(replica)
        assert await replica.stop() == 0


# The broker


async def kill_the_broker(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGKILL, and start again."""
    await asyncio.to_thread(broker.flush)
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.restart)


async def restart_the_broker(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """Stop in good order, and start again."""
    await asyncio.to_thread(broker.restart)


async def freeze_the_broker(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGSTOP until a replica gives it up."""
    await until(lambda: any(map(_is_connected, cluster.replicas)), "a replica is connected")
    before = _losses(cluster)
    broker.pause()
    try:
        await until(lambda: _losses(cluster) > before, "the silent broker is given up")
    finally:
        broker.resume()


def _is_connected(replica: Replica) -> bool:
    return len(replica.said("broker_connected")) > len(replica.said("broker_lost"))


def _losses(cluster: Cluster) -> int:
    return sum(len(replica.said("broker_lost")) for replica in cluster.replicas)


async def close_all_connections(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """Throw everybody out, as an operator does."""
    await asyncio.to_thread(broker.ctl, "close_all_connections", "maintenance")


async def raise_a_memory_alarm(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """Whoever publishes is blocked for a while, the replicas' relays too."""
    await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "0.0000001")
    try:
        await asyncio.sleep(AWAY_SECONDS)  # the fault itself
    finally:
        await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "0.4")


async def delete_a_queue(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """An operator's mistake: the shared queue is gone under traffic. Clients are told of the gap.

    Nothing is published while the new one is bound: that is the moment for which no order is promised.
    """
    diagnosis = cluster.chance.choice(cluster.watched).diagnosis
    async with cluster.recorder.turn:
        before = _provisions(cluster)
        await asyncio.to_thread(cluster.world.delete, f"diagnosis.{diagnosis}")
        await cluster.recorder.publish_in_turn(diagnosis, AT_THE_DOOR)
        await until(lambda: _provisions(cluster) > before, "there is a queue again")


def _provisions(cluster: Cluster) -> int:
    return sum(len(replica.said("diagnosis_provisioned")) for replica in cluster.replicas)


# What else a replica needs


async def take_the_database_away(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """Every query fails for a while."""
    database = cluster.world.database
    database.execute("ALTER TABLE diagnoses RENAME TO elsewhere")
    try:
        await asyncio.sleep(AWAY_SECONDS)  # the fault itself
    finally:
        database.execute("ALTER TABLE elsewhere RENAME TO diagnoses")


FAULTS: Final[Mapping[str, Fault]] = {
    "kill": kill_the_active,
    "nap": nap,
    "freeze": freeze_the_active,
    "roll": roll,
    "broker killed": kill_the_broker,
    "broker restarted": restart_the_broker,
    "broker frozen": freeze_the_broker,
    "connections closed": close_all_connections,
    "memory alarm": raise_a_memory_alarm,
    "queue deleted": delete_a_queue,
    "database away": take_the_database_away,
}
LOSSY: Final = frozenset({freeze_the_active, freeze_the_broker, delete_a_queue})
"""Events may be dropped, as long as clients are told."""


# Clients


async def calm(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """Clients come and go, and nothing befalls them."""


async def freeze_a_client(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGSTOP, for less or for more than it may owe a receipt."""
    client = cluster.somebody()
    with suppress(ProcessLookupError):  # a guest that was killed
        client.freeze()
        await asyncio.sleep(cluster.chance.uniform(0.2, 2 * RECEIPT_SECONDS))  # the fault itself
        client.thaw()


async def kill_a_client(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """SIGKILL to the newest guest; another comes."""
    watched = cluster.watched[0]
    await watched.guests[-1].kill()
    await watched.guest()


async def into_a_tunnel(cluster: Cluster, broker: PrivateRabbitMQ) -> None:
    """Some clients' sockets are dead in one direction or both; after a while their apps notice."""
    to_client, to_server = cluster.chance.choice([(True, False), (False, True), (True, True)])
    reset = cluster.balancer.swallow(
        lambda: cluster.chance.random() < 0.4, to_client=to_client, to_server=to_server
    )
    await asyncio.sleep(TUNNEL_SECONDS)  # the fault itself
    reset()


CLIENT_FAULTS: Final = (calm, freeze_a_client, kill_a_client, into_a_tunnel)

ENDS_WITH: Final[Mapping[Fault, frozenset[int]]] = {
    kill_the_active: frozenset({1006}),
    freeze_the_active: frozenset({4408}),
    roll: frozenset({1012}),
    freeze_a_client: frozenset({1006, 4408}),
    into_a_tunnel: frozenset({1006, 4408}),
}
"""How a fault may end connections of clients that stay. Those that are not named here end none."""
