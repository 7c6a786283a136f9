"""Ownership: the fake, SQLite and PostgreSQL keep one promise; PostgreSQL also when the network or the server fails."""

import asyncio
import secrets
import sqlite3
import threading
import traceback
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, Select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from contracts.ids import MAX_ID, DiagnosisId
from realtime_service.adapters.database import (
    IDS_PER_QUERY,
    POOL_SIZE,
    OwnershipDatabase,
    create_embedded_database,
)
from realtime_service.domain.errors import DatabaseUnavailable, SettingsError
from realtime_service.domain.ports import Ownership
from tests.fakes import FakeOwnership

OWNERS = {1: 10, 2: 20, MAX_ID: MAX_ID}
FIRST, SECOND, UNKNOWN, LARGEST = map(DiagnosisId, (1, 2, 3, MAX_ID))


async def administer(server: str, *statements: str) -> list[object]:
    """Run statements outside transactions; the first column of what they return."""
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            results = [await connection.execute(text(statement)) for statement in statements]
            return [value for result in results if result.returns_rows for value in result.scalars()]
    finally:
        await engine.dispose()


@pytest.fixture(scope="module")
async def own_database(postgresql_url: str) -> AsyncIterator[str]:
    """The URL of a PostgreSQL database that nobody else uses."""
    name = f"owners_{secrets.token_hex(6)}"
    await administer(postgresql_url, f"CREATE DATABASE {name} TEMPLATE template0")
    yield make_url(postgresql_url).set(database=name).render_as_string(hide_password=False)
    await administer(postgresql_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def postgresql(own_database: str) -> str:
    """The same, as every test wants to find it."""
    await administer(own_database, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    await create_embedded_database(own_database, OWNERS)
    return own_database


@pytest.fixture
async def sqlite(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/owners.db"
    await create_embedded_database(url, OWNERS)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture(params=["fake", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> str | None:
    """Where the owners stand; None: in the fake."""
    return None if request.param == "fake" else str(request.getfixturevalue(request.param))


@pytest.fixture
async def ownership(place: str | None) -> AsyncIterator[Ownership]:
    """Whatever says whose diagnosis it is."""
    if place is None:
        yield FakeOwnership(OWNERS)
        return
    async with OwnershipDatabase(place) as database:
        yield database


@pytest.fixture(params=["fake", "sqlite", "postgresql"])
async def away(
    request: pytest.FixtureRequest, tmp_path: Path, unused_tcp_port: int
) -> AsyncIterator[Ownership]:
    """The same when its database is away."""
    if request.param == "fake":
        fake = FakeOwnership(OWNERS)
        fake.available = False
        yield fake
        return
    urls = {
        "sqlite": f"sqlite:///{tmp_path}/no/such/folder.db",
        "postgresql": f"postgresql://u:hunter2@127.0.0.1:{unused_tcp_port}/d",
    }
    async with OwnershipDatabase(urls[request.param]) as database:
        yield database


# What every ownership promises


async def test_a_diagnosis_belongs_to_its_patient(ownership: Ownership) -> None:
    assert await ownership.owner_of(FIRST) == 10
    assert await ownership.owner_of(SECOND) == 20


async def test_an_unknown_diagnosis_belongs_to_nobody(ownership: Ownership) -> None:
    assert await ownership.owner_of(UNKNOWN) is None


async def test_the_largest_id_is_an_id(ownership: Ownership) -> None:
    assert await ownership.owner_of(LARGEST) == MAX_ID


async def test_questions_asked_at_the_same_time_are_one_query(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = 0
    async with OwnershipDatabase(sqlite) as database:
        run = database._run

        async def counted(asked: tuple[tuple[Select[Any], Mapping[str, object]], ...]) -> list[Row[Any]]:
            nonlocal queries
            queries += len(asked)
            return await run(asked)

        monkeypatch.setattr(database, "_run", counted)
        questions = [asyncio.create_task(database.owner_of(DiagnosisId(n))) for n in (1, 2, 3, 1)]
        given_up = asyncio.create_task(database.owner_of(FIRST))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await asyncio.gather(*questions) == [10, 20, None, 10]
        assert queries == 1
        for _ in range(50):
            questions.append(asyncio.create_task(database.owner_of(SECOND)))
            await asyncio.sleep(0)
        assert (await asyncio.gather(*questions))[4:] == [20] * 50
    assert queries < 25, "who asks while others are answered shares a query"


async def test_many_are_asked_for_at_once_and_unknown_ones_left_out(ownership: Ownership) -> None:
    assert await ownership.owners_of(iter([SECOND, UNKNOWN, FIRST, FIRST])) == {1: 10, 2: 20}


async def test_a_batch_may_be_larger_than_a_query(ownership: Ownership) -> None:
    ids = [DiagnosisId(number) for number in range(1, 2 * IDS_PER_QUERY + 2)]
    assert await ownership.owners_of([*ids, LARGEST]) == OWNERS


async def test_nobody_is_asked_about_nothing(ownership: Ownership) -> None:
    assert await ownership.owners_of([]) == {}


async def test_a_database_that_answers_is_alive(ownership: Ownership) -> None:
    await ownership.ping()


async def test_a_database_that_is_away_is_unavailable(away: Ownership) -> None:
    for call in (away.owner_of(FIRST), away.owners_of([FIRST]), away.ping()):
        with pytest.raises(DatabaseUnavailable) as failure:
            await call
        assert "hunter2" not in "".join(traceback.format_exception(failure.value))


async def test_asking_about_nothing_needs_no_database(away: Ownership) -> None:
    assert await away.owners_of([]) == {}


# What the adapter promises besides


async def test_a_database_without_the_table_is_not_alive(tmp_path: Path) -> None:
    async with OwnershipDatabase(f"sqlite:///{tmp_path}/empty.db") as database:
        with pytest.raises(DatabaseUnavailable):
            await database.ping()


async def test_a_view_does_as_well_as_a_table(postgresql: str) -> None:
    await administer(
        postgresql,
        "ALTER TABLE diagnoses RENAME TO platform_diagnoses",
        "CREATE VIEW diagnoses AS SELECT id::int8, NULLIF(patient_id, 20)::numeric::int8 AS patient_id "
        "FROM platform_diagnoses",
    )
    async with OwnershipDatabase(postgresql) as database:
        assert await database.owner_of(FIRST) == 10
        assert await database.owner_of(SECOND) is None  # it has no patient
        assert await database.owners_of([FIRST, SECOND]) == {1: 10}


async def test_a_change_is_seen_at_once(url: str) -> None:
    async with OwnershipDatabase(url) as database:
        assert await database.owner_of(FIRST) == 10
        await create_embedded_database(url, {1: 11})
        assert await database.owner_of(FIRST) == 11


async def test_the_embedded_database_may_be_made_twice(url: str) -> None:
    await create_embedded_database(url, OWNERS)
    await create_embedded_database(url, {4: 40})
    await create_embedded_database(url, {})
    async with OwnershipDatabase(url) as database:
        assert await database.owners_of([FIRST, SECOND, DiagnosisId(4)]) == {1: 10, 2: 20, 4: 40}


async def test_callers_who_give_up_leave_the_pool_whole(url: str) -> None:
    async with OwnershipDatabase(url, timeout_seconds=10) as database:
        for turns in range(30):
            callers = [asyncio.create_task(database.owner_of(FIRST)) for _ in range(2 * POOL_SIZE)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        owners = await asyncio.gather(*(database.owner_of(FIRST) for _ in range(2 * POOL_SIZE)))
    assert set(owners) == {10}


async def test_leaving_ends_every_connection_and_thread(url: str) -> None:
    before = set(threading.enumerate())
    async with OwnershipDatabase(url) as database:
        await asyncio.gather(*(database.owner_of(FIRST) for _ in range(POOL_SIZE)))
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # told to end, but perhaps not ended yet
        assert not thread.is_alive()
    if url.startswith("postgresql"):
        mine = f"datname = '{make_url(url).database}' AND application_name = 'realtime_service'"
        server = make_url(url).set(database="postgres").render_as_string(hide_password=False)
        query = f"SELECT 1 FROM pg_stat_activity WHERE {mine}"  # noqa: S608  (our own words)
        async with asyncio.timeout(5):
            while await administer(server, query):  # noqa: ASYNC110  (the server's own pace)
                await asyncio.sleep(0.01)


async def test_a_closed_database_opens_no_new_connection(url: str) -> None:
    async with OwnershipDatabase(url) as database:
        await database.ping()
    with pytest.raises(DatabaseUnavailable):
        await database.owner_of(FIRST)


async def test_leaving_lets_those_who_ask_have_their_answer(url: str) -> None:
    async with OwnershipDatabase(url) as database:
        asking = [asyncio.create_task(database.owner_of(FIRST)) for _ in range(2 * POOL_SIZE)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*asking) == [10] * len(asking)


async def test_a_locked_database_holds_nobody_up_for_long(sqlite: str, tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "owners.db", isolation_level=None)
    async with OwnershipDatabase(sqlite, timeout_seconds=0.5) as database:
        await database.ping()
        holder.execute("BEGIN EXCLUSIVE")
        async with asyncio.timeout(3):
            with pytest.raises(DatabaseUnavailable):
                await database.owner_of(FIRST)
        holder.close()
        assert await database.owner_of(FIRST) == 10


# URLs


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_postgresql_urls_are_accepted_as_people_write_them(postgresql: str, scheme: str) -> None:
    url = scheme + postgresql.removeprefix("postgresql+asyncpg") + "?sslmode=prefer"
    async with OwnershipDatabase(url) as database:
        assert await database.owner_of(FIRST) == 10


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
async def test_sqlite_urls_are_accepted_as_people_write_them(sqlite: str, scheme: str) -> None:
    async with OwnershipDatabase(scheme + sqlite.removeprefix("sqlite")) as database:
        assert await database.owner_of(FIRST) == 10


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter2@h/d",
        "postgresql+psycopg2://u:hunter2@h/d",
        "hunter2",
        "",
        "postgresql//u:hunter2@h",
        "postgresql://u:hunter2@h:port/d",
        "hunter2://h/d",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_an_unsupported_database_stops_the_start_without_quoting_its_url(url: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        OwnershipDatabase(url)
    assert str(refusal.value).startswith("REALTIME_DATABASE_URL: ")
    assert "hunter2" not in "".join(traceback.format_exception(refusal.value))


# Failures of the network and the server


class Gate:
    """A TCP proxy before PostgreSQL that can hold back what passes, or be closed: a firewall, a restart."""

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self._open = asyncio.Event()
        self._open.set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        url = self._target.set(host="127.0.0.1", port=self.port)
        return url.render_as_string(hide_password=False)

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """As a server that is stopped: nothing listens, and every connection is cut."""
        if self._server is not None:
            self._server.close()
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)

    def hold(self) -> None:
        """As a firewall that drops packets: connections stay, nothing passes."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.host or "127.0.0.1", self._target.port or 5432
        there, back = await asyncio.open_connection(host, port)
        for source, sink in ((reader, back), (there, writer)):
            pipe = asyncio.create_task(self._pipe(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()


@pytest.fixture
async def gate(postgresql: str) -> AsyncIterator[Gate]:
    gate = Gate(postgresql)
    await gate.listen()
    yield gate
    await gate.close()


async def test_a_restart_of_the_server_is_not_noticed(postgresql: str) -> None:
    async with OwnershipDatabase(postgresql) as database:
        await asyncio.gather(*(database.owners_of([FIRST]) for _ in range(POOL_SIZE)))
        ended = await administer(
            postgresql,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'realtime_service'",
        )
        assert len(ended) > 1
        owners = await asyncio.gather(*(database.owners_of([FIRST]) for _ in range(POOL_SIZE)))
        assert owners == [{FIRST: 10}] * POOL_SIZE


async def test_a_server_that_comes_back_is_found(gate: Gate) -> None:
    async with OwnershipDatabase(gate.url) as database:
        assert await database.owner_of(FIRST) == 10
        await gate.close()
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await database.owner_of(FIRST)
        await gate.listen()
        assert await database.owner_of(FIRST) == 10


async def test_a_silent_network_holds_nobody_up_for_long(gate: Gate) -> None:
    async with OwnershipDatabase(gate.url, timeout_seconds=0.5) as database:
        await database.ping()
        gate.hold()
        async with asyncio.timeout(2.5):
            asking = (database.owner_of(FIRST) for _ in range(3 * POOL_SIZE))  # most wait for a connection
            answers = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(answer) for answer in answers} == {DatabaseUnavailable}
        gate.release()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await database.owner_of(FIRST) == 10
                except DatabaseUnavailable:
                    continue
                break


async def test_leaving_is_not_held_up_by_a_silent_network(gate: Gate) -> None:
    async with OwnershipDatabase(gate.url, timeout_seconds=1) as database:
        await asyncio.gather(*(database.owner_of(FIRST) for _ in range(POOL_SIZE)))
        gate.hold()
        leaving = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - leaving < 2  # closing each politely takes that long
    gate.release()


async def test_a_server_that_never_says_hello_holds_nobody_up_for_long() -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(ignore, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with OwnershipDatabase(f"postgresql://u@127.0.0.1:{port}/d", timeout_seconds=0.2) as database:
            async with asyncio.timeout(2):
                with pytest.raises(DatabaseUnavailable):
                    await database.owner_of(FIRST)
