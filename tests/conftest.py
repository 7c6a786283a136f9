"""Fixtures for all tests, each written, and explained, in `tests/support`; and how tests share two processors."""

import os
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

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
    "pytest_xdist_make_scheduler",
]

LONGEST: Final = "service"


def pytest_xdist_auto_num_workers() -> int:
    """`--numprocesses auto`: two, each with servers of its own; none, where a broker was named that all would share."""
    return 0 if any(os.environ.get(name) for name in BROKER_SETTINGS) else min(2, os.cpu_count() or 1)


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
    """A folder's tests stay together, in their order: they share what is costly to start."""

    def _split_scope(self, nodeid: str) -> str:
        return _folder(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    """Where several processes run tests, each takes folder after folder."""
    return ByFolder(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest folder begins, so that none is left to work alone at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _folder(item.nodeid) != LONGEST)


def _folder(nodeid: str) -> str:
    path, _, _ = nodeid.partition("::")
    return path.removeprefix("tests/").partition("/")[0]
