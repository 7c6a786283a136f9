"""The database is away: who is there stays and is served, who comes is told to come later."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.service.harness.checker import Audience
from tests.service.harness.waiting import until, until_true
from tests.service.harness.world import Database, World, verdict

ANSWER_SECONDS: Final = 4.0
"""The database has 2 s to answer."""


@contextmanager
def renamed(database: Database) -> Iterator[None]:
    """Another schema: every query fails at once."""
    database.execute("ALTER TABLE diagnoses RENAME TO elsewhere")
    yield
    database.execute("ALTER TABLE elsewhere RENAME TO diagnoses")


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Every query waits."""
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("fault", [renamed, locked], ids=["fails", "does not answer"])
async def test_those_connected_go_on_and_newcomers_come_later_when_the_database(
    fragile_world: World, tmp_path: Path, fault: Callable[[Database], AbstractContextManager[None]]
) -> None:
    world = (
        fragile_world  # its own broker: the shared replica would serve first contacts from another database
    )
    world.database = Database(tmp_path / "own.db")
    await world.start_replica()
    diagnosis, never_seen = world.diagnosis(), world.diagnosis()
    recorder = await world.recorder()
    stays, comes = world.local_client("stays"), world.local_client("comes")
    await stays.connect(world.url(diagnosis))
    await until(lambda: stays.is_welcome, "it is welcome")

    with fault(world.database):
        await recorder.publish(never_seen, 5)
        await recorder.publish(diagnosis, 5)
        await until(lambda: stays.connections[0].proven == 5, "who is there is served")
        refused = await comes.connect(world.url(diagnosis))
        await until(lambda: refused.code is not None, "the newcomer is answered", seconds=ANSWER_SECONDS)
        assert refused.code == 1013
        assert refused.welcome is None
        ready, alive, refused_broadcast = await asyncio.gather(
            world.http("GET", "/readyz"),
            world.http("GET", "/livez"),
            world.broadcast_feedback(diagnosis, feedback_id=1),
        )
        assert ready.status == 503
        assert ready.body["checks"] == {"broker": "ok", "database": "unavailable", "accepting": "ok"}
        assert alive.status == 200
        assert refused_broadcast.status == 503

    async def is_ready() -> bool:
        return (await world.http("GET", "/readyz")).status == 200

    await until_true(is_ready, "the replica is ready again")
    await comes.connect(world.url(diagnosis))
    await until(lambda: comes.is_welcome, "newcomers are welcome again")
    connection = await comes.connect(world.url(never_seen))
    await until(lambda: connection.proven == 5, "what waited arrives")
    audiences = {diagnosis: [Audience("stays", [stays])], never_seen: [Audience("comes", [comes])]}
    for watched, audience in audiences.items():
        found = await verdict(recorder, watched, audience)
        assert not found.lost
        assert not found.reordered
    assert stays.is_welcome
