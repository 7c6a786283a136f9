"""Three replicas of the service behind a balancer, and clients of some diagnoses spread over them."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import aiohttp

from tests.service.harness.checker import Audience, Verdict
from tests.service.harness.clients import ProcessClient
from tests.service.harness.proxy import Proxy
from tests.service.harness.recorder import Recorder
from tests.service.harness.replica import SERVE, Replica
from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import World, streaming_considerately, verdict

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
class Watched:
    """A diagnosis, who watches it, and what was published to it."""

    world: World
    diagnosis: int
    address: str
    recorder: Recorder
    chance: random.Random
    unnamed: list[ProcessClient] = field(default_factory=list)
    """They stay; their first connections are on different replicas."""
    devices: list[ProcessClient] = field(default_factory=list)
    guests: list[ProcessClient] = field(default_factory=list)
    """Unnamed, coming and going, and killed."""

    async def people(self, unnamed: int, *, moving: bool) -> None:
        """Clients of every kind come, one after the other, so that each replica gets some."""
        for number in range(unnamed):
            self.unnamed.append(await self._come(f"unnamed {number}"))
        self.devices.append(await self._come("the phone that stays", client_id="phone"))
        if moving:
            self.devices.append(await self._come("the tablet that moves", moves=True, client_id="tablet"))
            await self.guest()

    async def guest(self) -> None:
        """One guest more."""
        self.guests.append(await self._come(f"guest {len(self.guests)}", moves=True))

    async def _come(self, name: str, *, moves: bool = False, **query: str) -> ProcessClient:
        url = self.world.url(self.diagnosis, address=self.address, **query)
        ack, seed = self.chance.random() < 0.5, self.chance.randrange(2**32) if moves else None
        client = await self.world.client(name, url, ack=ack, seed=seed)
        await until(lambda: any(each.welcome for each in client.connections), f"{name} is welcome")
        return client

    @property
    def everybody(self) -> list[ProcessClient]:
        """All clients."""
        return [*self.unnamed, *self.devices, *self.guests]

    @property
    def staying(self) -> list[ProcessClient]:
        """Those that do not leave by themselves."""
        return [*self.unnamed, self.devices[0]]

    @property
    def audiences(self) -> list[Audience]:
        """Who is owed everything, whatever befalls a replica: what a device proved is not owed to the unnamed."""
        together = Audience("all together", self.everybody)
        return [together, *(Audience(device.name, [device]) for device in self.devices)]

    @property
    def settled_in(self) -> list[Audience]:
        """Unnamed clients whose first connection is still open: each of them is owed everything."""
        stayed = [each for each in self.unnamed if len(each.connections) == 1 and each.is_welcome]
        return [Audience(each.name, [each]) for each in stayed]

    async def judged(self) -> Verdict:
        """What the checker says of everybody, once all are back and have heard what came last."""
        while not await self._all_hear():
            pass
        while True:
            settled_in = self.settled_in
            found = await verdict(self.recorder, self.diagnosis, [*self.audiences, *settled_in])
            if settled_in == self.settled_in:  # a socket that was reset may be noticed late
                return found

    async def _all_hear(self) -> bool:
        """Publish one event more, to everybody who stays; false when somebody went away meanwhile."""
        await until(lambda: all(each.is_welcome for each in self.staying), "all are back")
        newest = [client.connections[-1] for client in self.staying]
        await self.recorder.publish(self.diagnosis, 1)
        last = max(self.recorder.confirmed(self.diagnosis))
        await until(
            lambda: all(last in each.proven_numbers[-1:] or not each.is_open for each in newest),
            "everybody who is connected has the last event",
        )
        return all(each.is_open for each in newest)

    async def leave(self) -> None:
        """All clients end; what they had is still here."""
        await asyncio.gather(*(client.stop() for client in self.everybody))


@dataclass
class Cluster:
    """Replicas, who watches through them, and what is published."""

    world: World
    balancer: Balancer
    chance: random.Random
    recorder: Recorder
    program: Sequence[str] = SERVE
    replicas: list[Replica] = field(default_factory=list)
    gone: list[Replica] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)

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
        self.gone.append(replica)

    def story(self) -> str:
        """What the replicas said and the clients saw, by time: a run that failed may not fail again."""
        said = [
            (line.get("timestamp", ""), replica.address, line)
            for replica in (*self.gone, *self.replicas)
            for line in replica.logs
            if line.get("event") != "http_request"
        ]
        seen = [
            f"{watched.diagnosis} {client.name}: closed {visit.code}, gaps {visit.gaps}, numbers {visit.numbers}"
            for watched in self.watched
            for client in watched.everybody
            for visit in client.connections
        ]
        return "\n".join(
            [*(f"{at} {where} {line}" for at, where, line in sorted(said, key=itemgetter(0))), *seen]
        )

    @asynccontextmanager
    async def people(self, chance: random.Random) -> AsyncIterator[None]:
        """Clients of two diagnoses, as long as this lasts."""
        self.chance = chance
        at, recorder = self.balancer.address, self.recorder
        self.watched = [Watched(self.world, self.world.diagnosis(), at, recorder, chance) for _ in range(2)]
        try:
            crowded, quiet = self.watched
            await crowded.people(REPLICAS, moving=True)
            await quiet.people(1, moving=False)
            yield
        finally:
            await asyncio.gather(*(each.leave() for each in self.watched))

    @asynccontextmanager
    async def streaming(self, count: int) -> AsyncIterator[None]:
        """Publish `count` events to each diagnosis meanwhile; return when all are confirmed."""
        async with AsyncExitStack() as stack:
            for each in self.watched:
                await stack.enter_async_context(
                    streaming_considerately(self.recorder, each.diagnosis, count, each.audiences)
                )
            yield

    async def is_under_way(self, events: int) -> None:
        """Wait for so many events more."""
        diagnosis = self.watched[0].diagnosis
        last = len(self.recorder.confirmed(diagnosis)) + events
        await until(lambda: len(self.recorder.confirmed(diagnosis)) >= last, "the stream is under way")

    def somebody(self) -> ProcessClient:
        """One of all clients that live."""
        return self.chance.choice([client for each in self.watched for client in each.everybody])

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
    """Three replicas, without clients; what is random in it follows from the seed."""
    chance = random.Random(seed)
    async with Balancer(chance) as balancer:
        made = Cluster(world, balancer, chance, await world.recorder(), program)
        await asyncio.gather(*(made.start() for _ in range(REPLICAS)))
        yield made
