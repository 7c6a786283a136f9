"""Who gets in, and what those hear who do not: one and the same thing, whatever is wrong."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import jwt
import pytest
from wsproto.events import CloseConnection
from wsproto.frame_protocol import Opcode

from contracts.messages import SUBPROTOCOL
from tests.service.harness.replica import Replica as ReplicaProcess
from tests.web.clients import Client, RawClient
from tests.web.conftest import StartReplica
from tests.web.replica import (
    OWNER,
    SECRET,
    STRANGER,
    Amqp,
    Diagnoses,
    Replica,
    token,
)

NOT_ALLOWED = (1008, "not authenticated or not allowed")

Enter = Callable[[str, int, str], Awaitable[Client]]


# The four ways to send a token


async def by_query(address: str, diagnosis: int, secret: str) -> Client:
    return await Client.open(f"ws://{address}/ws/{diagnosis}?token={secret}")


async def by_header(address: str, diagnosis: int, secret: str) -> Client:
    headers = {"Authorization": f"Bearer {secret}"}
    return await Client.open(f"ws://{address}/ws/{diagnosis}", additional_headers=headers)


async def by_subprotocol(address: str, diagnosis: int, secret: str) -> Client:
    offered = [f"bearer.{secret}", SUBPROTOCOL]
    client = await Client.open(f"ws://{address}/ws/{diagnosis}", subprotocols=offered)
    assert client.socket.subprotocol == SUBPROTOCOL
    return client


async def by_first_frame(address: str, diagnosis: int, secret: str) -> Client:
    client = await Client.open(f"ws://{address}/ws/{diagnosis}")
    await client.send({"type": "auth", "token": secret})
    return client


WAYS = [by_query, by_header, by_subprotocol, by_first_frame]


@pytest.mark.parametrize("enter", WAYS)
async def test_a_good_token_is_welcome_whichever_way_it_comes(replica: Replica, enter: Enter) -> None:
    diagnosis = replica.diagnoses.add()
    client = await enter(replica.address, diagnosis, token())
    assert (await client.frame())["type"] == "connect"
    await client.leave()


@pytest.mark.parametrize("enter", WAYS)
async def test_a_bad_token_is_refused_whichever_way_it_comes(replica: Replica, enter: Enter) -> None:
    diagnosis = replica.diagnoses.add()
    client = await enter(replica.address, diagnosis, token(STRANGER))
    assert await client.closed() == NOT_ALLOWED


async def test_tokens_are_in_no_log_line(diagnoses: Diagnoses, amqp: Amqp) -> None:
    """The log of a whole process, at its most talkative."""
    process = await ReplicaProcess.start(
        {
            "REALTIME_AMQP_URL": amqp.url,
            "REALTIME_DATABASE_URL": diagnoses.url,
            "REALTIME_JWT_SECRET": SECRET,
            "REALTIME_LOG_LEVEL": "debug",
            "REALTIME_DRAIN_SECONDS": "0",
        }
    )
    diagnosis = diagnoses.add()
    good, foreign, renewal = token(), token(STRANGER), token(seconds=7200)
    garbage = f"{good[:-10]}{'x' * 10}"
    for enter in WAYS:
        client = await enter(process.address, diagnosis, good)
        assert (await client.frame())["type"] == "connect"
        await client.send({"type": "auth", "token": renewal})
        await client.send({"type": "auth", "token": garbage, "more": 1})
        await client.send({"type": "author", "token": good})
        await client.ping()
        await client.leave()
        for secret in (foreign, garbage):
            assert await (await enter(process.address, diagnosis, secret)).closed() == NOT_ALLOWED
    only = await Client.open(f"ws://{process.address}/ws/{diagnosis}", subprotocols=[f"bearer.{good}"])
    await only.leave()
    odd = await RawClient.open(
        int(process.address.rpartition(":")[2]), f"/ws/{diagnosis}?token={good}&token={good}"
    )
    await odd.send(3, good.encode())  # a reserved opcode
    await odd.closed()
    await odd.abort()
    assert await process.stop() == 0
    lines = json.dumps(process.logs)
    assert "connection_opened" in lines
    for secret in (good, foreign, garbage, renewal, SECRET):
        for part in (secret, secret.rpartition(".")[2], base64.b64encode(secret.encode()).decode()):
            assert part not in lines
    assert not process.complaints


# Who is refused


def claims(**changed: object) -> dict[str, Any]:
    now = int(time.time())
    return {"sub": str(OWNER), "iat": now, "exp": now + 60, **changed}


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


BAD_TOKENS: Mapping[str, Callable[[], str]] = {
    "garbage": lambda: "garbage",
    "three parts of garbage": lambda: "a.b.c",
    "no ASCII": lambda: "ключ",
    "expired": lambda: token(seconds=-1),
    "wrongly signed": lambda: jwt.encode(claims(), "another secret that is thirty-two bytes long"),
    "unsigned": lambda: jwt.encode(claims(), "", algorithm="none"),
    "its signature cut off": lambda: token().rpartition(".")[0] + ".",
    "another algorithm": lambda: jwt.encode(claims(), SECRET * 2, algorithm="HS512"),
    "another's": lambda: token(STRANGER),
    "without a user": lambda: jwt.encode({"exp": time.time() + 60}, SECRET),
    "without an end": lambda: jwt.encode({"sub": str(OWNER)}, SECRET),
    "a user that is no number": lambda: jwt.encode(claims(sub="alice"), SECRET),
    "not yet valid": lambda: jwt.encode(claims(nbf=time.time() + 60), SECRET),
    "critical extensions": lambda: jwt.encode(claims(), SECRET, headers={"crit": ["x"], "x": 1}),
    "a list of claims": lambda: f"{encoded({'alg': 'HS256'})}.{encoded([1])}.AAAA",
}

BAD_IDS = [
    "abc", "0", "-1", "+1", "01", "1.0", "1e3", "0x1", "1_0", str(2**63), "9" * 100, "%20", "%00", "1%00",
    "%F0%9F%92%8A", "%D9%A1", "%FF", "..%2F..%2F1", "1%3Ftoken=1", "%25", "None", "null", "'--",
]  # fmt: skip


async def refusal(client: RawClient) -> tuple[int, str]:
    """How a client is refused: nothing at all comes before the good-bye."""
    first = await client.event()
    assert isinstance(first, CloseConnection), first
    return first.code, first.reason or ""


@pytest.mark.parametrize("bad", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_a_bad_token_is_refused(replica: Replica, bad: Callable[[], str]) -> None:
    diagnosis = replica.diagnoses.add()
    client = await RawClient.open(replica.port, replica.path(diagnosis, token=bad()))
    assert await refusal(client) == NOT_ALLOWED
    await client.abort()


@pytest.mark.parametrize("path", BAD_IDS)
async def test_an_invalid_diagnosis_id_is_refused_like_a_foreign_one(replica: Replica, path: str) -> None:
    client = await RawClient.open(replica.port, replica.path(path, token=token()))
    assert await refusal(client) == NOT_ALLOWED
    await client.abort()


async def test_foreign_and_unknown_diagnoses_are_refused_alike(replica: Replica) -> None:
    for diagnosis in (replica.diagnoses.add(STRANGER), replica.diagnoses.unknown(), 2**63 - 1):
        for query in ({}, {"client_id": "phone"}, {"receipts": "ack"}):
            client = await RawClient.open(replica.port, replica.path(diagnosis, token=token(), **query))
            assert await refusal(client) == NOT_ALLOWED
            await client.abort()


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "ä", "a/b", "a%00"])
async def test_an_invalid_client_id_is_refused(replica: Replica, name: str) -> None:
    path = replica.path(replica.diagnoses.add(), token=token(), client_id=name)
    client = await RawClient.open(replica.port, path)
    assert await refusal(client) == NOT_ALLOWED
    await client.abort()


@pytest.mark.parametrize(
    "frame",
    [
        b"ping",
        b'{"type":"ping"}',
        b"hello",
        b'{"type":"auth"}',
        b'{"type":"auth","token":""}',
        b"[" * 4000,
        b"\0",
    ],
)
async def test_a_first_frame_without_token_is_refused(replica: Replica, frame: bytes) -> None:
    client = await RawClient.open(replica.port, replica.path(replica.diagnoses.add()))
    await client.send(Opcode.TEXT, frame)
    assert await refusal(client) == NOT_ALLOWED
    await client.abort()


async def test_a_binary_first_frame_is_refused(replica: Replica) -> None:
    client = await RawClient.open(replica.port, replica.path(replica.diagnoses.add()))
    await client.send(Opcode.BINARY, json.dumps({"type": "auth", "token": token()}).encode())
    assert await refusal(client) == NOT_ALLOWED
    await client.abort()


async def test_an_empty_token_is_none(strict: Replica) -> None:
    client = await RawClient.open(strict.port, strict.path(strict.diagnoses.add(), token=""))
    assert await refusal(client) == NOT_ALLOWED
    await client.abort()


async def test_who_says_nothing_is_refused_in_time_also_while_sending_pings(strict: Replica) -> None:
    client = await RawClient.open(strict.port, strict.path(strict.diagnoses.add()))
    ending = asyncio.create_task(client.closed())
    started = time.monotonic()
    while not ending.done():
        await client.send(Opcode.PING, b"still here")
        await asyncio.wait([ending], timeout=0.05)
    assert await ending == NOT_ALLOWED
    assert time.monotonic() - started < 5
    await client.abort()


async def test_a_first_frame_of_16_kib_may_hold_a_token(replica: Replica) -> None:
    client = await Client.open(replica.url(replica.diagnoses.add()))
    await client.send({"type": "auth", "token": token(), "padding": "x" * 15_000})
    assert (await client.frame())["type"] == "connect"
    await client.leave()


async def test_a_device_may_be_named_by_its_token(replica: Replica) -> None:
    diagnosis = replica.diagnoses.add()
    for resumed in (False, True):
        client = await Client.open(replica.url(diagnosis, token=token(device_id="phone")))
        assert (await client.welcome())["resumed"] is resumed
        await client.leave()


async def test_the_audience_is_asked_for_where_one_is_set(strict: Replica) -> None:
    diagnosis = strict.diagnoses.add()
    for bad in (token(), token(audience="elsewhere")):
        raw = await RawClient.open(strict.port, strict.path(diagnosis, token=bad))
        assert await refusal(raw) == NOT_ALLOWED
        await raw.abort()
    client = await Client.open(strict.url(diagnosis, token=token(audience="phones")))
    assert (await client.frame())["type"] == "connect"
    await client.leave()


@pytest.fixture(scope="module")
async def strict(start_replica: StartReplica) -> AsyncIterator[Replica]:
    """Wants an audience, and tokens soon."""
    async with start_replica(jwt_audience="phones", auth_timeout_seconds=0.3) as replica:
        yield replica
