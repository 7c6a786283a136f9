"""The reference client keeps its word whatever breaks: in a real browser, and in Node."""

import asyncio
import re
from typing import Any, Final

import pytest

from contracts.close_codes import ADVICE, Advice
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from realtime_service.web.files import static
from tests.browser.clients import InChromium, Start
from tests.browser.conftest import Place
from tests.service.harness.proxy import Proxy
from tests.service.harness.waiting import until
from tests.service.harness.world import RECEIPT_SECONDS, World, token

SOON: Final = 3.0
"""Seconds for which a token is good that expires in a test."""


def address(world: World) -> str:
    """Where the world's replica is."""
    assert world.replica is not None
    return world.replica.address


@pytest.mark.parametrize("name", ["client.js", "client.dart"])
def test_the_advice_is_that_of_the_contract(name: str) -> None:
    """What is in neither list is to come back with a growing delay."""
    source = static(name).decode()

    def listed(what: str) -> set[int]:
        found = re.search(rf"const _?{what} = (?:new Set\(\[|\{{)([\d, ]+)", source)
        assert found
        return {int(number) for number in found[1].split(", ")}

    stay, at_once = ("STAY_AWAY", "AT_ONCE") if name == "client.js" else ("stayAway", "atOnce")
    assert listed(stay) == {code for code, advice in ADVICE.items() if advice is Advice.STAY_AWAY}
    coming = (Advice.COME_BACK, Advice.RENEW_TOKEN)
    assert listed(at_once) == {code for code, advice in ADVICE.items() if advice in coming}


@pytest.mark.parametrize("place", ["chromium", "node", "ws"])
@pytest.mark.timeout(180)  # npm may be slow
async def test_events_arrive_once_and_in_order(world: World, start: Start, place: Place) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    await recorder.publish(diagnosis, 3)
    client = await start(address(world), diagnosis, token())
    await client.has_numbers(1, 2, 3)
    await recorder.publish(diagnosis, 2)
    await client.has_numbers(1, 2, 3, 4, 5)
    assert client.welcomes[0]["receipts"] == "pong"
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "they are proven")
    await client.do("client.close()")
    await until(lambda: client.state == "closed", "it leaves")
    assert client.all("error") == client.all("gap") == []


async def test_a_replica_that_is_killed_is_replaced_by_the_next(world: World, start: Start) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    first, second = await world.start_replica(), await world.start_replica()
    async with Proxy(first.address) as balancer:
        client = await start(balancer.address, diagnosis, token(), clientId="phone", receipts="ack")
        await client.is_open()
        await recorder.publish(diagnosis, 5)
        await client.has_numbers(1, 2, 3, 4, 5)
        balancer.target = second.address
        await first.kill()
        await recorder.publish(diagnosis, 5)
        await client.is_open(2)
        await client.has_numbers(*range(1, 11))
    assert client.codes[0] == 1006
    assert client.welcomes[1]["resumed"] is True
    assert client.all("gap") == []


async def test_a_replica_that_restarts_sends_it_on_at_once(world: World, start: Start) -> None:
    diagnosis = world.diagnosis()
    first, second = await world.start_replica(), await world.start_replica()
    async with Proxy(first.address) as balancer:
        client = await start(balancer.address, diagnosis, token())
        await client.is_open()
        balancer.target = second.address
        await first.stop()
        await client.is_open(2)
    assert client.codes[0] == 1012
    assert client.all("waiting")[0]["delay"] <= 250


