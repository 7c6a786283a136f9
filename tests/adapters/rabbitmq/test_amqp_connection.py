"""The AMQP a replica consumes with, against a broker that obeys, refuses, freezes, dies, or talks nonsense."""

import asyncio
import itertools
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from aiormq import exceptions as amqp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pamqp import frame as frames
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.commands import Channel as ChannelCommand
from pamqp.commands import Connection as ConnectionCommand
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from realtime_service.adapters.rabbitmq.amqp import channel as channels
from realtime_service.adapters.rabbitmq.amqp.channel import Channel, Delivery
from realtime_service.adapters.rabbitmq.amqp.connection import RUSH_READS, RUSH_SECONDS, Connection
from realtime_service.adapters.rabbitmq.amqp.properties import UNREADABLE
from realtime_service.adapters.rabbitmq.connecting import close, connect, reason_of
from realtime_service.domain.errors import BrokerUnavailable
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ
from tests.service.harness.proxy import Proxy
from tests.support.amqp import QUEUE, ctl, nobody_there, paused, until

HEARTBEAT = Heartbeat().marshal()


@pytest.fixture
async def connection(node: PrivateRabbitMQ) -> AsyncIterator[Connection]:
    connection = await connect(node.amqp_url, name="lean test")
    yield connection
    await close(connection)


@pytest.fixture
async def filled(channel: AbstractChannel) -> AbstractChannel:
    """The test's own channel, with which QUEUE is made and filled."""
    await channel.declare_queue(QUEUE, durable=True)
    return channel


async def put(channel: AbstractChannel, *bodies: bytes) -> None:
    for body in bodies:
        await channel.default_exchange.publish(Message(body, message_id="m"), QUEUE)


async def ready(connection: Connection) -> int:
    asking = connection.channel()
    answer = await asking.queue_declare(QUEUE, passive=True, timeout=20)
    await asking.close(timeout=20)
    return answer.message_count or 0


# -- Hand-shake


async def test_operators_see_the_name(node: PrivateRabbitMQ, connection: Connection) -> None:
    assert "lean test" in await ctl(node, "list_connections", "client_properties")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace("//", "//nobody-"), "it refused the user name or the password"),
        (lambda url: url.removesuffix("%2F") + "nowhere", "it refused the virtual host"),
        (lambda url: url + "?auth=external", "it offers no way of authentication that is known here"),
        (lambda url: url.replace("amqp://", "amqps://"), "the TLS hand-shake failed"),
        (lambda _: nobody_there(), "connection refused"),
        (lambda url: url.replace("127.0.0.1", "nowhere.invalid"), "its host name does not resolve"),
    ],
    ids=["user", "virtual host", "mechanism", "TLS", "refused", "name"],
)
async def test_what_is_wrong_is_told_in_our_words(
    node: PrivateRabbitMQ, change: Callable[[str], str], reason: str
) -> None:
    with pytest.raises(BrokerUnavailable, match=reason) as caught:
        await connect(change(node.amqp_url), name="refused")
    password = node.amqp_url.split("@")[0].rpartition(":")[2]
    assert password not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "broker.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(pem, *plain) + made.public_bytes(pem))
    return path


@pytest.mark.parametrize(
    ("parameters", "trusted"),
    [("?cafile={}", True), ("?no_verify_ssl=1", True), ("?cafile={0}&certfile={0}&keyfile={0}", True), ("", False)],
    ids=["its CA", "no verification", "a certificate of one's own", "unknown"],
)  # fmt: skip
async def test_over_tls(node: PrivateRabbitMQ, certificate: Path, parameters: str, trusted: bool) -> None:
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate)
    async with Proxy(f"127.0.0.1:{node.port}", tls=ours) as proxy:
        url = node.amqp_url.replace(f"127.0.0.1:{node.port}", proxy.address).replace("amqp:", "amqps:")
        opening = connect(url + parameters.format(certificate), name="secret")
        if not trusted:
            with pytest.raises(BrokerUnavailable, match="the TLS hand-shake failed"):
                await opening
            return
        connection = await opening
        channel = connection.channel()
        await channel.queue_declare("over TLS", timeout=20)
        await channel.queue_delete("over TLS", timeout=20)
        await close(connection)


