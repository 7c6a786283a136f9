"""`GET /ws/status`: who is connected and what waits. For operators: medical data stand behind the ids."""

import asyncio
from typing import Final

import structlog
from aiohttp import hdrs, web

from contracts.http import StatusReport
from contracts.ids import DiagnosisId
from realtime_service.domain.errors import RealtimeError
from realtime_service.domain.identity import Scope
from realtime_service.web.credentials import authenticate
from realtime_service.web.keys import BACKLOGS, CENSUS, VERIFIER
from realtime_service.web.ports import Backlogs
from realtime_service.web.problems import HttpProblem

log = structlog.get_logger(__name__)

BACKLOG_SECONDS: Final = 5.0
"""When the broker takes longer, the report goes without what waits, and says so."""


def routes() -> list[web.RouteDef]:
    """The route. It needs VERIFIER, CENSUS and BACKLOGS."""
    return [web.get("/ws/status", _status)]


async def _status(request: web.Request) -> web.StreamResponse:
    caller = await authenticate(request, request.app[VERIFIER])
    if not caller.has(Scope.OPERATOR):
        raise HttpProblem(403, f"the token's scope does not hold `{Scope.OPERATOR}`")
    waiting, truncated = await _waiting(request.app[BACKLOGS])
    connections = request.app[CENSUS].connections_by_diagnosis()
    report = StatusReport(
        total_diagnoses=len(connections),
        total_connections=sum(connections.values()),
        connections_by_diagnosis=_by_text(connections),
        queued_messages_by_diagnosis=_by_text(waiting),
        truncated=truncated,
    )
    return web.Response(
        body=report.model_dump_json().encode(),
        content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )


async def _waiting(backlogs: Backlogs) -> tuple[dict[DiagnosisId, int], bool]:
    """What is known: a broker that is away is no reason to hide who is connected."""
    try:
        async with asyncio.timeout(BACKLOG_SECONDS):
            return await backlogs.waiting()
    except (TimeoutError, RealtimeError) as error:
        log.warning("backlogs_unknown", error=type(error).__name__)
        return {}, True


def _by_text(counts: dict[DiagnosisId, int]) -> dict[str, int]:
    return {str(diagnosis): count for diagnosis, count in sorted(counts.items())}
