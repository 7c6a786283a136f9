"""Every error of every HTTP route is RFC 9457 problem+json, and tells a stranger nothing."""

import json

import pytest
from aiohttp import WSMsgType, web

from contracts.http import PROBLEM_JSON, Problem
from realtime_service.domain.errors import (
    BrokerUnavailable,
    DatabaseUnavailable,
    EventInvalid,
    KeysUnavailable,
    NotAllowed,
    NotAuthenticated,
    PublishError,
    TokenExpired,
    TokenFault,
)
from realtime_service.web.problems import HttpProblem
from tests.web.application import assert_problem, raw, serving

SECRET = "s3cr3t"


def raising(error: Exception) -> web.RouteDef:
    """A route at which this happens."""

    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    return web.get("/raises", handler)


async def upgraded(request: web.Request) -> web.StreamResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    await ws.send_str("hello")
    if request.query.get("fail"):
        raise RuntimeError(SECRET)
    await ws.close()
    return ws


async def test_an_unknown_path_is_a_404_problem() -> None:
    async with serving() as service:
        answer, body = await service.ask("GET", "/nowhere")
    assert_problem(answer, body, 404)
    assert body["title"] == "Not Found"


async def test_an_unknown_method_is_a_405_problem_that_names_the_known_ones() -> None:
    async with serving() as service:
        answer, body = await service.ask("DELETE", "/ws/broadcast-feedback-update")
    assert_problem(answer, body, 405)
    assert answer.headers["Allow"] == "POST"


async def test_an_expectation_nobody_knows_is_a_417_problem_that_does_not_repeat_it() -> None:
    async with serving() as service:
        answer = await raw(
            service,
            f"GET /livez HTTP/1.1\r\nHost: x\r\nExpect: {SECRET}\r\nConnection: close\r\n\r\n".encode(),
        )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 417 ")
    assert f"Content-Type: {PROBLEM_JSON}".encode() in head
    assert Problem(**json.loads(body)).status == 417
    assert SECRET.encode() not in answer


async def test_a_websocket_route_that_is_asked_without_an_upgrade_answers_a_400_problem() -> None:
    async with serving(web.get("/ws/{diagnosis_id}", upgraded)) as service:
        answer, body = await service.ask("GET", f"/ws/123?token={SECRET}")
    assert_problem(answer, body, 400)
    assert SECRET not in str(body)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotAuthenticated(TokenFault.SIGNATURE), 401),
        (TokenExpired(), 401),
        (NotAllowed(), 403),
        (DatabaseUnavailable(SECRET), 503),
        (BrokerUnavailable(SECRET), 503),
        (KeysUnavailable(SECRET), 503),
        (PublishError(SECRET), 503),
        (EventInvalid("the body is larger than 65536 bytes"), 422),
        (HttpProblem(422, "wrong", errors=["rating: too large"]), 422),
        (web.HTTPServiceUnavailable(text=SECRET, headers={"Retry-After": "1"}), 503),
        (web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2), 413),
    ],
)
async def test_each_error_of_this_service_has_its_status(error: Exception, status: int) -> None:
    async with serving(raising(error)) as service:
        answer, body = await service.ask("GET", "/raises")
    assert_problem(answer, body, status)
    assert SECRET not in str(body)
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    if status == 503:
        assert int(answer.headers["Retry-After"]) >= 1


async def test_whether_a_token_was_expired_is_said_and_why_else_it_was_refused_is_not() -> None:
    details = set()
    for fault in TokenFault:
        async with serving(raising(NotAuthenticated(fault))) as service:
            details.add((await service.ask("GET", "/raises"))[1]["detail"])
    assert len(details) == 1
    async with serving(raising(TokenExpired())) as service:
        assert "expired" in (await service.ask("GET", "/raises"))[1]["detail"]


async def test_a_bug_is_a_500_problem_that_says_nothing_and_is_logged_once(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(raising(RuntimeError(SECRET))) as service:
        answer, body = await service.ask("GET", "/raises", headers={"Accept": "text/html"})
    assert_problem(answer, body, 500)
    assert SECRET not in str(body)
    assert "Traceback" not in str(body)
    assert capsys.readouterr().out.count("request_failed") == 1
    assert caplog.records == []  # of aiohttp


@pytest.mark.parametrize("path", ["/nowhere", "/raises"])
async def test_head_gets_the_status_and_the_type_of_the_problem_alone(path: str) -> None:
    async with serving(raising(NotAllowed())) as service:
        answer, body = await service.ask("HEAD", path)
    assert answer.status in {403, 404}
    assert answer.content_type == PROBLEM_JSON
    assert body is None


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/ws/broadcast-feedback-update", "OPTIONS, POST"), ("/ws/status", "GET, HEAD, OPTIONS")],
)
async def test_options_names_the_methods_of_a_route(path: str, allowed: str) -> None:
    async with serving() as service:
        answer, body = await service.ask("OPTIONS", path)
    assert (answer.status, body) == (204, None)
    assert answer.headers["Allow"] == allowed


async def test_options_of_an_unknown_path_is_a_404_problem() -> None:
    async with serving() as service:
        answer, body = await service.ask("OPTIONS", "/nowhere")
    assert_problem(answer, body, 404)


async def test_problems_are_kept_in_no_cache() -> None:
    async with serving(raising(NotAllowed())) as service:
        own, _ = await service.ask("GET", "/raises")
        of_aiohttp, _ = await service.ask("GET", "/nowhere")
    assert own.headers["Cache-Control"] == of_aiohttp.headers["Cache-Control"] == "no-store"


async def test_a_websocket_passes_untouched() -> None:
    async with (
        serving(web.get("/ws/{diagnosis_id}", upgraded)) as service,
        service.session.ws_connect(service.url("/ws/123")) as ws,
    ):
        assert await ws.receive_str() == "hello"
        assert (await ws.receive()).type is WSMsgType.CLOSE


async def test_a_bug_on_an_open_websocket_ends_it_and_writes_no_http_into_it() -> None:
    async with (
        serving(web.get("/ws/{diagnosis_id}", upgraded)) as service,
        service.session.ws_connect(service.url("/ws/123?fail=1")) as ws,
    ):
        assert await ws.receive_str() == "hello"
        assert (await ws.receive()).type is WSMsgType.CLOSED
        assert ws.close_code == 1006
