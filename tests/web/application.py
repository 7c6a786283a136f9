"""The HTTP routes on a real socket, over fakes of their ports and a real token verifier."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import ClientResponse, ClientSession, web
from prometheus_client import CollectorRegistry

from contracts.http import PROBLEM_JSON
from contracts.ids import UserId
from realtime_service.adapters.tokens import FixedKey, TokenRules, TokenVerifier, sign_token
from realtime_service.web import broadcasts, health, problems, status
from realtime_service.web.access_log import AccessLog
from realtime_service.web.keys import (
    BACKLOGS,
    BROADCAST_LIMITS,
    CENSUS,
    EVENT_SINK,
    OWNERSHIP,
    READINESS,
    REGISTRY,
    VERIFIER,
)
from realtime_service.web.rate import CallerLimits
from tests.fakes import FakeBacklogs, FakeCensus, FakeEventSink, FakeOwnership, FakeReadiness

SECRET: Final = "of the tests alone, and long enough for HS256"
OWNER: Final = 100
STRANGER: Final = 200
DIAGNOSIS: Final = 123


def bearer(user: int = OWNER, *scopes: str, expires_in_seconds: float = 86_400) -> dict[str, str]:
    """The header of somebody with a token."""
    token = sign_token(SECRET, user, expires_in_seconds=expires_in_seconds, scopes=scopes)
    return {"Authorization": f"Bearer {token}"}


class Service:
    """The ports a test may turn, and the way to the routes."""

    def __init__(self) -> None:
        self.ownership = FakeOwnership({DIAGNOSIS: OWNER})
        self.sink = FakeEventSink()
        self.census = FakeCensus()
        self.backlogs = FakeBacklogs()
        self.readiness = FakeReadiness(broker="ok", database="ok")
        self.registry = CollectorRegistry()
        self.backlog_seconds = 5.0
        self.now = 0.0
        self.limits = CallerLimits[UserId](1, 10, clock=lambda: self.now)
        self.port: int
        self.session: ClientSession

    def application(self) -> web.Application:
        app = web.Application()
        app[VERIFIER] = TokenVerifier(FixedKey(SECRET, ["HS256"]), TokenRules(("HS256",)))
        app[OWNERSHIP] = self.ownership
        app[EVENT_SINK] = self.sink
        app[BROADCAST_LIMITS] = self.limits
        app[CENSUS] = self.census
        app[BACKLOGS] = self.backlogs
        app[READINESS] = self.readiness
        app[REGISTRY] = self.registry
        app.add_routes(
            [*broadcasts.routes(), *status.routes(backlog_seconds=self.backlog_seconds), *health.routes()]
        )
        problems.install(app)
        return app

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def ask(self, method: str, path: str, **request: Any) -> tuple[ClientResponse, Any]:
        """Send a request; the answer, and its JSON (None when it is empty)."""
        async with self.session.request(method, self.url(path), **request) as answer:
            body = await answer.read()
            return answer, await answer.json(content_type=None) if body else None


@asynccontextmanager
async def serving(*routes: web.RouteDef, service: Service | None = None) -> AsyncIterator[Service]:
    """The application, and more routes beside its own, on a free port of this machine.

    Served as in production, and not by aiohttp's TestServer, which cancels handlers whose client goes away.
    """
    service = service or Service()
    app = service.application()
    app.add_routes(routes)
    runner = web.AppRunner(app, handle_signals=False, access_log_class=AccessLog, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        service.port = runner.addresses[0][1]
        async with ClientSession() as service.session:
            yield service
    finally:
        await runner.cleanup()


async def raw(service: Service, request: bytes, *, until: bytes | None = None) -> bytes:
    """Send bytes on a connection of their own; what comes back until some bytes, or until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        writer.write(request)
        return await reader.read() if until is None else await reader.readuntil(until)
    finally:
        writer.close()
        await writer.wait_closed()


def assert_problem(answer: ClientResponse, body: Any, status: int) -> None:
    """RFC 9457, and nothing that a cache may keep."""
    assert answer.status == status
    assert answer.content_type == PROBLEM_JSON
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["detail"]
