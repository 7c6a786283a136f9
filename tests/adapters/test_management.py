"""The client of RabbitMQ's management API, against a stand-in of that API; the real one is met in `rabbitmq/`."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from realtime_service.adapters.management import ManagementApi, ManagementUnavailable

PASSWORD = "p@ss/word"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def api(
    handler: Handler, *, timeout_seconds: float = 5, vhost: str = "/"
) -> AsyncIterator[ManagementApi]:
    """A client of a server that answers everything with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        url = server.make_url("/prefix").with_user("monitor").with_password(PASSWORD)
        async with ManagementApi(str(url), vhost=vhost, timeout_seconds=timeout_seconds) as client:
            yield client


def pages(queues: list[tuple[str, int | None]], *, size: int, asked: list[web.Request]) -> Handler:
    """An API that has these queues, fullest first."""

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        first = (int(request.query["page"]) - 1) * size
        items: list[dict[str, Any]] = [{"name": name, "messages_ready": n} for name, n in queues]
        return web.json_response({"items": items[first : first + size], "page_count": -(-len(items) // size)})

    return handler


async def test_queues_with_messages_are_named_over_all_pages_and_empty_ones_are_not_asked_for() -> None:
    asked: list[web.Request] = []
    queues = [("fresh", None), ("a", 5), ("b", 3), ("c", 1), ("d", 0), ("e", 0), ("f", 0)]
    async with api(pages(queues, size=2, asked=asked)) as client:
        found, complete = await client.waiting("^.*$", 100)
    assert found == {"fresh": None, "a": 5, "b": 3, "c": 1}
    assert complete
    assert [request.query["page"] for request in asked] == ["1", "2", "3"]


async def test_beyond_the_limit_the_answer_says_that_it_is_not_all() -> None:
    async with api(pages([("a", 5), ("b", 3)], size=2, asked=[])) as client:
        assert await client.waiting("^.*$", 1) == ({"a": 5}, False)
        assert await client.waiting("^.*$", 2) == ({"a": 5, "b": 3}, True)


async def test_credentials_go_into_a_header_and_the_virtual_host_into_the_path() -> None:
    asked: list[web.Request] = []
    async with api(pages([], size=2, asked=asked), vhost="clinic/a") as client:
        assert await client.waiting("^x$", 1) == ({}, True)
    [request] = asked
    assert request.rel_url.raw_path == "/prefix/api/queues/clinic%2Fa"
    assert base64.b64decode(request.headers["Authorization"].split()[1]).decode() == f"monitor:{PASSWORD}"


async def forbidden(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "not_authorised"}, status=401)


async def redirecting(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://127.0.0.1:1/elsewhere")


async def garbage(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>a proxy's page</html>")


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


async def cut_off(request: web.Request) -> web.StreamResponse:
    assert request.transport
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize("handler", [forbidden, redirecting, garbage, silent, cut_off])
async def test_whatever_goes_wrong_is_said_in_one_way_in_time_and_without_the_password(
    handler: Handler,
) -> None:
    timeout_seconds = 0.1 if handler is silent else 5
    async with api(handler, timeout_seconds=timeout_seconds) as client:
        with pytest.raises(ManagementUnavailable) as failure:
            await client.waiting("^.*$", 1)
        error: BaseException | None = failure.value
        while error is not None:
            assert "word" not in f"{error!s} {error!r}"
            error = error.__cause__


async def test_a_server_that_is_away_is_unavailable() -> None:
    async with ManagementApi(f"http://monitor:{PASSWORD.replace('/', '%2F')}@127.0.0.1:1") as client:
        with pytest.raises(ManagementUnavailable):
            await client.waiting("^.*$", 1)


def test_the_password_is_not_in_the_repr() -> None:
    client = ManagementApi("http://monitor:secret@broker:15672/prefix")
    assert repr(client) == "ManagementApi('http://broker:15672/prefix')"
