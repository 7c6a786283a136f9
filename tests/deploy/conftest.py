"""Fixtures for what operators run: a broker set up by `deploy/rabbitmq`, and replicas that log in as its `service`."""

import asyncio
import json
import os
import random
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from realtime_service.embedded.loopback import free_ports
from realtime_service.embedded.rabbitmq import PrivateRabbitMQ, start_private_rabbitmq
from tests.service.harness.world import Database, World
from tests.support.certificates import Authority

ROOT: Final = Path(__file__).parents[2]
USERS: Final = ("publisher", "service", "monitor", "operator")


@dataclass(frozen=True, slots=True)
class SetUpBroker:
    """A node that read the definitions."""

    node: PrivateRabbitMQ
    passwords: Mapping[str, str]
    tls_port: int

    def url(self, user: str) -> str:
        """The AMQP URL of one of its users."""
        return f"amqp://{user}:{self.passwords[user]}@127.0.0.1:{self.node.port}/realtime"

    def tls_url(self, user: str) -> str:
        """The same by TLS, with the name that its certificate has."""
        return f"amqps://{user}:{self.passwords[user]}@localhost:{self.tls_port}/realtime"

    def management_url(self, user: str) -> str:
        """The same for the management API."""
        assert self.node.management_url is not None
        address = self.node.management_url.rpartition("@")[2]
        return f"http://{user}:{self.passwords[user]}@{address}"


def write_definitions(**environment: str) -> dict[str, Any]:
    """What `deploy/rabbitmq/definitions.py` prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
    printed = subprocess.run(
        [sys.executable, "deploy/rabbitmq/definitions.py"],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    written: dict[str, Any] = json.loads(printed)
    return written


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Issued the certificates of broker and database."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def set_up_broker(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[SetUpBroker]:
    """A private node with the definitions of `deploy/`, passwords from files, and a port for TLS."""
    directory = tmp_path_factory.mktemp("rabbitmq")
    passwords = {user: secrets.token_hex(16) for user in USERS}
    environment = {}
    for user, password in passwords.items():
        (directory / user).write_text(f"{password}\n")
        environment[f"RABBITMQ_{user.upper()}_PASSWORD_FILE"] = str(directory / user)
    written = json.dumps(write_definitions(**environment))
    assert not any(password in written for password in passwords.values())
    (directory / "definitions.json").write_text(written)
    (tls_port,) = free_ports(1)
    issued = authority.issue("localhost")
    tls = (
        f"listeners.ssl.1 = 127.0.0.1:{tls_port}\nssl_options.cacertfile = {authority.certificate}\n"
        f"ssl_options.certfile = {issued.certificate}\nssl_options.keyfile = {issued.key}\n"
    )
    node = start_private_rabbitmq(management=True, configuration=tls)
    try:
        node.ctl("import_definitions", str(directory / "definitions.json"))
        yield SetUpBroker(node, passwords, tls_port)
    finally:
        node.stop()


@pytest.fixture(scope="session")
def new_id() -> Callable[[], int]:
    """Ids that nobody used before."""
    ids = count(random.randrange(1, 2**40) * 10_000)
    return lambda: next(ids)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return Database(tmp_path_factory.mktemp("database") / "diagnoses.db")


@pytest.fixture
async def world(
    set_up_broker: SetUpBroker, database: Database, new_id: Callable[[], int]
) -> AsyncIterator[World]:
    """Replicas that log in as `service`."""
    async with World(set_up_broker.url("service"), database, new_id) as world:
        yield world


async def printed_by(*command: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output, both streams, of a program that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=None if env is None else {**os.environ, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")
