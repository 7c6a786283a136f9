"""The channel a publisher has outlives crashes, stalls and alarms of the broker; so do the messages on their way."""

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from realtime_service.adapters.rabbitmq import publishing_connection
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.domain.errors import BrokerUnavailable, PublishError
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.support.amqp import (
    alarmed,
    ctl,
    first_arrivals,
    killed,
    nobody_there,
    paused,
    publish,
    taken,
    until,
)

# -- Losses


async def test_nothing_is_lost_when_the_broker_dies_in_the_middle(
    node: PrivateRabbitMQ, queue: str, publisher: ConfirmedPublisher
) -> None:
    called: list[str] = []
    returned: list[str] = []

    async def one(number: int) -> None:
        await until(lambda: len(returned) >= number - 20, seconds=50)  # some are on their way at any time
        called.append(f"event {number}")
        returned.append(await publish(publisher, message_id=called[-1], seconds=50))

    async with asyncio.TaskGroup() as tasks:
        for number in range(200):
            tasks.create_task(one(number))
        await until(lambda: len(returned) >= 80)
        async with killed(node):
            assert len(returned) < 200

    assert sorted(returned) == sorted(called)
    assert first_arrivals(await taken(node)) == called


async def test_a_closed_connection_costs_a_retry_under_the_same_id_and_keeps_the_order(
    node: PrivateRabbitMQ, queue: str
) -> None:
    states: list[bool] = []
    async with ConfirmedPublisher(node.amqp_url, on_state_change=states.append) as publisher:
        sent: list[str] = []

        async def keep_publishing() -> None:
            while len(states) < 3:
                batch = [str(len(sent) + n) for n in range(50)]
                sent.extend(batch)
                await asyncio.gather(*(publish(publisher, message_id=message_id) for message_id in batch))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_publishing())
            await until(lambda: states)
            await ctl(node, "close_all_connections", "test")
        assert publisher.connected
    assert states == [True, False, True, False]
    assert first_arrivals(await taken(node)) == sent


async def test_a_broker_that_is_away_is_an_error_within_the_time_given() -> None:
    url = nobody_there()
    async with ConfirmedPublisher(url) as publisher:
        started = time.monotonic()
        with pytest.raises(PublishError) as caught:
            await publish(publisher, message_id="an id", seconds=0.7)
        assert 0.6 < time.monotonic() - started < 5
        assert not publisher.connected
    address = url.split("@")[1].strip("/")
    assert str(caught.value) == (
        f"message 'an id' to exchange 'diagnosis.feedback' was not confirmed: no connection to the broker at {address}"
        " within 0.7 s, connection refused. Check that it runs there and that the AMQP URL is right"
    )


