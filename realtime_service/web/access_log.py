"""One log line a request, and no secret in it: tokens travel in queries, sub-protocols and broken requests.

Nor a diagnosis' id, which travels in the path: a route is logged by its pattern, and the diagnosis hashed.

A WebSocket's line appears when it ends; its duration is the connection's.
"""

import logging
from typing import Final

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_urldispatcher import UrlMappingMatchInfo
from prometheus_client import Counter

from contracts.ids import parse_diagnosis_id
from realtime_service.logs import hashed

log = structlog.get_logger(__name__)

REQUESTS: Final = Counter(
    "realtime_http_requests", "Requests answered; WebSockets (101) when they end", ["status"], registry=None
)
MAX_PATH: Final = 256
"""Characters of a path that are logged."""


class AccessLog(AbstractAccessLogger):
    """For `web.AppRunner(access_log_class=AccessLog)`."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log a request that took `time` seconds."""
        REQUESTS.labels(status=str(response.status)).inc()
        log.info(
            "http_request",
            method=request.method,
            **_where(request),
            status=response.status,
            duration_ms=round(time * 1000, 1),
            bytes=response.body_length,
        )


def _where(request: web.BaseRequest) -> dict[str, str]:
    match = _match_of(request)
    resource = match.route.resource if match is not None else None
    if match is None or resource is None:
        return {
            "path": request.rel_url.raw_path[:MAX_PATH]
        }  # percent-encoded: nobody writes lines of their own
    diagnosis = parse_diagnosis_id(match.get("diagnosis_id", ""))
    where = {"path": resource.canonical}
    return where if diagnosis is None else {**where, "diagnosis": hashed(diagnosis)}


def _match_of(request: web.BaseRequest) -> UrlMappingMatchInfo | None:
    if not isinstance(request, web.Request):
        return None
    try:
        return request.match_info
    except AssertionError:  # aiohttp 3.14: of a request that is no HTTP nobody looked for the route
        return None


def redact_offered_subprotocols() -> None:
    """Keep the sub-protocols a client offered out of the log: one of them may be `bearer.<jwt>`.

    aiohttp 3.14 logs all of them when none is the server's.
    """
    logging.getLogger("aiohttp.websocket").addFilter(_without_lists)


def redact_unreadable_requests() -> None:
    """Keep requests that are not HTTP out of the log: aiohttp 3.14 logs an exception that quotes them.

    What any stranger can cause is no error of ours either: it is logged like a request.
    """
    logging.getLogger("aiohttp.server").addFilter(_without_quotes)


def _without_lists(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple("(redacted)" if isinstance(part, list | tuple) else part for part in record.args)
    return True


def _without_quotes(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | web.RequestPayloadError):
        record.msg, record.args = "request is not HTTP: %s", (type(error).__name__,)
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True
