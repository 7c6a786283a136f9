"""TLS to the broker and to PostgreSQL, by an authority that a test made; what shows another certificate is refused.

TLS to clients is the balancer's: see `test_balancers.py`.
"""

import pwd
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from realtime_service.adapters.database import OwnershipDatabase
from realtime_service.adapters.rabbitmq.connecting import close, connect
from realtime_service.domain.errors import BrokerUnavailable, DatabaseUnavailable
from realtime_service.event_publisher import EventPublisher
from realtime_service.settings import load_settings
from tests.deploy.conftest import SetUpBroker
from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import Database, World
from tests.support.certificates import Authority
from tests.support.postgresql import find_postgresql, private_postgresql

HOST: Final = "localhost"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that issued nothing here."""
    return Authority(tmp_path_factory.mktemp("stranger"))


# The broker


@pytest.fixture
def amqps_url(set_up_broker: SetUpBroker) -> str:
    return set_up_broker.tls_url("service")


@pytest.fixture
async def tls_world(amqps_url: str, database: Database, new_id: Callable[[], int]) -> AsyncIterator[World]:
    """Replicas that speak TLS with the broker."""
    async with World(amqps_url, database, new_id) as world:
        yield world


async def test_events_travel_by_tls_from_publisher_to_client(
    tls_world: World, set_up_broker: SetUpBroker, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tls_world.start_replica(ca_file=authority.certificate)
    diagnosis = tls_world.diagnosis()
    client = tls_world.local_client("app")
    await client.connect(tls_world.url(diagnosis))
    await until(lambda: client.is_welcome, "it is welcome")
    monkeypatch.setenv("REALTIME_AMQP_URL", set_up_broker.tls_url("publisher"))
    monkeypatch.setenv("REALTIME_CA_FILE", str(authority.certificate))
    async with EventPublisher() as publisher:
        await publisher.broadcast_feedback_update(diagnosis, 1, 5, 0.5)
    await until(lambda: client.connections[0].events, "the event arrives")


async def test_a_broker_with_a_certificate_of_somebody_else_gets_no_password(
    stranger: Authority, authority: Authority, amqps_url: str
) -> None:
    for url in (
        amqps_url,
        f"{amqps_url}?cafile={stranger.certificate}",
        f"{amqps_url.replace(HOST, '127.0.0.1')}?cafile={authority.certificate}",  # another name than it has
    ):
        with pytest.raises(BrokerUnavailable, match="TLS"):
            await connect(url, name="test")
    await close(await connect(f"{amqps_url}?cafile={authority.certificate}", name="test"))


# The database


@dataclass(frozen=True, slots=True)
class TlsDatabase:
    """Its address, without parameters."""

    url: str

    def settings_url(self, authority: Path, mode: str, host: str = HOST) -> str:
        """What REALTIME_DATABASE_URL and REALTIME_CA_FILE make."""
        variables = {
            "REALTIME_DATABASE_URL": f"{self.url.replace('127.0.0.1', host)}?sslmode={mode}",
            "REALTIME_CA_FILE": str(authority),
        }
        return load_settings(variables).database_url.get_secret_value()


@pytest.fixture(scope="module")
async def tls_database(
    postgresql_url: str, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TlsDatabase]:
    """A private PostgreSQL that takes TLS alone. `postgresql_url` sees to it that the server is installed."""
    programs = find_postgresql()
    assert programs is not None
    with private_postgresql(programs) as url:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        data = Path(await connection.fetchval("SHOW data_directory"))
        _require_tls(data, authority)
        await connection.execute("ALTER SYSTEM SET ssl = on")
        await connection.execute("CREATE TABLE diagnoses (id bigint PRIMARY KEY, patient_id bigint)")
        await connection.fetch("SELECT pg_reload_conf()")
        await connection.close()
        yield TlsDatabase(url)


def _require_tls(data: Path, authority: Authority) -> None:
    """Certificate, key and rules, in the folder that a server reads them from."""
    issued = authority.issue(HOST)
    for source, target in ((issued.certificate, "server.crt"), (issued.key, "server.key")):
        shutil.copy(source, data / target)
        (data / target).chmod(0o600)
        shutil.chown(data / target, pwd.getpwuid(data.stat().st_uid).pw_name)
    hba = data / "pg_hba.conf"
    hba.write_text(hba.read_text().replace("host ", "hostssl "))


async def _ping(url: str) -> None:
    async with OwnershipDatabase(url) as database:
        await database.ping()


async def test_the_database_is_asked_by_tls(tls_database: TlsDatabase, authority: Authority) -> None:
    async def asked() -> bool:
        try:
            await _ping(tls_database.settings_url(authority.certificate, "verify-full"))
        except DatabaseUnavailable:  # it may not have read its configuration yet
            return False
        return True

    await until_true(asked, "it answers")
    with pytest.raises(DatabaseUnavailable):
        await _ping(tls_database.settings_url(authority.certificate, "disable"))


async def test_a_database_with_a_certificate_of_somebody_else_gets_no_password(
    tls_database: TlsDatabase, authority: Authority, stranger: Authority
) -> None:
    with pytest.raises(DatabaseUnavailable, match="SSL"):
        await _ping(tls_database.settings_url(stranger.certificate, "verify-full"))
    with pytest.raises(DatabaseUnavailable, match="SSL"):
        await _ping(tls_database.settings_url(authority.certificate, "verify-full", host="127.0.0.1"))
    await _ping(tls_database.settings_url(authority.certificate, "verify-ca", host="127.0.0.1"))
