"""`serve --workers`: several replicas on one port; they end together, however that comes."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import psutil
import pytest

from realtime_service.cli.outcome import Exit
from tests.cli.processes import SECRET, Running, Service, environment, finished, running, signed
from tests.service.harness.waiting import until, until_true

AWAY = "amqp://user:hunter2@127.0.0.1:1/"
WORKERS = 2
ALONE = environment(
    amqp_url=AWAY, jwt_secret=SECRET, drain_seconds="0", database_url="sqlite:///nowhere/no.db"
)


def said(serve: Running, event: str) -> list[dict[str, Any]]:
    """The log lines of one event."""
    return [line for line in map(json.loads, serve.err) if line.get("event") == event]


@asynccontextmanager
async def workers(env: dict[str, str]) -> AsyncIterator[Running]:
    """A parent whose workers listen; in the end nobody is left."""
    async with running("serve", "--port", "0", "--workers", str(WORKERS), env=env) as serve:
        await until(lambda: len(said(serve, "listening")) == WORKERS or serve.code is not None, "all listen")
        assert serve.code is None, serve.err
        yield serve
    pids = [line["pid"] for line in said(serve, "worker_started")]
    await until(lambda: not any(map(is_alive, pids)), "no worker is left")


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs: a zombie in a container without an init does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def port_of(serve: Running) -> int:
    """The one port of all workers."""
    [port] = {line["port"] for line in said(serve, "listening")}
    return int(port)


async def is_served(port: int) -> bool:
    """Whether somebody answers there."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/livez") as answer,
        ):
            return answer.status == 200
    except aiohttp.ClientError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_parent_ends_all_in_good_order(number: signal.Signals) -> None:
    async with workers(ALONE) as serve:
        assert len({line["replica"] for line in said(serve, "listening")}) == WORKERS
        assert await is_served(port_of(serve))
        serve.signal(number)
        done = await serve.ended()
        assert done.code == Exit.OK
        assert "Traceback" not in done.err
        assert not said(serve, "worker_ended")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_that_ends_by_itself_is_replaced(number: signal.Signals) -> None:
    async with workers(ALONE) as serve:
        psutil.Process(said(serve, "worker_started")[0]["pid"]).send_signal(number)
        await until(lambda: len(said(serve, "listening")) == WORKERS + 1, "another one listens")
        assert await is_served(port_of(serve))
        serve.signal(signal.SIGTERM)
        assert (await serve.ended()).code == Exit.OK


async def test_a_parent_that_is_killed_takes_its_workers_along() -> None:
    async with workers(ALONE) as serve:
        port = port_of(serve)
        serve.signal(signal.SIGKILL)
        pids = [line["pid"] for line in said(serve, "worker_started")]
        await until(lambda: not any(map(is_alive, pids)), "no worker is left")
        assert not await is_served(port)


async def test_the_workers_are_replicas_that_share_the_clients_of_a_port(service: Service) -> None:
    env = service.env | {
        "REALTIME_DATABASE_URL": f"sqlite:///{service.database}",
        "REALTIME_DRAIN_SECONDS": "0",
    }
    diagnosis = service.diagnosis()
    async with workers(env) as serve, AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        at, asked = f"http://127.0.0.1:{port_of(serve)}", {"token": signed(100)}
        clients = []

        async def both_have_clients() -> bool:
            client = await stack.enter_async_context(session.ws_connect(f"{at}/ws/{diagnosis}", params=asked))
            assert (await client.receive_json())["type"] == "connect"
            clients.append(client)
            return await rooms() == WORKERS

        async def rooms() -> int:
            """How many of the workers have clients: the replicas that consume the diagnosis' queue."""
            return sum(1 for pid in pids if established(pid, port_of(serve)))

        pids = [line["pid"] for line in said(serve, "worker_started")]
        await until_true(both_have_clients, "each worker has clients")

        async def all_are_counted() -> bool:
            headers = {"Authorization": f"Bearer {signed(1, 'operator')}"}
            async with session.get(f"{at}/ws/status", headers=headers) as answer:
                report = await answer.json()
            return bool(report["connections_by_diagnosis"][str(diagnosis)] == len(clients))

        await until_true(all_are_counted, "all are counted, whichever is asked")
        publish = (
            "publish",
            "feedback",
            "--diagnosis",
            str(diagnosis),
            "--feedback-id",
            "5",
            "--rating",
            "4",
        )
        event_id = (await finished(*publish, "--effectiveness", "0.7", env=service.env)).out
        assert {(await client.receive_json())["event_id"] for client in clients} == {event_id}
        ending = [asyncio.create_task(client.receive()) for client in clients]  # each answers PINGs meanwhile
        serve.signal(signal.SIGTERM)
        assert {message.data for message in await asyncio.gather(*ending)} == {1012}
        assert (await serve.ended()).code == Exit.OK


def established(pid: int, port: int) -> bool:
    """Whether a process has a client on this port."""
    sockets = psutil.Process(pid).net_connections("tcp")
    return any(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in sockets)


async def test_a_port_that_is_taken_is_said_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        done = await finished("serve", "--port", str(port), "--workers", "2", env=ALONE)
    assert (done.code, done.out) == (Exit.FAILED, "")
    assert done.complaint.startswith(f"realtime-service serve: another program listens on 127.0.0.1:{port}")
