"""Logging: one event a line, with fields; JSON for machines, columns for people. Never a token, never a payload."""

import hashlib
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog
from prometheus_client import Counter

from contracts.ids import DiagnosisId

TROUBLES: Final = Counter(
    "realtime_troubles", "Log lines of the service that are warnings or errors", ["event"], registry=None
)
"""Whatever goes wrong is said in a line, and counted by that line's name."""
_NAME: Final = re.compile("[a-z_]{1,64}")


def hashed(diagnosis: DiagnosisId) -> str:
    """What stands for a diagnosis in a log line: the same for the same one, and no id to be read by chance."""
    return hashlib.sha256(f"diagnosis.{diagnosis}".encode()).hexdigest()[:12]


def count_troubles(_: object, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor."""
    if method in ("warning", "error", "exception", "critical"):
        event = line["event"]
        TROUBLES.labels(event=event if _NAME.fullmatch(event) else "other").inc()
    return line


def configure(level: str, log_format: str) -> None:
    """Send this service's events and the libraries' records to standard error, alike."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            count_troubles,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "console":
        # Where `rich` is installed, structlog would print every local variable beside a traceback.
        plain = structlog.dev.plain_traceback
        final.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    else:
        final += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in ("asyncio", "aiosqlite", "sqlalchemy"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    # What goes wrong there is raised too, and logged where it is handled.
    for library in ("aio_pika", "aiormq"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
