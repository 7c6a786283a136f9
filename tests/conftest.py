"""Fixtures for all tests; each is written, and explained, in `tests/support`."""

from tests.support.servers import (
    balancer_programs,
    broker,
    chromium_program,
    postgresql_url,
    promtool,
    pytest_collection_finish,
)

__all__ = [
    "balancer_programs",
    "broker",
    "chromium_program",
    "postgresql_url",
    "promtool",
    "pytest_collection_finish",
]
