"""When a replica has no room, no database, no broker or no future: newcomers come back later, the others stay."""

import asyncio
import time

import pytest
from websockets.exceptions import ConnectionClosed
from yarl import URL

from contracts.close_codes import REASONS, CloseCode
from realtime_service.embedded.rabbitmq import Broker
from tests.service.harness.proxy import Proxy
from tests.service.harness.waiting import until, until_true
from tests.web.conftest import StartReplica
from tests.web.replica import STRANGER, Replica, Visitors, token

TRY_LATER = (1013, REASONS[CloseCode.TRY_LATER])


async def test_more_connections_than_fit_are_told_to_come_back(start_replica: StartReplica) -> None:
    async with start_replica(max_connections=2) as replica, Visitors(replica) as visitors:
        diagnosis = replica.diagnoses.add()
        first, second = [await visitors.welcomed(diagnosis) for _ in range(2)]
        for url in (replica.url(diagnosis, token=token()), replica.url(diagnosis)):
            assert await (await visitors.open(url)).closed() == TRY_LATER
        await replica.feedback(diagnosis, 1)
        assert [await first.numbers(1), await second.numbers(1)] == [[1], [1]]
        await first.leave()
        await until(
            lambda: replica.service.manager.get_connection_count(diagnosis) == 1, "the first client is gone"
        )
        await visitors.welcomed(diagnosis)


async def test_while_the_database_is_away_newcomers_come_back_later_and_the_others_stay(
    start_replica: StartReplica, replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    staying = await visitors.welcomed(diagnosis)
    replica.diagnoses.execute("ALTER TABLE diagnoses RENAME TO away")
    try:
        assert await (await visitors.connect(diagnosis)).closed() == TRY_LATER
        assert await (await visitors.connect(diagnosis, user=STRANGER)).closed() == TRY_LATER
        assert await (await visitors.open(replica.url(diagnosis, token="x"))).closed() == (
            1008,
            REASONS[CloseCode.NOT_ALLOWED],
        )
        await replica.feedback(diagnosis, 1)
        assert await staying.numbers(1) == [1]
    finally:
        replica.diagnoses.execute("ALTER TABLE away RENAME TO diagnoses")
    await visitors.welcomed(diagnosis)


async def test_while_the_broker_is_away_newcomers_come_back_later_and_the_others_stay(
    broker: Broker, start_replica: StartReplica
) -> None:
    url = URL(broker.amqp_url)
    async with Proxy(f"{url.host}:{url.port}") as proxy:
        near = url.with_host("127.0.0.1").with_port(int(proxy.address.rpartition(":")[2]))
        async with (
            start_replica(amqp_url=str(near), join_timeout_seconds=1) as replica,
            Visitors(replica) as visitors,
        ):
            known, new = replica.diagnoses.add(), replica.diagnoses.add()
            staying = await visitors.welcomed(known)
            device = await visitors.welcomed(known, client_id="phone")
            there, proxy.target = proxy.target, "127.0.0.1:1"
            proxy.cut()
            for diagnosis in (known, new):
                started = time.monotonic()
                assert await (await visitors.connect(diagnosis)).closed() == TRY_LATER
                assert time.monotonic() - started < 3
            await asyncio.gather(staying.ping(), device.ping())
            await replica.feedback(known, 1)
            proxy.target = there
            assert await staying.numbers(1) == [1]
            assert await device.numbers(1) == [1]
            await until_true(lambda: is_welcome(visitors, new), "newcomers are welcome again")


async def is_welcome(visitors: Visitors, diagnosis: int) -> bool:
    client = await visitors.connect(diagnosis)
    try:
        await client.welcome()
    except ConnectionClosed:
        return False
    return True


async def test_a_replica_that_drains_refuses_newcomers_and_sends_the_others_away(
    start_replica: StartReplica,
) -> None:
    async with start_replica(drain_seconds=1) as replica, Visitors(replica) as visitors:
        diagnosis = replica.diagnoses.add()
        clients = [await visitors.welcomed(diagnosis) for _ in range(5)]
        drain = asyncio.create_task(replica.service.drain())
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError) as refused:
            await visitors.raw(diagnosis)
        assert refused.value.args == (503,)
        await clients[0].ping()
        restarting = (1012, REASONS[CloseCode.RESTARTING])
        assert await asyncio.gather(*(client.closed() for client in clients)) == [restarting] * 5
        await drain


async def test_who_was_about_to_come_in_when_the_drain_began_is_sent_away_too(
    start_replica: StartReplica,
) -> None:
    async with start_replica() as replica, Visitors(replica) as visitors:
        client = await visitors.open(replica.url(replica.diagnoses.add()))
        await replica.service.drain()
        await client.send({"type": "auth", "token": token()})
        assert await client.closed() == (1012, REASONS[CloseCode.RESTARTING])