@pytest.mark.timeout(120)  # RabbitMQ starts twice
async def test_a_broker_that_was_gone_costs_time_and_no_event(
    fragile_world: World, fragile_broker: PrivateRabbitMQ, start: Start
) -> None:
    world = fragile_world
    replica = await world.start_replica(join_timeout_seconds=1)
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    staying = await start(replica.address, diagnosis, token(), clientId="phone", receipts="ack")
    await staying.is_open()
    await recorder.publish(diagnosis, 2)
    await staying.has_numbers(1, 2)
    await asyncio.to_thread(fragile_broker.kill)
    coming = await start(replica.address, diagnosis, token(), clientId="tablet")
    await until(lambda: 1013 in coming.codes, "who comes now is told to come back later")
    await asyncio.to_thread(fragile_broker.restart)
    await coming.is_open()
    await recorder.publish(diagnosis, 2)
    await staying.has_numbers(1, 2, 3, 4)
    await until(lambda: coming.numbers[-1:] == [4], "the newcomer gets them, too")
    assert len(staying.welcomes) == 1
    assert [detail["delay"] <= 1000 * 2**n for n, detail in enumerate(coming.all("waiting"))] == [True] * len(
        coming.codes
    )


async def test_a_token_is_renewed_before_it_expires(world: World, start: Start) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    short = token(seconds=SOON)
    neighbour = world.local_client("does not renew")
    unrenewed = await neighbour.connect(world.url(diagnosis).partition("token=")[0] + f"token={short}")
    client = await start(address(world), diagnosis, short, token())
    await client.is_open()
    await until(lambda: unrenewed.code == 4401, "the first token expires")
    await recorder.publish(diagnosis, 1)
    await client.has_numbers(1)
    assert (len(client.welcomes), client.codes) == (1, [])
    assert client.all("token") == [True, True]


async def test_a_token_that_could_not_be_renewed_is_replaced_at_the_next_connection(
    world: World, start: Start
) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    client = await start(address(world), diagnosis, token(seconds=SOON), *[None] * 2, token())
    await client.is_open(2)
    assert client.codes[0] == 4401
    assert False in client.all("token")
    assert "no token today" in client.all("error")[0]
    await recorder.publish(diagnosis, 1)
    await client.has_numbers(1)


async def test_the_same_device_elsewhere_takes_over_and_the_older_one_stays_away(
    world: World, start: Start
) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    older = await start(address(world), diagnosis, token(), clientId="phone")
    await older.is_open()
    newer = await start(address(world), diagnosis, token(), clientId="phone")
    await newer.is_open()
    await until(lambda: older.state == "closed", "the older one gives way")
    await recorder.publish(diagnosis, 1)
    await newer.has_numbers(1)
    assert (older.codes, older.numbers, newer.codes) == ([4409], [], [])
    await older.do("client.open()")
    await older.is_open(2)
    await until(lambda: newer.codes == [4409], "asked to, it takes over in turn")


async def test_who_is_not_allowed_does_not_ask_again(world: World, start: Start) -> None:
    client = await start(address(world), world.diagnosis(), token(user=1))
    await until(lambda: client.state == "closed", "it gives up")
    assert client.codes == [1008]
    assert client.all("token") == [True]


async def test_a_full_replica_is_asked_again_later(world: World, start: Start) -> None:
    replica = await world.start_replica(max_connections=1)
    diagnosis = world.diagnosis()
    sitting = world.local_client("sits there")
    await sitting.connect(world.url(diagnosis))
    await until(lambda: sitting.is_welcome, "the only place is taken")
    client = await start(replica.address, diagnosis, token())
    await until(lambda: client.codes == [1013], "there is no place")
    await sitting.leave()
    await client.is_open()


async def test_a_named_device_gets_its_backlog_and_is_told_of_a_gap_before_it(
    world: World, start: Start
) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    client = await start(address(world), diagnosis, token(), clientId="phone")
    await client.is_open()
    await client.do("client.close()")
    await until(lambda: client.state == "closed", "it leaves")
    await recorder.publish(diagnosis, 103)
    await client.do("client.open()")
    await client.has_numbers(*range(4, 104))
    assert client.welcomes[1]["gap"] is True
    kinds = [kind for kind, _ in client.reports if kind in ("gap", "event")]
    assert kinds == ["gap"] + ["event"] * 100


