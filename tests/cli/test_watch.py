"""`realtime-service watch` against a scripted server: what it proves, when it comes back, when it stays away."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from yarl import URL

from contracts.close_codes import REASONS, CloseCode
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.cli.watch import Wish, watch
from tests.cli.processes import environment, finished
from tests.cli.recording import Recording

TOKEN = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"
AT = "2026-11-22T10:00:00.000Z"

Socket = web.WebSocketResponse
Script = Callable[[Socket], Awaitable[None]]


class Server:
    """Plays one script a connection, the last one for all that follow."""

    def __init__(self, *scripts: Script | int) -> None:
        self.requests: list[web.Request] = []
        self.url = URL()
        self._scripts = list(scripts)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        self.requests.append(request)
        if isinstance(script, int):
            return web.Response(status=script)
        ws = web.WebSocketResponse(autoping=False)
        await ws.prepare(request)
        await script(ws)
        await ws.close()
        return ws


@asynccontextmanager
async def serving(*scripts: Script | int) -> AsyncIterator[Server]:
    server = Server(*scripts)
    app = web.Application()
    app.router.add_get("/ws/123", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = URL.build(scheme="ws", host="127.0.0.1", port=runner.addresses[0][1], path="/ws/123")
    try:
        yield server
    finally:
        await runner.cleanup()


async def watched(
    server: Server, *, count: int | None = None, ack: bool = False, token: str | None = TOKEN
) -> Recording:
    """Watch until the count is reached; fails the test when it takes too long."""
    screen = Recording()
    async with asyncio.timeout(30):
        assert await watch(Wish(server.url, token, ack=ack, count=count), screen) is Exit.OK
    return screen


def frame(type_: str, data: Any, **more: Any) -> str:
    return json.dumps({"type": type_, "diagnosis_id": 123, "timestamp": AT, "data": data, **more})


def welcome(*, heartbeat_seconds: float = 25, receipt_timeout_seconds: float = 5) -> str:
    data = {"connection_id": "c", "queued_messages": 0, "gap": False, "resumed": True, "receipts": "pong"}
    times = {"heartbeat_seconds": heartbeat_seconds, "receipt_timeout_seconds": receipt_timeout_seconds}
    return frame("connect", {**data, "window": 256, **times})


def event(event_id: str) -> str:
    return frame("feedback_update", {"feedback_id": 5, "rating": 4, "effectiveness": 0.5}, event_id=event_id)


def sends(*event_ids: str, then: CloseCode | int | None = None) -> Script:
    """Welcomes, sends events, and closes, or waits for the client's close."""

    async def script(ws: Socket) -> None:
        await ws.send_str(welcome())
        for event_id in event_ids:
            await ws.send_str(event(event_id))
        if then is not None:
            await ws.close(
                code=then, message=REASONS.get(CloseCode(then), "").encode() if then in REASONS else b""
            )
        else:
            await heard(ws)

    return script


async def heard(ws: Socket) -> list[tuple[WSMsgType, Any]]:
    """Everything the client says until it closes."""
    return [(message.type, message.data) async for message in _messages(ws)]


async def _messages(ws: Socket) -> AsyncIterator[Any]:
    while (message := await ws.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
        yield message


# -- What travels ------------------------------------------------------------------------------------------------------


async def test_the_token_travels_in_a_header_and_the_frames_are_shown() -> None:
    async with serving(sends("a", "b")) as server:
        screen = await watched(server, count=2)
    (request,) = server.requests
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert screen.ids == ["a", "b"]


async def test_without_a_token_there_is_no_header() -> None:
    async with serving(sends("a")) as server:
        await watched(server, count=1, token=None)
    assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize(("behind", "proved"), [([], True), (["unseen"], False)])
async def test_the_last_event_is_proved_unless_another_one_would_be_with_it(
    behind: list[str], proved: bool
) -> None:
    said: list[tuple[WSMsgType, Any]] = []

    async def script(ws: Socket) -> None:
        await ws.send_str(welcome())
        for event_id in ["wanted", *behind]:
            await ws.send_str(event(event_id))
        await ws.ping(b"1")
        said.extend(await heard(ws))

    async with serving(script) as server:
        screen = await watched(server, count=1)
    assert screen.ids == ["wanted"]
    assert said == ([(WSMsgType.PONG, b"1")] if proved else [])


async def test_a_ping_is_answered_after_what_was_sent_before_it() -> None:
    said: list[tuple[WSMsgType, Any]] = []

    async def script(ws: Socket) -> None:
        await ws.send_str(welcome())
        await ws.send_str(event("a"))
        await ws.ping(b"1")
        said.append(tuple(await ws.receive())[:2])
        await ws.send_str(event("b"))
        await heard(ws)

    async with serving(script) as server:
        await watched(server, count=2)
    assert said == [(WSMsgType.PONG, b"1")]


async def test_with_ack_every_event_is_acknowledged_by_its_id() -> None:
    said: list[tuple[WSMsgType, Any]] = []

    async def script(ws: Socket) -> None:
        await ws.send_str(welcome())
        await ws.send_str(event("a"))
        await ws.send_str(event("b"))
        said.extend(await heard(ws))

    async with serving(script) as server:
        await watched(server, count=2, ack=True)
    assert [json.loads(text) for _, text in said] == [
        {"type": "ack", "event_id": "a"},
        {"type": "ack", "event_id": "b"},
    ]


# -- Coming back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [CloseCode.RESTARTING, CloseCode.NO_RECEIPT, CloseCode.TRY_LATER, CloseCode.TOO_MANY_FRAMES, 1001, 4999],
)
async def test_it_comes_back_where_the_code_allows_it_and_shows_an_event_once(code: int) -> None:
    async with serving(sends("a", "b", then=code), sends("b", "c")) as server:
        screen = await watched(server, count=3)
    assert screen.ids == ["a", "b", "c"]
    assert len(server.requests) == 2
    (note,) = screen.notes
    assert str(int(code)) in note