@asynccontextmanager
async def broker_that_says(words: bytes) -> AsyncIterator[str]:
    """The AMQP URL of somebody who answers whatever comes with this, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(words)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (b"AMQP\0\1\0\0", amqp.IncompatibleProtocolError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", amqp.ConnectionFrameError),
        (frames.marshal(ConnectionCommand.CloseOk(), 0), amqp.AMQPConnectionError),
        (frames.marshal(ConnectionCommand.OpenOk(), 0), amqp.ConnectionUnexpectedFrame),
        (b"", amqp.AMQPConnectionError),
    ],
    ids=["another version", "no AMQP", "good-bye", "another method", "nothing"],
)
async def test_who_is_no_broker_is_unavailable(words: bytes, error: type[Exception]) -> None:
    async with broker_that_says(words) as url:
        with pytest.raises(BrokerUnavailable, match="it cannot be reached") as caught:
            await connect(url, name="mistaken")
    assert isinstance(caught.value.__cause__, error)


async def test_more_channels_than_were_agreed_on_are_refused_here(connection: Connection) -> None:
    connection._most_channels = 2
    first, _ = connection.channel(), connection.channel()
    with pytest.raises(BrokerUnavailable, match="2 channels"):
        connection.channel()
    await first.close(timeout=20)
    assert connection.channel().number == first.number


# -- Deliveries


@pytest.mark.parametrize("size", [0, 1, 60_000, 131_064, 131_065, 400_000])
async def test_a_body_of_any_size_arrives(connection: Connection, filled: AbstractChannel, size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    came: list[Delivery] = []
    channel = connection.channel()
    await channel.basic_consume(QUEUE, came.append, timeout=20)
    await put(filled, body, b"the next")
    await until(lambda: len(came) == 2)
    assert came[0].body == body
    assert (came[0].exchange, came[0].routing_key, came[0].redelivered) == ("", QUEUE, False)
    assert came[0].properties.message_id == "m"
    assert [message.delivery_tag for message in came] == [1, 2]


async def test_what_is_not_acknowledged_is_back_in_its_place_when_the_channel_is_closed(
    connection: Connection, filled: AbstractChannel
) -> None:
    await put(filled, *(b"%d" % number for number in range(10)))
    came: list[bytes] = []
    channel = connection.channel()
    channel.basic_qos(prefetch_count=10)
    await channel.basic_consume(QUEUE, lambda message: came.append(message.body), timeout=20)
    await until(lambda: len(came) == 10)
    channel.basic_ack(4, multiple=True)
    channel.basic_ack(6)
    await channel.close(timeout=20)
    assert await ready(connection) == 5
    again: list[Delivery] = []
    await connection.channel().basic_consume(QUEUE, again.append, timeout=20)
    await until(lambda: len(again) == 5)
    assert [message.body for message in again] == [b"4", b"6", b"7", b"8", b"9"]
    assert all(message.redelivered for message in again)


@pytest.mark.parametrize("waiting", [0, 300])
async def test_who_finds_and_consumes_a_queue_is_told_what_is_in_it_before_it_comes_and_who_consumes_it(
    connection: Connection, filled: AbstractChannel, waiting: int
) -> None:
    """Also while deliveries are on their way."""
    await put(filled, *(b"%d" % number for number in range(waiting)))
    told: list[int | bytes] = []
    for number in (1, 2, 3):
        consumer = connection.channel()
        consumer.basic_qos(prefetch_count=waiting)
        consumers = await consumer.find_and_consume(
            QUEUE, told.append, lambda message: told.append(message.body), timeout=20
        )
        assert consumers == number
    await until(lambda: len(told) == 3 + waiting)
    assert told[0] == waiting
    assert [each for each in told[1:] if each != 0] == [b"%d" % number for number in range(waiting)]


async def test_who_finds_no_queue_is_told_so(connection: Connection) -> None:
    channel = connection.channel()
    told: list[object] = []
    with pytest.raises(amqp.ChannelNotFoundEntity):
        await channel.find_and_consume("no such queue", told.append, told.append, timeout=20)
    assert told == []
    assert channel.is_closed
    assert not connection.is_closed


async def test_one_that_fails_over_what_it_found_costs_its_channel_alone(
    connection: Connection, filled: AbstractChannel
) -> None:
    await put(filled, b"first")

    def fail(_: int) -> None:
        raise RuntimeError("a bug")

    came: list[Delivery] = []
    channel = connection.channel()
    with pytest.raises(amqp.ChannelClosed):
        await channel.find_and_consume(QUEUE, fail, came.append, timeout=20)
    assert channel.is_closed
    assert not came
    assert await ready(connection) == 1
    assert not connection.is_closed


async def test_a_consumer_that_raises_costs_its_channel_alone(
    connection: Connection, filled: AbstractChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "FAILED_SECONDS", 0.05)
    await put(filled, b"first", b"second")
    calls: list[bytes] = []
    closed: list[Channel] = []

    def fail(message: Delivery) -> None:
        calls.append(message.body)
        raise RuntimeError("a bug")

    channel = connection.channel()
    channel.on_closed = closed.append
    await channel.basic_consume(QUEUE, fail, timeout=20)
    await until(lambda: closed)
    assert (calls, closed) == ([b"first"], [channel])
    assert await ready(connection) == 2
    assert not connection.is_closed


# -- Channels


async def test_a_refusal_closes_the_channel_alone_and_fails_all_that_was_asked_on_it(
    connection: Connection, filled: AbstractChannel
) -> None:
    closed: list[Channel] = []
    channel, other = connection.channel(), connection.channel()
    channel.on_closed = closed.append
    missing, behind = await asyncio.gather(
        channel.queue_declare("nothing of this name", passive=True, timeout=20),
        channel.queue_declare(QUEUE, passive=True, timeout=20),
        return_exceptions=True,
    )
    assert isinstance(missing, amqp.ChannelNotFoundEntity)
    assert isinstance(behind, amqp.ChannelNotFoundEntity)
    assert reason_of(missing) == "not found"
    with pytest.raises(amqp.ChannelInvalidStateError):
        await channel.queue_declare(QUEUE, passive=True, timeout=20)
    with pytest.raises(amqp.ChannelPreconditionFailed):
        await other.queue_declare(QUEUE, durable=False, timeout=20)
    assert closed == [channel]
    assert await ready(connection) == 0


async def test_a_call_that_takes_too_long_closes_its_channel_so_that_its_answer_is_nobody_elses(
    node: PrivateRabbitMQ, connection: Connection, filled: AbstractChannel
) -> None:
    closed: list[Channel] = []
    channel = connection.channel()
    channel.on_closed = closed.append
    await channel.queue_declare(QUEUE, passive=True, timeout=20)
    async with paused(node):
        with pytest.raises(TimeoutError):
            await channel.queue_declare(QUEUE, passive=True, timeout=0.05)
        assert channel.is_closed
        new = connection.channel()
        assert new.number != channel.number, "it is not free before the broker said so"
        asking = asyncio.create_task(new.queue_declare(QUEUE, passive=True, timeout=20))
        await asyncio.sleep(0)
    assert (await asking).queue == QUEUE
    assert closed == [channel]
    assert connection.channel().number == channel.number


async def test_a_consumer_whose_queue_is_deleted_is_told(
    connection: Connection, filled: AbstractChannel
) -> None:
    cancelled: list[Channel] = []
    channel = connection.channel()
    channel.on_cancelled = cancelled.append
    await channel.basic_consume(QUEUE, lambda _: None, timeout=20)
    await filled.queue_delete(QUEUE)
    await until(lambda: cancelled == [channel])
    assert not channel.is_closed


# -- Endings


async def test_a_connection_that_operators_close_tells_its_channels_once(
    node: PrivateRabbitMQ, connection: Connection, filled: AbstractChannel
) -> None:
    closed: list[Channel] = []
    idle = connection.channel()
    idle.on_closed = closed.append
    await idle.queue_declare(QUEUE, passive=True, timeout=20)
    await ctl(node, "close_all_connections", "test")
    async with asyncio.timeout(20):
        await connection.closed
    await until(lambda: closed == [idle])
    assert reason_of(connection.reason, "closed") == "closed"
    with pytest.raises(BrokerUnavailable, match="no connection"):
        connection.channel()


async def test_a_dropped_connection_fails_what_was_asked(connection: Connection) -> None:
    asking = asyncio.create_task(connection.channel().queue_declare(QUEUE, passive=True))
    await asyncio.sleep(0)
    connection.abort()
    with pytest.raises(amqp.AMQPConnectionError):
        await asking
    assert connection.closed.done()


@pytest.mark.slow
async def test_a_silent_broker_is_given_up(node: PrivateRabbitMQ) -> None:
    async with Proxy(f"127.0.0.1:{node.port}") as proxy:
        url = node.amqp_url.replace(f"127.0.0.1:{node.port}", proxy.address)
        connection = await connect(f"{url}?heartbeat=1", name="dark")
        asking = asyncio.create_task(connection.channel().queue_declare("amq", passive=True))
        await asyncio.sleep(0)
        proxy.swallow(to_client=True)
        async with asyncio.timeout(20):
            await asyncio.wait([connection.closed])
        with pytest.raises(TimeoutError, match="silent"):
            await asking


@pytest.mark.slow
async def test_heartbeats_keep_a_connection_on_which_nothing_happens(node: PrivateRabbitMQ) -> None:
    connection = await connect(node.amqp_url + "?heartbeat=1", name="idle")
    done, _ = await asyncio.wait([connection.closed], timeout=8)
    assert not done
    await close(connection)


async def test_a_frozen_broker_does_not_hold_up_a_close(node: PrivateRabbitMQ) -> None:
    connection = await connect(node.amqp_url, name="left")
    async with paused(node):
        async with asyncio.timeout(10):
            await close(connection)
    assert connection.closed.done()


# -- Bytes


class Socket(asyncio.BaseTransport):
    """A transport that remembers what was written; like uvloop's it is no `asyncio.Transport`."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close


