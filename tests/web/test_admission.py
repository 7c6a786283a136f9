"""Who may knock: pages, addresses, and how many connections a user has."""

from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from realtime_service.web.admission import BURST_SECONDS, client_address
from tests.web.clients import Client, RawClient
from tests.web.conftest import StartReplica
from tests.web.replica import OWNER, STRANGER, Replica, Visitors, token

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1"))
NOT_ALLOWED = (1008, "not authenticated or not allowed")
APP = "https://app.example.org"


# Addresses


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.7, nonsense"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("fd00::1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        ("", ["198.51.100.7"], ""),
    ],
)
def test_an_address_is_what_the_last_trusted_proxy_saw(peer: str, forwarded: list[str], address: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == address


# Pages


@pytest.fixture(scope="module")
async def guarded(start_replica: StartReplica) -> AsyncIterator[Replica]:
    """Browsers on one page alone may connect."""
    async with start_replica(allowed_origins=(APP,), receipt_timeout_seconds=30) as replica:
        yield replica


@pytest.mark.parametrize("origin", [APP, APP.upper(), None])
async def test_the_named_page_and_apps_are_welcome(guarded: Replica, origin: str | None) -> None:
    url = guarded.url(guarded.diagnoses.add(), token=token())
    client = await Client.open(url, **({"additional_headers": {"Origin": origin}} if origin else {}))
    await client.welcome()
    await client.leave()


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", f"{APP}.evil.example", "http://app.example.org"]
)
async def test_a_browser_on_another_page_is_refused(guarded: Replica, origin: str) -> None:
    url = guarded.url(guarded.diagnoses.add(), token=token())
    client = await Client.open(url, additional_headers={"Origin": origin})
    assert await client.closed() == NOT_ALLOWED


async def test_any_page_is_welcome_by_default(replica: Replica) -> None:
    url = replica.url(replica.diagnoses.add(), token=token())
    client = await Client.open(url, additional_headers={"Origin": "https://anywhere.example"})
    await client.welcome()
    await client.leave()


# Users


async def test_a_user_holds_so_many_connections_and_others_are_not_concerned(
    start_replica: StartReplica,
) -> None:
    async with start_replica(max_connections_per_user=2) as replica, Visitors(replica) as visitors:
        mine, theirs = replica.diagnoses.add(), replica.diagnoses.add(STRANGER)
        held = [await visitors.welcomed(mine), await visitors.welcomed(replica.diagnoses.add())]
        assert await (await visitors.connect(mine)).closed() == (1013, "not now")
        await visitors.welcomed(theirs, user=STRANGER)
        await held[0].leave()
        await replica.gone(mine)
        await visitors.welcomed(mine, user=OWNER)


# Addresses that come too often


async def test_an_address_that_is_refused_too_often_waits_and_others_do_not(
    start_replica: StartReplica,
) -> None:
    """Bad tokens, one after the other; a good client at another address behind the same balancer is welcome."""
    async with start_replica(
        address_refusals_per_second=0.1, trusted_proxies=(ip_network("127.0.0.1"),)
    ) as replica:
        diagnosis = replica.diagnoses.add()
        bad, good = replica.path(diagnosis, token="x.y.z"), replica.path(diagnosis, token=token())
        for _ in range(round(0.1 * BURST_SECONDS)):
            client = await RawClient.open(replica.port, good, headers={"X-Forwarded-For": "192.0.2.1"})
            assert (await client.message())["type"] == "connect"
            await client.abort()
            client = await RawClient.open(replica.port, bad, headers={"X-Forwarded-For": "192.0.2.1"})
            assert await client.closed() == NOT_ALLOWED
            await client.abort()
        with pytest.raises(ConnectionRefusedError, match="429"):
            await RawClient.open(replica.port, good, headers={"X-Forwarded-For": "192.0.2.1"})
        client = await RawClient.open(replica.port, good, headers={"X-Forwarded-For": "192.0.2.2"})
        assert (await client.message())["type"] == "connect"
        await client.abort()


async def test_a_client_cannot_choose_its_address(start_replica: StartReplica) -> None:
    async with start_replica(address_refusals_per_second=0.05) as replica:
        bad = replica.path(replica.diagnoses.add(), token="x.y.z")
        client = await RawClient.open(replica.port, bad, headers={"X-Forwarded-For": "192.0.2.1"})
        assert await client.closed() == NOT_ALLOWED
        await client.abort()
        with pytest.raises(ConnectionRefusedError, match="429"):
            await RawClient.open(replica.port, bad, headers={"X-Forwarded-For": "192.0.2.2"})


async def test_new_connections_of_an_address_are_limited_where_that_is_set(
    start_replica: StartReplica,
) -> None:
    async with start_replica(address_connections_per_second=0.1) as replica, Visitors(replica) as visitors:
        diagnosis = replica.diagnoses.add()
        for _ in range(round(0.1 * BURST_SECONDS)):
            await visitors.welcomed(diagnosis)
        with pytest.raises(ConnectionRefusedError, match="429"):
            await visitors.raw(diagnosis)


async def test_good_clients_of_one_address_are_not_limited_by_default(replica: Replica) -> None:
    """A clinic's network comes back, and all its people with it."""
    async with Visitors(replica) as visitors:
        diagnosis = replica.diagnoses.add()
        for _ in range(50):
            await visitors.welcomed(diagnosis)
