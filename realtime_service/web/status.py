"""`GET /ws/status`: who is connected and what waits. For operators: medical data stand behind the ids."""

import asyncio
from collections import Counter
from typing import Final

import structlog
from aiohttp import hdrs, web

from contracts.http import StatusReport
from contracts.ids import DiagnosisId
from realtime_service.cluster import Counted
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
        # In this order: what is handed out meanwhile is counted twice rather than not at all.
        counted = await request.app[CENSUS].census()
        report = _report(counted, waiting, truncated=truncated)
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


def _report(counted: Counted, ready: dict[DiagnosisId, int], *, truncated: bool) -> StatusReport:
    connections = counted.connections
    return StatusReport(
        total_diagnoses=len(connections),
        total_connections=sum(connections.values()),
        connections_by_diagnosis=_by_text(connections),
        queued_messages_by_diagnosis=_by_text(Counter(ready) + Counter(counted.unsettled)),
        truncated=truncated or bool(counted.silent),
        silent_replicas=counted.silent,
    )


def _by_text(counts: dict[DiagnosisId, int]) -> dict[str, int]:
    return {str(diagnosis): count for diagnosis, count in sorted(counts.items())}