def fed() -> tuple[Connection, Socket, list[Delivery]]:
    """A connection as it is after the hand-shake, with a consumer on channel 1."""
    connection, socket = Connection(asyncio.get_running_loop()), Socket()
    connection.connection_made(socket)
    came: list[Delivery] = []
    channel = connection.channel()
    channel._on_message = came.append
    connection.data_received(frames.marshal(ChannelCommand.OpenOk(), 1))
    return connection, socket, came


def delivery(number: int, *parts: bytes, channel: int = 1) -> bytes:
    """The frames of one."""
    deliver = Basic.Deliver("c", number, number % 2 == 0, "an exchange", f"key {number}")
    header = ContentHeader(0, sum(map(len, parts)), Basic.Properties(message_id=f"{number}"))
    whole: list[frames.FrameTypes] = [deliver, header, *(ContentBody(part) for part in parts)]
    return b"".join(frames.marshal(frame, channel) for frame in whole)


STREAM = b"".join(
    (
        delivery(1, b"one"),
        HEARTBEAT,
        delivery(2),
        delivery(3, b"a", b"bc", b"d"),
        frames.marshal(ConnectionCommand.Blocked("memory"), 0),
        delivery(4, b"\xce" * 300),
    )
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 50, 1000, 100_000])
async def test_segments_may_begin_and_end_anywhere(size: int) -> None:
    connection, socket, came = fed()
    for start in range(0, len(STREAM), size):
        connection.data_received(STREAM[start : start + size])
    assert [message.body for message in came] == [b"one", b"", b"abcd", b"\xce" * 300]
    assert [message.delivery_tag for message in came] == [1, 2, 3, 4]
    assert [message.redelivered for message in came] == [False, True, False, True]
    assert [message.properties.message_id for message in came] == ["1", "2", "3", "4"]
    assert came[2].routing_key == "key 3"
    assert not connection._buffer
    assert not socket.closing


