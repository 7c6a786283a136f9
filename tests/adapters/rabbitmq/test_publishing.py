"""A publish returns after the broker's confirm, or raises and says why; nobody pays for another's fault."""

import asyncio

import pytest
from aio_pika.abc import AbstractChannel
from pamqp.common import FieldTable

from contracts import topology
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.domain.errors import PublishError
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.support.amqp import (
    FEEDBACK,
    ctl,
    first_arrivals,
    killed,
    nobody_there,
    publish,
    take_all,
    taken,
    url_of_a_task,
)

# -- What a confirm means


async def test_a_confirmed_message_survives_the_death_of_the_broker(
    node: PrivateRabbitMQ, queue: str, publisher: ConfirmedPublisher
) -> None:
    message_id = await publish(publisher)
    async with killed(node):
        pass
    (message,) = await taken(node)
    assert message.message_id == message_id
    assert message.delivery_mode == 2


async def test_a_wrong_key_ends_at_the_door_and_not_nowhere(
    node: PrivateRabbitMQ, queue: str, publisher: ConfirmedPublisher
) -> None:
    message_id = await publish(publisher, key="diagnosis.")
    (message,) = await taken(node, topology.UNROUTED)
    assert (message.message_id, message.routing_key) == (message_id, "diagnosis.")


async def test_concurrent_publishes_arrive_in_the_order_of_the_calls(
    node: PrivateRabbitMQ, queue: str
) -> None:
    async with ConfirmedPublisher(node.amqp_url) as publisher:  # so the first of them wait for the connection
        sent = await asyncio.gather(*(publish(publisher, message_id=str(n)) for n in range(300)))
        sent += await asyncio.gather(*(publish(publisher, message_id=str(n)) for n in range(300, 600)))
    assert [message.message_id for message in await taken(node)] == sent


# -- What the broker does not take


async def test_a_missing_topology_is_declared_by_the_first_message(
    node: PrivateRabbitMQ, channel: AbstractChannel, publisher: ConfirmedPublisher
) -> None:
    sent = await asyncio.gather(*(publish(publisher, exchange) for exchange in topology.EXCHANGES.values()))
    arrived = await take_all(channel, topology.UNROUTED)
    assert {message.message_id for message in arrived} == set(sent)


async def test_a_deleted_exchange_is_declared_again(
    node: PrivateRabbitMQ, channel: AbstractChannel, queue: str, publisher: ConfirmedPublisher
) -> None:
    await publish(publisher, message_id="before")
    await channel.exchange_delete(FEEDBACK)
    await publish(publisher, message_id="after")
    assert first_arrivals(await take_all(channel, queue)) == ["before", "after"]


async def test_a_missing_exchange_that_may_not_be_declared_is_told(
    node: PrivateRabbitMQ, channel: AbstractChannel
) -> None:
    async with ConfirmedPublisher(await url_of_a_task(node, write=".*")) as publisher:
        with pytest.raises(
            PublishError, match=r"does not exist, and this user may not declare it\)\. Declare it"
        ):
            await publish(publisher)


async def test_an_exchange_that_may_not_be_written_to_is_told(node: PrivateRabbitMQ, queue: str) -> None:
    async with ConfirmedPublisher(await url_of_a_task(node, write="")) as publisher:
        with pytest.raises(PublishError, match="this user may not publish there"):
            await publish(publisher)


async def test_a_fault_is_the_error_of_its_caller_alone(
    node: PrivateRabbitMQ, queue: str, publisher: ConfirmedPublisher
) -> None:
    exchanges = [FEEDBACK, "nonsense", FEEDBACK, topology.EVENTS, FEEDBACK, "nonsense too", FEEDBACK]
    results = await asyncio.gather(
        *(publish(publisher, exchange, message_id=str(n)) for n, exchange in enumerate(exchanges)),
        return_exceptions=True,
    )
    assert [n for n, result in enumerate(results) if isinstance(result, str)] == [0, 2, 4, 6]
    assert "the exchange does not exist" in str(results[1])
    assert "may not publish there" in str(results[3])
    assert first_arrivals(await taken(node)) == ["0", "2", "4", "6"]