async def test_one_that_hangs_up_before_it_was_said_a_word_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy whose broker is away does."""
    create = publishing_connection._Socket.create

    async def create_and_wait(*given: Any, **more: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await create(*given, **more)
        await until(reader.at_eof)
        return reader, writer

    monkeypatch.setattr(publishing_connection._Socket, "create", create_and_wait)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        url = f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(BrokerUnavailable, match="it cannot be reached"):
            await publishing_connection.connect(url, name="test")


async def test_a_wrong_password_is_told_and_not_shown(node: PrivateRabbitMQ) -> None:
    url = f"amqp://task:sesame-street@127.0.0.1:{node.port}/"
    async with ConfirmedPublisher(url) as publisher:
        with pytest.raises(PublishError, match="it refused the user name or the password") as caught:
            await publish(publisher, seconds=1)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "sesame" not in f"{chain!s}{chain!r}"
        chain = chain.__cause__ or chain.__context__


async def test_a_virtual_host_that_does_not_exist_is_told(node: PrivateRabbitMQ) -> None:
    async with ConfirmedPublisher(node.amqp_url.removesuffix("%2F") + "nowhere") as publisher:
        with pytest.raises(PublishError, match="it refused the virtual host"):
            await publish(publisher, seconds=1)


@pytest.mark.parametrize("url", ["", "rabbit", "http://u:sesame@h/", "amqp://u:sesame@:x/", "amqp:///"])
def test_a_url_that_is_none_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(
        ValueError, match=r"^the AMQP URL must look like amqp://user:password@host:5672/vhost$"
    ):
        ConfirmedPublisher(url)


async def test_a_frozen_broker_is_an_error_within_the_time_given_and_harmless_after(
    node: PrivateRabbitMQ, queue: str, publisher: ConfirmedPublisher
) -> None:
    await publish(publisher, message_id="before")
    async with paused(node):
        started = time.monotonic()
        with pytest.raises(PublishError, match=r"did not answer within 1 s.*may have arrived all the same"):
            await publish(publisher, message_id="while", seconds=1)
        assert time.monotonic() - started < 5
    await publish(publisher, message_id="while")
    assert first_arrivals(await taken(node)) == ["before", "while"]


@pytest.mark.slow
async def test_a_frozen_broker_is_given_up_and_the_message_goes_over_the_next_connection(
    node: PrivateRabbitMQ, queue: str
) -> None:
    """aiormq ends the calls on such a connection with CancelledError, though nobody cancelled them."""
    async with ConfirmedPublisher(node.amqp_url + "?heartbeat=1") as publisher:
        await publish(publisher, message_id="before")
        async with asyncio.TaskGroup() as tasks, paused(node):
            waiting = [tasks.create_task(publish(publisher, message_id=f"while {n}")) for n in range(5)]
            await until(lambda: not publisher.connected)
            assert not any(task.done() for task in waiting)
    assert first_arrivals(await taken(node)) == ["before", *(f"while {n}" for n in range(5))]


_LEAVES = """
import asyncio, os, signal, sys
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher

async def main():
    async with ConfirmedPublisher(sys.argv[1]) as publisher:
        await publisher.publish("amq.fanout", "", b"", message_id="first", timeout_seconds=10)
        os.kill(int(sys.argv[2]), signal.SIGSTOP)
        for number in range(300):  # more than the sockets' buffers hold
            asyncio.create_task(
                publisher.publish("amq.fanout", "", bytes(60_000), message_id=str(number), timeout_seconds=30)
            ).add_done_callback(lambda task: task.cancelled() or task.exception())
        for _ in range(2000):  # turns of the event loop: as much is written as can be
            await asyncio.sleep(0)

asyncio.run(main())
"""


async def test_leaving_while_the_broker_is_frozen_does_not_hang(node: PrivateRabbitMQ) -> None:
    """aiormq's writer waits until its buffer is sent, and `asyncio.run` waits for the writer."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", _LEAVES, node.amqp_url, str(node.pid)]
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    finally:
        node.resume()
    assert done.returncode == 0, done.stderr
    for complaint in ("destroyed", "never retrieved", "unclosed"):
        assert complaint not in done.stderr


# -- Alarms


async def test_a_memory_alarm_is_an_error_in_time_and_over_when_it_is_over(
    node: PrivateRabbitMQ, queue: str, publisher: ConfirmedPublisher
) -> None:
    await publish(publisher, message_id="before")
    async with alarmed(node):
        with pytest.raises(
            PublishError, match=r"alarm lasts. Free memory or disk there. It may have arrived"
        ):
            await publish(publisher, message_id="first", seconds=1)  # it is told of the alarm by trying
        with pytest.raises(PublishError, match=r"alarm lasts. Free memory or disk there$"):
            await publish(publisher, message_id="never sent", seconds=0.2)
        patient = asyncio.create_task(publish(publisher, message_id="patient"))
        await asyncio.sleep(0)
    await patient
    assert first_arrivals(await taken(node)) == ["before", "first", "patient"]


async def test_a_message_that_waits_out_an_alarm_notices_that_the_connection_is_gone(
    node: PrivateRabbitMQ, queue: str, publisher: ConfirmedPublisher
) -> None:
    await publish(publisher, message_id="before")
    async with alarmed(node):
        with pytest.raises(PublishError, match="alarm"):
            await publish(publisher, message_id="first", seconds=1)
        patient = asyncio.create_task(publish(publisher, message_id="patient"))
        await asyncio.sleep(0)
        async with killed(node):
            pass
    await patient
    assert "patient" in first_arrivals(await taken(node))
