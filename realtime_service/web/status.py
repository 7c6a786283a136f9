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


def routes(*, backlog_seconds: float = BACKLOG_SECONDS) -> list[web.RouteDef]:
    """The route. It needs VERIFIER, CENSUS and BACKLOGS."""

    async def status(request: web.Request) -> web.StreamResponse:
        caller = await authenticate(request, request.app[VERIFIER])
        if not caller.has(Scope.OPERATOR):
            raise HttpProblem(403, f"the token's scope does not hold `{Scope.OPERATOR}`")
        waiting, truncated = await _waiting(request.app[BACKLOGS], backlog_seconds)
        report = _report(request.app[CENSUS].connections_by_diagnosis(), waiting, truncated=truncated)
        return web.Response(
            body=report.model_dump_json().encode(),
            content_type="application/json",
            headers={hdrs.CACHE_CONTROL: "no-store"},
        )

    return [web.get("/ws/status", status)]


async def _waiting(backlogs: Backlogs, seconds: float) -> tuple[dict[DiagnosisId, int], bool]:
    """What is known: a broker that is away is no reason to hide who is connected."""
    try:
        async with asyncio.timeout(seconds):
            return await backlogs.waiting()
    except (TimeoutError, RealtimeError) as error:
        log.warning("backlogs_unknown", error=type(error).__name__)
        return {}, True


def _report(
    connections: dict[DiagnosisId, int], waiting: dict[DiagnosisId, int], *, truncated: bool
) -> StatusReport:
    return StatusReport(
        total_diagnoses=len(connections),
        total_connections=sum(connections.values()),
        connections_by_diagnosis=_by_text(connections),
        queued_messages_by_diagnosis=_by_text(waiting),
        truncated=truncated,
    )


def _by_text(counts: dict[DiagnosisId, int]) -> dict[str, int]:
    return {str(diagnosis): count for diagnosis, count in sorted(counts.items())}