async def test_in_a_rush_it_is_read_less_often() -> None:
    connection, socket, came = fed()
    number = 0
    for _ in range(2):
        while socket.reading:
            number += 1
            connection.data_received(delivery(number))
            assert number < 1000
        assert number >= RUSH_READS
        assert len(came) == number, "what was read is dealt with"
        await until(lambda: socket.reading)


@pytest.mark.parametrize("frame", [HEARTBEAT, frames.marshal(ConnectionCommand.Unblocked(), 0)])
async def test_only_deliveries_make_a_rush(frame: bytes) -> None:
    connection, socket, _ = fed()
    for _ in range(10 * RUSH_READS):
        connection.data_received(frame)
    assert socket.reading


async def test_events_that_come_one_by_one_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, socket, _ = fed()
    now = itertools.count(1, 2 * RUSH_SECONDS)
    monkeypatch.setattr(connection, "loop", SimpleNamespace(time=lambda: next(now), call_soon=lambda _: None))
    for number in range(1, 10 * RUSH_READS):
        connection.data_received(delivery(number))
        assert socket.reading


@pytest.mark.parametrize(
    ("nonsense", "code"),
    [
        (b"\x01\0\1\0\0\0\x04\0\0\0\0\0", 501),
        (b"\x07\0\1\0\0\0\0\xce", 501),
        (b"\x01\0\1\xff\xff\xff\xff", 501),
        (b"\x01\0\1\0\0\0\x04\xff\xff\xff\xff\xce", 502),
        (b"\x01\0\1\0\0\0\x01\0\xce", 502),
        (b"\x01\0\1\0\0\0\x04\0<\0<\xce", 502),
        (b"\x02\0\1\0\0\0\x01\0\xce", 505),
        (b"\x03\0\1\0\0\0\x01\0\xce", 505),
        (delivery(1, b"x")[:-9] + delivery(2), 505),
        (frames.marshal(Basic.QosOk(), 1), 505),
        (frames.marshal(ConnectionCommand.OpenOk(), 0), 505),
    ],
    ids=[
        "no end", "kind", "too large", "method", "short", "empty delivery",
        "header", "body", "within", "answer", "hand-shake",
    ],
)  # fmt: skip
async def test_nonsense_ends_the_connection_and_the_broker_is_told_why(nonsense: bytes, code: int) -> None:
    connection, socket, came = fed()
    connection.data_received(delivery(1) + nonsense + bytes(20) + delivery(2))
    assert socket.closing
    assert connection.is_closed
    assert isinstance(connection.reason, amqp.AMQPConnectionError)
    assert struct.pack(">HHH", 10, 50, code) in socket.written
    assert [message.delivery_tag for message in came] == [1]
    connection.connection_lost(None)


