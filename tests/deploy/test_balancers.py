"""`deploy/nginx` and `deploy/haproxy`: the real programs, TLS, two real replicas, and a replica that leaves."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from contracts.close_codes import CloseCode
from realtime_service.embedded.loopback import free_ports
from tests.deploy.conftest import SetUpBroker
from tests.service.harness.checker import Audience
from tests.service.harness.history import Connection
from tests.service.harness.recorder import Recorder
from tests.service.harness.replica import Replica
from tests.service.harness.waiting import LOOK_SECONDS, until, until_true
from tests.service.harness.world import World, token, verdict
from tests.support.balancers import Balancer, Kind, running_balancer, unused_address
from tests.web.clients import Client


@pytest.fixture(params=["nginx", "haproxy"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which of the two."""
    chosen: Kind = request.param
    return chosen


class Balanced:
    """Two replicas on fixed ports, and the balancer in front."""

    def __init__(self, kind: Kind, world: World, balancer: Balancer) -> None:
        self.kind = kind
        self.world = world
        self.balancer = balancer
        self.replicas: dict[int, Replica] = {}

    async def connect(self, diagnosis: object, **query: str) -> Client:
        """A client with a good token, before its welcome."""
        query = {"token": token(), **query}
        url = self.balancer.url(f"/ws/{diagnosis}?{urlencode(query)}")
        return await Client.open(url, ssl=self.balancer.authority.trusting())

    async def get(self, path: str) -> int:
        """The status of an HTTP request."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                f"https://localhost:{self.balancer.port}{path}", ssl=self.balancer.authority.trusting()
            ) as answer,
        ):
            return answer.status

    def places_of(self, connections: set[str]) -> dict[str, str]:
        """Which replica holds a connection, as the logs tell it."""
        return {
            line["connection"]: replica.address
            for replica in self.replicas.values()
            for line in replica.said("connection_opened")
            if line["connection"] in connections
        }

    async def start(self, port: int) -> Replica:
        """A replica on one of the two ports, once the balancer may know of it."""
        self.replicas[port] = replica = await self.world.start_replica(port=port, drain_seconds=1.5)

        def found_ready() -> bool:
            lines = replica.said("http_request")
            return any(line["path"] == "/readyz" and line["status"] == 200 for line in lines)

        if self.kind == "haproxy":  # nginx always tries
            await until(found_ready, "the balancer finds it ready")
        return replica


@asynccontextmanager
async def balanced(world: World, kind: Kind, programs: dict[Kind, Path]) -> AsyncIterator[Balanced]:
    """Everything up, both replicas known to be there."""
    ports = free_ports(2)
    with running_balancer(kind, programs[kind], [f"127.0.0.1:{port}" for port in ports]) as balancer:
        setting = Balanced(kind, world, balancer)
        await asyncio.gather(*map(setting.start, ports))

        async def passes() -> bool:
            return await setting.get("/livez") == 200

        await until_true(passes, "requests pass")
        yield setting


class Returning:
    """A named client that comes back at once, whatever ended its connection; a `checker.Watching`."""

    def __init__(self, diagnosis: int, setting: Balanced) -> None:
        self.name = f"phone-{diagnosis}"
        self.diagnosis = diagnosis
        self.connections: list[Connection] = []
        self.failures: list[str] = []
        """Handshakes that did not succeed."""
        self._setting = setting

    @property
    def is_welcome(self) -> bool:
        """Whether its newest connection was welcomed and is open."""
        return bool(self.connections) and self.connections[-1].is_open

    async def run(self) -> None:
        while True:
            try:
                client = await self._setting.connect(self.diagnosis, client_id=self.name)
            except (OSError, WebSocketException) as error:
                self.failures.append(repr(error))
                await asyncio.sleep(LOOK_SECONDS)
                continue
            connection = Connection(self.name)
            self.connections.append(connection)
            try:
                while True:
                    connection.hear(json.loads(await client.socket.recv()))
                    connection.proven = len(connection.events)  # its library answers PINGs by itself
            except ConnectionClosed as end:
                connection.code = end.rcvd.code if end.rcvd else 1006
            finally:
                await client.leave()


async def test_a_rolling_upgrade_behind_a_balancer_loses_nothing(
    kind: Kind, world: World, set_up_broker: SetUpBroker, balancer_programs: dict[Kind, Path]
) -> None:
    """One replica after the other drains and is replaced, while events are published and clients come back."""
    async with balanced(world, kind, balancer_programs) as setting, asyncio.TaskGroup() as group:
        clients = [Returning(world.diagnosis(), setting) for _ in range(6)]
        tasks = [group.create_task(client.run()) for client in clients]
        await until(lambda: all(client.is_welcome for client in clients), "all are welcome")
        async with Recorder(set_up_broker.url("publisher")) as recorder:
            upgraded = asyncio.Event()

            async def publish() -> None:
                while not upgraded.is_set():
                    for client in clients:
                        await recorder.publish(client.diagnosis, 1, pause=0.005)

            publishing = group.create_task(publish())
            for port, replica in list(setting.replicas.items()):
                assert await replica.stop() == 0
                await setting.start(port)
            upgraded.set()
            await publishing
            for client in clients:
                found = await verdict(recorder, client.diagnosis, [Audience(client.name, [client])])
                assert not found.faults
                assert not found.dropped
        for task in tasks:
            task.cancel()
    assert not [failure for client in clients for failure in client.failures]
    ends = {connection.code for client in clients for connection in client.connections[:-1]}
    assert ends == {CloseCode.RESTARTING}
    assert all(len(client.connections) > 1 for client in clients), (
        "each replica was replaced: all had to move"
    )


async def test_clients_of_a_diagnosis_meet_on_one_replica_and_diagnoses_are_spread(
    kind: Kind, world: World, balancer_programs: dict[Kind, Path]
) -> None:
    async with balanced(world, kind, balancer_programs) as setting:
        places: set[frozenset[str]] = set()
        for _ in range(12):
            diagnosis = world.diagnosis()
            clients = [await setting.connect(diagnosis) for _ in range(3)]
            ids = {(await client.welcome())["connection_id"] for client in clients}
            await until(lambda: setting.places_of(ids).keys() == ids, "the replicas' logs tell of all")  # noqa: B023
            seen = frozenset(setting.places_of(ids).values())
            assert len(seen) == 1
            places.add(seen)
            for client in clients:
                await client.leave()
        assert len(places) == 2


async def test_no_token_is_logged_and_the_inside_stays_inside(
    kind: Kind, world: World, balancer_programs: dict[Kind, Path]
) -> None:
    """Also where one replica is dead, or all are: errors quote requests."""
    replica = await world.start_replica()
    secret = token()
    with running_balancer(
        kind, balancer_programs[kind], [replica.address], dead=[unused_address()]
    ) as balancer:
        setting = Balanced(kind, world, balancer)
        for _ in range(6):
            client = await setting.connect(world.diagnosis(), token=secret)
            await client.welcome()
            await client.leave()
        for path in ("/metrics", "/readyz", "/console", "/", "/ws", "/ws/1/2", "/ws/../metrics"):
            assert await setting.get(f"{path}?token={secret}") == 404, path
        assert await setting.get(f"/ws/status?token={secret}") == 401
        await replica.stop()
        with pytest.raises(InvalidStatus, match="HTTP 50"):
            await setting.connect(world.diagnosis(), token=secret)
        log = balancer.directory / "log"
        await until(lambda: log.read_text().count('"path":"/ws/') >= 8, "all requests are logged")
        assert secret not in balancer.said()
        assert "token" not in balancer.said()


async def test_a_certificate_of_somebody_else_is_refused_by_clients(
    kind: Kind, world: World, balancer_programs: dict[Kind, Path]
) -> None:
    replica = await world.start_replica()
    with (
        running_balancer(
            kind, balancer_programs[kind], [replica.address], dead=[unused_address()]
        ) as balancer,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        await Client.open(balancer.url(f"/ws/{world.diagnosis()}?token={token()}"))
