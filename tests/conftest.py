"""Fixtures for all tests, each written, and explained, in `tests/support`; and how tests share two processors."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.support.servers import (
    BROKER_SETTINGS,
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
    "pytest_collection_modifyitems",
    "pytest_xdist_auto_num_workers",
]

HERE: Final = Path(__file__).parent
LONGEST: Final = "service"


def pytest_xdist_auto_num_workers() -> int:
    """`--numprocesses auto`: two, each with servers of its own; none, where a broker was named that all would share."""
    return 0 if any(os.environ.get(name) for name in BROKER_SETTINGS) else min(2, os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes run tests, a folder's stay together, in their order; the longest folder begins."""
    if not config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_folder(item)))
    items.sort(key=lambda item: _folder(item) != LONGEST)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0]
