"""Three replicas of the service behind a balancer, and clients of one diagnosis spread over them."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from tests.service.harness.checker import Audience, Verdict
from tests.service.harness.clients import ProcessClient
from tests.service.harness.proxy import Proxy
from tests.service.harness.recorder import Recorder
from tests.service.harness.replica import SERVE, Replica
from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import World, verdict

REPLICAS: Final = 3
RELAYS_SENT: Final = re.compile(r"^realtime_relays_sent_total (\S+)$", re.MULTILINE)


class Balancer(Proxy):
    """Sends each connection to one of several replicas, in turns that begin anywhere."""

    def __init__(self, chance: random.Random) -> None:
        self.targets: list[str] = []
        self._turn = chance.randrange(REPLICAS)
        super().__init__("")

    @property
    def target(self) -> str:
        """Whose turn it is."""
        self._turn += 1
        return self.targets[self._turn % len(self.targets)]

    @target.setter
    def target(self, _: str) -> None:
        """The base class' choice does not count."""


@dataclass
class Cluster:
    """Replicas, who watches through them, and what is published."""

    world: World
    balancer: Balancer
    chance: random.Random
    diagnosis: int
    recorder: Recorder
    program: Sequence[str] = SERVE
    replicas: list[Replica] = field(default_factory=list)
    unnamed: list[ProcessClient] = field(default_factory=list)
    """They stay and acknowledge; their first connections are on different replicas."""
    devices: list[ProcessClient] = field(default_factory=list)
    guests: list[ProcessClient] = field(default_factory=list)
    """Unnamed, with pongs, coming and going."""

    async def start(self) -> Replica:
        """One replica more."""
        replica = await self.world.start_replica(
            self.program, amqp_url=f"{self.world.amqp_url}?heartbeat=1", drain_seconds=1
        )
        self.replicas.append(replica)
        self.balancer.targets.append(replica.address)
        return replica

    def forget(self, replica: Replica) -> None:
        """Send it nobody any more."""
        self.balancer.targets.remove(replica.address)
        self.replicas.remove(replica)

    async def people(self) -> None:
        """Clients of every kind come, one after the other, so that each replica gets some."""
        url = self.world.url(self.diagnosis, address=self.balancer.address)
        for number in range(REPLICAS):
            self.unnamed.append(await self._come(f"unnamed {number}", url, ack=True))
        phone, tablet = (
            self.world.url(self.diagnosis, address=self.balancer.address, client_id=name)
            for name in ("phone", "tablet")
        )
        self.devices.append(await self._come("the phone that stays", phone, ack=True))
        self.devices.append(await self._come("the tablet that moves", tablet, ack=True, seed=True))
        self.guests.append(await self._come("the guest", url, seed=True))

    async def _come(self, name: str, url: str, *, ack: bool = False, seed: bool = False) -> ProcessClient:
        number = self.chance.randrange(2**32) if seed else None
        client = await self.world.client(name, url, ack=ack, seed=number)
        await until(lambda: any(each.welcome for each in client.connections), f"{name} is welcome")
        return client

    @property
    def everybody(self) -> list[ProcessClient]:
        """All clients."""
        return [*self.unnamed, *self.devices, *self.guests]

    @property
    def audiences(self) -> list[Audience]:
        """Who is owed everything, whatever befalls a replica."""
        together = Audience("the unnamed together", [*self.unnamed, *self.guests])
        return [together, *(Audience(device.name, [device]) for device in self.devices)]

    @property
    def settled_in(self) -> list[Audience]:
        """Unnamed clients with one connection: each of them is owed everything."""
        return [Audience(each.name, [each]) for each in self.unnamed if len(each.connections) == 1]

    async def judged(self) -> Verdict:
        """What the checker says of everybody."""
        return await verdict(self.recorder, self.diagnosis, [*self.audiences, *self.settled_in])

    async def is_under_way(self, events: int) -> None:
        """Wait for so many events more."""
        last = len(self.recorder.confirmed(self.diagnosis)) + events
        await until(lambda: len(self.recorder.confirmed(self.diagnosis)) >= last, "the stream is under way")

    async def active(self) -> Replica:
        """The replica that relays to the others. Call it while events are published."""
        before = {id(replica): await self._relays(replica) for replica in self.replicas}
        found: list[Replica] = []

        async def one_relays() -> bool:
            found[:] = [each for each in self.replicas if await self._relays(each) > before[id(each)]]
            return bool(found)

        await until_true(one_relays, "a replica relays")
        return found[-1]

    @staticmethod
    async def _relays(replica: Replica) -> float:
        url = f"http://{replica.address}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            found = RELAYS_SENT.search(await answer.text())
            return float(found[1]) if found else 0.0


@asynccontextmanager
async def cluster(world: World, seed: int, program: Sequence[str] = SERVE) -> AsyncIterator[Cluster]:
    """Three replicas with clients; what is random in it follows from the seed."""
    chance = random.Random(seed)
    async with Balancer(chance) as balancer:
        made = Cluster(world, balancer, chance, world.diagnosis(), await world.recorder(), program)
        await asyncio.gather(*(made.start() for _ in range(REPLICAS)))
        await made.people()
        try:
            yield made
        finally:
            await asyncio.gather(*(client.stop() for client in made.everybody))