async def test_a_mandatory_message_without_a_queue_is_an_error(
    node: PrivateRabbitMQ, queue: str, publisher: ConfirmedPublisher
) -> None:
    await publish(publisher, "", queue, mandatory=True)
    with pytest.raises(PublishError, match="no queue is bound for key 'no-such-queue'"):
        await publish(publisher, "", "no-such-queue", mandatory=True)
    await publish(publisher, "", "no-such-queue")


async def test_messages_of_one_id_are_not_taken_for_each_other(
    node: PrivateRabbitMQ, queue: str, publisher: ConfirmedPublisher
) -> None:
    results = await asyncio.gather(
        publish(publisher, "", "no-such-queue", message_id="same", mandatory=True),
        publish(publisher, "", queue, message_id="same"),
        publish(publisher, "", queue, message_id="same", mandatory=True),
        publish(publisher, "", "no-such-queue", message_id="same", mandatory=True),
        return_exceptions=True,
    )
    assert [isinstance(result, PublishError) for result in results] == [True, False, False, True]


async def test_a_full_queue_that_refuses_is_told(
    node: PrivateRabbitMQ, channel: AbstractChannel, publisher: ConfirmedPublisher
) -> None:
    arguments: FieldTable = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.declare_queue("small", exclusive=True, arguments=arguments)
    await publish(publisher, "", "small")
    with pytest.raises(PublishError, match=r"a queue refused it \(nack\)"):
        await publish(publisher, "", "small")
    await channel.queue_delete("small")


# -- Callers who go away


async def test_a_cancelled_publish_does_not_disturb_the_others(node: PrivateRabbitMQ, queue: str) -> None:
    states: list[bool] = []
    async with ConfirmedPublisher(node.amqp_url, on_state_change=states.append) as publisher:
        await publish(publisher, message_id="first")
        publishes = [asyncio.create_task(publish(publisher, message_id=str(n))) for n in range(100)]
        await asyncio.sleep(0)
        for number in range(0, 100, 2):
            publishes[number].cancel()
            await asyncio.sleep(0)  # so they are caught at different points
        results = await asyncio.gather(*publishes, return_exceptions=True)
        await publish(publisher, message_id="last")
        assert states == [True]
    kept = [result for result in results if isinstance(result, str)]
    assert len(kept) >= 50
    arrived = [message.message_id for message in await taken(node)]
    assert [message_id for message_id in arrived if message_id in {"first", *kept, "last"}] == [
        "first",
        *kept,
        "last",
    ]


async def test_a_closed_publisher_says_so_at_once(
    node: PrivateRabbitMQ, publisher: ConfirmedPublisher
) -> None:
    other = ConfirmedPublisher(node.amqp_url)
    with pytest.raises(PublishError, match="the publisher is not open"):
        await publish(other)
    async with other:
        pass
    with pytest.raises(PublishError, match="the publisher is not open"):
        await publish(other)


async def test_those_who_wait_when_it_closes_are_told() -> None:
    async with ConfirmedPublisher(nobody_there()) as publisher:
        waiting = asyncio.create_task(publish(publisher))
        await asyncio.sleep(0)
    with pytest.raises(PublishError, match="the publisher was closed before"):
        await waiting


async def test_a_failing_observer_does_not_harm_the_publisher(node: PrivateRabbitMQ) -> None:
    def fail(connected: bool) -> None:
        raise ZeroDivisionError

    async with ConfirmedPublisher(node.amqp_url, on_state_change=fail) as publisher:
        await publish(publisher, "amq.fanout")


async def test_operators_see_the_publisher_by_its_name(
    node: PrivateRabbitMQ, publisher: ConfirmedPublisher
) -> None:
    await publish(publisher, "amq.fanout")
    assert "publisher test" in await ctl(node, "list_connections", "client_properties")
