"""Servers that all tests share: private ones, started for this run, never the machine's own. And a browser to start.

They are started between collection and the first test, and only if a test wants them: an installation takes minutes,
and would otherwise use up that test's time-out.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import pytest

from realtime_service.embedded.rabbitmq import Broker, BrokerUnavailable, obtain_broker
from realtime_service.embedded.ways import Say
from tests.support.balancers import BalancerUnavailable, Kind, obtain_balancers
from tests.support.chromium import BrowserUnavailable, obtain_chromium
from tests.support.postgresql import SETTING as DATABASE_SETTING
from tests.support.postgresql import DatabaseUnavailable, obtain_postgresql
from tests.support.prometheus import PromtoolUnavailable, obtain_promtool

BROKER_SETTING: Final = "REALTIME_TEST_AMQP_URL"
BROKER_SETTINGS: Final = (BROKER_SETTING, "REALTIME_AMQP_URL")
LOCK: Final = Path(tempfile.gettempdir(), f"realtime-service-tests-{os.getuid()}.lock")
"""Held while something is looked for, installed or started: another process of tests may be about to do the same."""

_OBTAIN: Final[dict[str, Callable[[Say], AbstractContextManager[object]]]] = {
    "broker": lambda say: obtain_broker(
        next(filter(None, map(os.environ.get, BROKER_SETTINGS)), None),
        management=False,
        say=say,
        setting=BROKER_SETTING,
    ),
    "postgresql_url": lambda say: obtain_postgresql(os.environ.get(DATABASE_SETTING), say=say),
    "chromium_program": obtain_chromium,
    "balancer_programs": obtain_balancers,
    "promtool": obtain_promtool,
}
_UNAVAILABLE: Final = (
    BalancerUnavailable,
    BrokerUnavailable,
    BrowserUnavailable,
    DatabaseUnavailable,
    PromtoolUnavailable,
)
_STARTED: Final = pytest.StashKey[dict[str, object]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what the chosen tests want."""
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if not session.config.option.collectonly:
        for name in wanted & _OBTAIN.keys():
            _started(session.config, name)


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Broker:
    """The RabbitMQ of this run. Tests that kill or freeze a broker start one of their own."""
    return cast("Broker", _outcome(pytestconfig, "broker"))


@pytest.fixture(scope="session")
def postgresql_url(pytestconfig: pytest.Config) -> str:
    """SQLAlchemy URL (asyncpg) of the PostgreSQL of this run."""
    return cast("str", _outcome(pytestconfig, "postgresql_url"))


@pytest.fixture(scope="session")
def chromium_program(pytestconfig: pytest.Config) -> Path:
    """A Chromium to start."""
    return cast("Path", _outcome(pytestconfig, "chromium_program"))


@pytest.fixture(scope="session")
def balancer_programs(pytestconfig: pytest.Config) -> dict[Kind, Path]:
    """nginx and HAProxy, to start."""
    return cast("dict[Kind, Path]", _outcome(pytestconfig, "balancer_programs"))


@pytest.fixture(scope="session")
def promtool(pytestconfig: pytest.Config) -> Path:
    """Prometheus' own reader of rules."""
    return cast("Path", _outcome(pytestconfig, "promtool"))


def on_its_own(broker: Broker, name: str) -> Broker:
    """The same broker, a virtual host of its own: replicas with different databases would share one first-contact door.

    A broker that was named for the tests is used as it is.
    """
    if broker.node is None:
        return broker
    user = urlsplit(broker.amqp_url).username or ""
    broker.node.ctl("add_vhost", name)
    broker.node.ctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
    return replace(broker, amqp_url=f"{broker.amqp_url.rsplit('/', 1)[0]}/{name}")


def _outcome(config: pytest.Config, name: str) -> object:
    server = _started(config, name)
    if isinstance(server, Exception):
        pytest.fail(str(server), pytrace=False)
    return server


def _started(config: pytest.Config, name: str) -> Any:
    """The server, or the error that there is none; asked for once, started once."""
    servers = config.stash.setdefault(_STARTED, {})
    if name not in servers:
        reporter = config.pluginmanager.getplugin("terminalreporter")
        stack = ExitStack()
        config.add_cleanup(stack.close)
        try:
            with LOCK.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                servers[name] = stack.enter_context(_OBTAIN[name](reporter.write_line if reporter else print))
        except _UNAVAILABLE as error:
            servers[name] = error
    return servers[name]
