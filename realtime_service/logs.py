"""Logging: one event a line, with fields; JSON for machines, columns for people. Never a token, never a payload."""

import hashlib
import logging
import sys
from typing import Any

import structlog

from contracts.ids import DiagnosisId


def hashed(diagnosis: DiagnosisId) -> str:
    """What stands for a diagnosis in a log line: the same for the same one, and no id to be read by chance."""
    return hashlib.sha256(f"diagnosis.{diagnosis}".encode()).hexdigest()[:12]


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
