"""One line a request; tokens never."""

import asyncio
import logging

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from contracts.ids import DiagnosisId
from realtime_service.logs import hashed
from realtime_service.web.access_log import redact_offered_subprotocols, redact_unreadable_requests
from tests.web.application import bearer, raw, serving

FEEDBACK = "/ws/broadcast-feedback-update"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.payload.signature"


async def websocket(request: web.Request) -> web.StreamResponse:
    ws = web.WebSocketResponse(protocols=("realtime.v1",))
    await ws.prepare(request)
    await ws.close()
    return ws


async def test_a_request_is_one_event_with_its_fields() -> None:
    with capture_logs() as events:
        async with serving() as service:
            await service.ask("GET", "/livez")
    [event] = events
    assert event.pop("duration_ms") >= 0
    assert event.pop("bytes") > 0
    assert event == {
        "event": "http_request",
        "log_level": "info",
        "method": "GET",
        "path": "/livez",
        "status": 200,
    }


async def test_the_query_is_not_logged() -> None:
    with capture_logs() as events:
        async with serving(web.get("/ws/{diagnosis_id}", websocket)) as service:
            await service.ask("GET", f"/ws/123?token={TOKEN}")
    assert (events[0]["path"], events[0]["diagnosis"]) == ("/ws/{diagnosis_id}", hashed(DiagnosisId(123)))
    assert "123" not in events[0]["path"]
    assert TOKEN not in str(events)


async def test_nobody_writes_lines_of_their_own_into_the_log() -> None:
    with capture_logs() as events:
        async with serving() as service:
            await service.ask("GET", "/x%0Aforged=line%1b[2J" + "y" * 1000)
    assert events[0]["path"].startswith("/x%0Aforged=line%1B")
    assert len(events[0]["path"]) <= 256


async def test_a_websocket_is_logged_when_it_ends() -> None:
    with capture_logs() as events:
        async with serving(web.get("/ws/{diagnosis_id}", websocket)) as service:
            ws = await service.session.ws_connect(service.url("/ws/123"))
            await ws.receive()
            while not events:  # noqa: ASYNC110  (a log has no event to wait for)
                await asyncio.sleep(0)
    assert [(event["path"], event["status"]) for event in events] == [("/ws/{diagnosis_id}", 101)]


async def test_a_token_offered_as_subprotocol_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    redact_offered_subprotocols()
    async with serving(web.get("/ws/{diagnosis_id}", websocket)) as service:
        url = service.url("/ws/123")
        async with service.session.ws_connect(url, protocols=[f"bearer.{TOKEN}"]) as ws:
            await ws.receive()
    [record] = caplog.records
    assert record.name == "aiohttp.websocket"
    assert TOKEN not in record.getMessage()


@pytest.mark.parametrize(
    "request_text",
    [
        f"GET /ws/1?token={TOKEN} and more HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /ws/1?token={TOKEN}{'x' * 9000} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /ws/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\x01\r\n\r\n",
        f"POST {FEEDBACK} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{TOKEN}\r\n",
    ],
    ids=["request line", "too long", "header", "chunk"],
)
async def test_a_token_in_a_request_that_is_no_http_is_not_logged(
    request_text: str, caplog: pytest.LogCaptureFixture
) -> None:
    redact_unreadable_requests()
    async with serving() as service:
        answer = await raw(service, request_text.encode())
    assert answer.split(b" ")[1] in {b"400", b"401"}
    records = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert all("is not HTTP" in record.getMessage() for record in records)
    assert {record.levelname for record in records} <= {"INFO"}
    assert TOKEN not in "".join(logging.Formatter().format(record) for record in records)


async def test_a_body_that_cannot_be_unpacked_is_its_callers_fault_and_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    redact_unreadable_requests()
    headers = bearer() | {"Content-Encoding": "gzip"}
    async with serving() as service:
        answer, _ = await service.ask("POST", FEEDBACK, data=b"this is not gzip", headers=headers)
    assert answer.status == 400
    assert "Traceback" not in caplog.text


async def test_a_bug_of_ours_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    redact_unreadable_requests()
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        logging.getLogger("aiohttp.server").exception("Unhandled exception")
    assert "RuntimeError: a bug" in caplog.text


def test_the_redactions_may_be_asked_for_twice() -> None:
    for _ in range(2):
        redact_offered_subprotocols()
        redact_unreadable_requests()
    assert len(logging.getLogger("aiohttp.websocket").filters) == 1
    assert len(logging.getLogger("aiohttp.server").filters) == 1
