"""One log line a request, and no secret in it: tokens travel in queries, sub-protocols and broken requests.

A WebSocket's line appears when it ends; its duration is the connection's.
"""

import logging
from typing import Final

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

log = structlog.get_logger(__name__)

MAX_PATH: Final = 256
"""Characters of a path that are logged."""


class AccessLog(AbstractAccessLogger):
    """For `web.AppRunner(access_log_class=AccessLog)`."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log a request that took `time` seconds."""
        log.info(
            "http_request",
            method=request.method,
            path=request.rel_url.raw_path[:MAX_PATH],  # percent-encoded: nobody writes lines of their own
            status=response.status,
            duration_ms=round(time * 1000, 1),
            bytes=response.body_length,
        )


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
