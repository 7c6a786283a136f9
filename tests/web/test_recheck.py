"""Who lost a diagnosis while connected is closed; who cannot be asked about stays."""

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from structlog.testing import capture_logs

from contracts.close_codes import REASONS, CloseCode
from realtime_service.event_publisher import EventPublisher
from tests.service.harness.waiting import until_true
from tests.web.replica import STRANGER, Amqp, Diagnoses, Replica, Visitors, replica_of

INTERVAL_SECONDS: Final = 0.2
REVOKED: Final = (1008, REASONS[CloseCode.NOT_ALLOWED])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file to lock and to spoil."""
    return tmp_path / "own.db"


@pytest.fixture
async def replica(amqp: Amqp, events: EventPublisher, database: Path) -> AsyncIterator[Replica]:
    async with replica_of(
        amqp,
        events,
        Diagnoses(database),
        ownership_recheck_seconds=INTERVAL_SECONDS,
        receipt_timeout_seconds=30,
    ) as replica:
        yield replica


async def count(replica: Replica, metric: str) -> float:
    """A counter of the replica."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{replica.address}/metrics") as answer:
        found = re.search(rf"^{metric} (\S+)$", await answer.text(), re.MULTILINE)
    assert found, metric
    return float(found[1])


@pytest.mark.parametrize(
    "revocation",
    ["UPDATE diagnoses SET patient_id = -1 WHERE id = ?", "DELETE FROM diagnoses WHERE id = ?"],
    ids=["another owner", "no such diagnosis"],
)
async def test_who_lost_a_diagnosis_is_closed_and_others_stay(
    replica: Replica, visitors: Visitors, revocation: str
) -> None:
    lost, kept = replica.diagnoses.add(), replica.diagnoses.add()
    revoked = [await visitors.welcomed(lost), await visitors.welcomed(lost, client_id="phone")]
    stays = await visitors.welcomed(kept)
    replica.diagnoses.execute(revocation, (lost,))
    assert [await client.closed() for client in revoked] == [REVOKED, REVOKED]
    assert await count(replica, "realtime_connections_revoked_total") == 2
    await replica.feedback(kept, 1)
    assert await stays.numbers(1) == [1]


async def test_the_new_owner_is_let_in_and_stays(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    before = await visitors.welcomed(diagnosis)
    replica.diagnoses.execute("UPDATE diagnoses SET patient_id = ? WHERE id = ?", (STRANGER, diagnosis))
    after = await visitors.welcomed(diagnosis, user=STRANGER)
    assert await before.closed() == REVOKED
    await replica.feedback(diagnosis, 1)
    assert await after.numbers(1) == [1]
    assert await count(replica, "realtime_connections_revoked_total") == 1


async def test_nobody_is_closed_while_the_database_fails_and_the_revoked_are_when_it_is_back(
    replica: Replica, visitors: Visitors
) -> None:
    lost, kept = replica.diagnoses.add(), replica.diagnoses.add()
    revoked, stays = await visitors.welcomed(lost), await visitors.welcomed(kept)
    with capture_logs() as lines:
        replica.diagnoses.execute("ALTER TABLE diagnoses RENAME TO elsewhere")
        replica.diagnoses.execute("DELETE FROM elsewhere WHERE id = ?", (lost,))
        await failed(replica, looks=3)
        await replica.feedback(lost, 1)
        await replica.feedback(kept, 1)
        assert await revoked.numbers(1) == await stays.numbers(1) == [1]
    assert [line["event"] for line in lines].count("ownership_not_rechecked") == 1
    replica.diagnoses.execute("ALTER TABLE elsewhere RENAME TO diagnoses")
    assert await revoked.closed() == REVOKED
    await stays.ping()


async def test_nobody_is_closed_while_the_database_does_not_answer(
    replica: Replica, visitors: Visitors, database: Path
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    with locked(database):
        await failed(replica, looks=1)
        await client.ping()
    await replica.feedback(diagnosis, 1)
    assert await client.numbers(1) == [1]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Every query waits."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


async def failed(replica: Replica, *, looks: int) -> None:
    """Wait until so many looks had no answer."""

    async def reached() -> bool:
        return await count(replica, "realtime_ownership_rechecks_failed_total") >= looks

    await until_true(reached, "the database did not answer")