async def test_a_device_whose_queue_is_gone_is_told_of_a_gap(world: World, start: Start) -> None:
    diagnosis = world.diagnosis()
    client = await start(address(world), diagnosis, token(), clientId="phone")
    await client.is_open()
    assert client.all("gap") == []  # it is new: there is nothing to miss
    await client.do("client.close()")
    await until(lambda: client.state == "closed", "it leaves")
    queue = world.device_queue(diagnosis)
    await until(lambda: world.depth(queue) == 0, "its queue stays")
    world.delete(queue)
    await client.do("client.open()")
    await until(lambda: client.all("gap") == [{"evicted": None}], "it is told")


async def test_an_event_whose_handler_hangs_comes_again_and_is_handled_once(
    world: World, start: Start
) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    client = await start(address(world), diagnosis, token(), receipts="ack")
    await client.is_open()
    await client.do('globalThis.behaviour = "hang"')
    await recorder.publish(diagnosis, 1)
    await until(lambda: 4408 in client.codes, "it is not acknowledged in time", seconds=RECEIPT_SECONDS + 20)
    await client.is_open(2)
    await client.do('globalThis.behaviour = ""; release()')
    await recorder.publish(diagnosis, 1)
    await client.has_numbers(1, 2)
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "both are acknowledged")


async def test_an_event_whose_handler_fails_comes_again_in_its_place(world: World, start: Start) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    await recorder.publish(diagnosis, 2)
    client = await start(address(world), diagnosis, token(), receipts="ack")
    await client.has_numbers(1, 2)
    await client.do('globalThis.behaviour = "fail"')
    await recorder.publish(diagnosis, 2)
    await until(lambda: client.all("error"), "the handler fails")
    assert set(client.numbers[2:]) == {3}, "the one behind it has to wait"
    await client.do('globalThis.behaviour = ""')
    await until(lambda: client.numbers[-2:] == [3, 4], "both come again")
    await until(lambda: world.depth(f"diagnosis.{diagnosis}") == 0, "both are acknowledged")


async def test_a_dead_network_is_found_out(world: World, start: Start) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    async with Proxy(address(world)) as network:
        client = await start(network.address, diagnosis, token(), pingSeconds=0.5)
        await client.is_open()
        network.swallow(to_client=True, to_server=True)
        await client.is_open(2)
        await recorder.publish(diagnosis, 1)
        await client.has_numbers(1)
    assert client.all("waiting")[0] == {**client.all("waiting")[0], "code": 1006, "reason": "no answer"}


@pytest.mark.parametrize("place", ["chromium"])
async def test_a_browser_keeps_its_name(world: World, start: Start, place: Place, origin: str) -> None:
    diagnosis, recorder = world.diagnosis(), await world.recorder()
    client = await start(address(world), diagnosis, token(), clientId=True)
    assert isinstance(client, InChromium)
    await client.is_open()
    name = await client.page.run("client.clientId")
    await client.page.go("about:blank")
    await recorder.publish(diagnosis, 2)
    options: dict[str, Any] = {"url": f"http://{address(world)}", "diagnosis": diagnosis, "tokens": [token()]}
    await client.load(origin, {**options, "clientId": True})
    await client.has_numbers(1, 2)
    assert await client.page.run("client.clientId") == name
    assert client.welcomes[-1]["resumed"] is True


@pytest.mark.parametrize("place", ["chromium"])
async def test_a_network_that_is_back_is_used_at_once(world: World, start: Start, place: Place) -> None:
    client = await start(address(world), world.diagnosis(), token(), None, token())
    assert isinstance(client, InChromium)
    await client.is_open()
    seen = await client.page.run("""
        client.close();
        client.open(); // there is no token this time
        const before = client.state;
        dispatchEvent(new Event("online"));
        [before, client.state]
    """)
    assert seen == ["waiting", "connecting"]
    await client.is_open(2)