async def test_frames_of_a_channel_that_is_gone_are_ignored() -> None:
    connection, socket, came = fed()
    connection.data_received(delivery(1, b"x", channel=2) + frames.marshal(Basic.QosOk(), 2))
    assert not came
    assert not socket.closing


@pytest.mark.parametrize(
    "properties",
    [
        b"\x00\x40" + b"\xff" * 8,  # a timestamp
        b"\x00\x80\x01\xff",  # a message id that is no text
        b"\x20\x00\x00\x00\x00\x04\x01a?\x00",  # a header of an unknown type
        b"\x20\x00" + b"".join(struct.pack(">I", 8 * n) + b"\1aF" for n in range(5000, 0, -1)),
        b"\x00\x01\x00\x00",  # more flags
        b"\x00\x80\x7f12",  # an id beyond the frame
        b"",
    ],
    ids=["timestamp", "text", "header", "depth", "flags", "length", "none"],
)
async def test_a_delivery_whose_properties_cannot_be_read_is_marked(properties: bytes) -> None:
    connection, socket, came = fed()
    deliver = frames.marshal(Basic.Deliver("c", 1, False, "e", "k"), 1)
    payload = struct.pack(">HHQ", 60, 0, 1) + properties
    header = struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"
    connection.data_received(deliver + header + frames.marshal(ContentBody(b"x"), 1) + delivery(2))
    assert [(message.properties.headers or {}).get(UNREADABLE, False) for message in came] == [True, False]
    assert not socket.closing