async def test_it_comes_back_after_a_connection_that_was_cut() -> None:
    async def cut(ws: Socket) -> None:
        await ws.send_str(welcome())
        await ws.send_str(event("a"))
        assert ws.get_extra_info("socket") is not None
        transport = server.requests[-1].transport
        assert transport is not None
        transport.abort()

    async with serving(cut, sends("b")) as server:
        assert (await watched(server, count=2)).ids == ["a", "b"]


async def test_it_comes_back_when_the_server_falls_silent() -> None:
    async def silent(ws: Socket) -> None:
        await ws.send_str(welcome(heartbeat_seconds=0.2, receipt_timeout_seconds=0.1))
        await heard(ws)

    async with serving(silent, sends("a")) as server:
        screen = await watched(server, count=1)
    assert screen.notes == ["nothing was heard for too long; connecting again"]


async def test_it_comes_back_to_a_server_that_is_not_ready() -> None:
    async with serving(503, 429, sends("a")) as server:
        screen = await watched(server, count=1)
    assert len(server.requests) == 3
    assert ["503" in screen.notes[0], "429" in screen.notes[1]] == [True, True]


# -- Staying away ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (CloseCode.NOT_ALLOWED, "refused (1008)"),
        (CloseCode.TOKEN_EXPIRED, "the token expired (4401)"),
        (CloseCode.REPLACED, "replaced (4409)"),
        (CloseCode.FRAME_TOO_LARGE, "frame too large (1009)"),
    ],
)
async def test_it_stays_away_where_the_code_says_so(code: CloseCode, said: str) -> None:
    async with serving(sends("a", then=code)) as server:
        with pytest.raises(Failed, match=said.replace("(", r"\(").replace(")", r"\)")):
            await watched(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [404, 401, 200])
async def test_an_answer_that_is_no_websocket_is_not_tried_again(status: int) -> None:
    async with serving(status) as server:
        with pytest.raises(Failed, match=f"answered {status} instead of a WebSocket"):
            await watched(server)
    assert len(server.requests) == 1


# -- The whole process -------------------------------------------------------------------------------------------------


async def test_a_refusal_is_one_line_that_does_not_hold_the_token() -> None:
    async with serving(sends(then=CloseCode.NOT_ALLOWED)) as server:
        done = await finished("watch", f"{server.url}?token={TOKEN}")
    assert done.code == Exit.FAILED
    assert done.complaint.startswith("realtime-service watch: refused (1008)")
    assert TOKEN not in done.out + done.err
    assert server.requests[0].query_string == ""


async def test_a_server_that_is_not_there_is_said_once_until_the_time_is_up() -> None:
    async with serving(404) as server:
        nobody = f"{server.url}?token={TOKEN}"
    done = await finished("watch", nobody, "--timeout", "2")
    assert (done.code, done.out) == (Exit.TIMED_OUT, "")
    assert "connection refused" in done.complaint
    assert TOKEN not in done.err


async def test_the_words_say_server_device_receipts_and_token() -> None:
    async with serving(sends("a")) as server:
        done = await finished(
            *(
                "watch",
                "--diagnosis",
                "123",
                "--server",
                f"http://127.0.0.1:{server.url.port}",
                "--token",
                "-",
            ),
            *("--client-id", "phone-7", "--ack", "--json", "--count", "1"),
            given=TOKEN.encode() + b"\n",
        )
    assert (done.code, done.err) == (Exit.OK, "")
    assert [json.loads(line)["type"] for line in done.out.splitlines()] == ["connect", "feedback_update"]
    assert dict(server.requests[0].query) == {"client_id": "phone-7", "receipts": "ack"}
    assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


async def test_the_server_is_the_one_that_the_settings_would_start() -> None:
    async with serving(sends("a")) as server:
        env = environment(host="0.0.0.0", port=str(server.url.port))  # noqa: S104  (nothing listens there)
        done = await finished("watch", "--diagnosis", "123", "--token", TOKEN, "--count", "1", env=env)
    assert (done.code, done.err) == (Exit.OK, "")
    assert done.out.splitlines()[0].startswith("connected to diagnosis 123")
