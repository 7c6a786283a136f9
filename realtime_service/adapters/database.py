"""The platform's database, of which one table is read: `diagnoses(id, patient_id)`. The only user of SQLAlchemy.

Law: every call ends within its timeout, or two where it waits for its turn; whatever goes wrong
outside is `DatabaseUnavailable`. Queries run in a task of their own, so that a caller who gives up neither
breaks the connection for the next one nor waits until it is cleaned up.
"""

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

from sqlalchemy import (
    BigInteger,
    Column,
    MetaData,
    Row,
    Select,
    Table,
    bindparam,
    delete,
    extract,
    func,
    insert,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from contracts.ids import DiagnosisId, UserId
from realtime_service.domain.errors import DatabaseUnavailable, SettingsError

TIMEOUT_SECONDS: Final = 2.0
"""An indexed look-up takes a millisecond; a database that needs longer than this is away."""

POOL_SIZE: Final = 10
"""Connections a replica opens at most; all replicas' together must stay below the server's `max_connections`."""

QUESTIONS_AT_ONCE: Final = 2
"""Queries under way for those who ask for one diagnosis; whoever comes meanwhile shares the next."""

IDS_PER_QUERY: Final = 1000
"""PostgreSQL and SQLite take 32,766 parameters at most; this many still make one short query."""

_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}

_DIAGNOSES: Final = Table(
    "diagnoses",
    MetaData(),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("patient_id", BigInteger, nullable=False),
)
_IDS: Final = "ids"
_OWNERS: Final = select(_DIAGNOSES.c.id, _DIAGNOSES.c.patient_id).where(
    _DIAGNOSES.c.id.in_(bindparam(_IDS, expanding=True))
)

_Query = tuple[Select[Any], Mapping[str, object]]


class OwnershipDatabase:
    """Says whose diagnosis it is; a `domain.ports.Ownership`. An async context manager: it owns its connections."""

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Does not connect yet. Raises `SettingsError` for a URL that is none or of an unsupported database."""
        self._timeout = timeout_seconds
        self._engine = _create_engine(_driver_url(url), timeout_seconds)
        self._queries: set[asyncio.Task[list[Row[Any]]]] = set()
        self._asked: set[DiagnosisId] = set()
        self._asking: asyncio.Task[dict[DiagnosisId, UserId]] | None = None
        self._turns = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let those who ask have their answers, then close the connections. Each of the two takes a timeout at most.

        Without, aiosqlite's threads would live on; and a query that is cancelled while it connects loses one.
        """
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=self._timeout)
        self._closed = True
        if self._queries:
            await asyncio.wait(self._queries, timeout=self._timeout)
        closing = asyncio.create_task(self._engine.dispose(), name="database close")
        closing.add_done_callback(self._forget)
        await asyncio.wait({closing}, timeout=self._timeout)
        closing.cancel()

    async def owner_of(self, diagnosis_id: DiagnosisId) -> UserId | None:
        """The diagnosis' patient; None when there is no such diagnosis. Raises `DatabaseUnavailable`.

        What is asked while others wait for their answers is one query: of thousands of clients that come at once, many
        share it. Its time begins with its turn: two timeouts at most pass, and a crowd does not look like a database
        that is away.
        """
        self._asked.add(diagnosis_id)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="database questions")
            self._asking.add_done_callback(self._forget)
        asking = self._asking
        await asyncio.wait({asking})
        if asking.cancelled():
            raise DatabaseUnavailable("the database did not answer in time")
        return asking.result().get(diagnosis_id)

    async def _ask(self) -> dict[DiagnosisId, UserId]:
        async with self._turns:
            asked, self._asked, self._asking = self._asked, set(), None
            return await self.owners_of(asked)

    async def owners_of(self, diagnosis_ids: Iterable[DiagnosisId]) -> dict[DiagnosisId, UserId]:
        """The same for many at once; unknown diagnoses are left out. Raises `DatabaseUnavailable`."""
        if not (ids := list(diagnosis_ids)):
            return {}
        parts = [ids[start : start + IDS_PER_QUERY] for start in range(0, len(ids), IDS_PER_QUERY)]
        rows = await self._rows(*((_OWNERS, {_IDS: part}) for part in parts))
        return {row.id: row.patient_id for row in rows if row.patient_id is not None}  # a view may have none

    async def ping(self) -> None:
        """Return if the table can be read now. Raises `DatabaseUnavailable`."""
        await self._rows((select(_DIAGNOSES.c.id).where(_DIAGNOSES.c.id == 0), {}))

    async def clock(self) -> float | None:
        """The server's time, in seconds since 1970; None: SQLite has none of its own. Raises `DatabaseUnavailable`."""
        if self._engine.dialect.name == "sqlite":
            return None
        ((now,),) = await self._rows((select(extract("epoch", func.now())), {}))
        return float(now)

    async def _rows(self, *queries: _Query) -> list[Row[Any]]:
        """Run the queries and wait for them, no longer than the timeout."""
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        task = asyncio.create_task(self._run(queries), name="database query")
        self._queries.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait({task}, timeout=self._timeout)
        if not task.done() or task.cancelled():
            raise DatabaseUnavailable("the database did not answer in time")
        if (error := task.exception()) is not None:
            raise DatabaseUnavailable(f"the database failed: {type(error).__name__}") from error
        return task.result()

    async def _run(self, queries: tuple[_Query, ...]) -> list[Row[Any]]:
        async with asyncio.timeout(self._timeout), self._engine.connect() as connection:
            return [row for query, values in queries for row in await connection.execute(query, values)]

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._queries.discard(task)
        if not task.cancelled():
            task.exception()  # seen, even when its caller is gone


async def create_embedded_database(url: str, owners: Mapping[int, int]) -> None:
    """Make the table where it is missing, and these rows (diagnosis → patient) as they are given: for the
    demonstration and for tests. May be repeated. Raises `DatabaseUnavailable`, `SettingsError`."""
    engine = _create_engine(_driver_url(url), TIMEOUT_SECONDS)
    transactional = engine.execution_options(isolation_level="SERIALIZABLE")
    try:
        async with transactional.begin() as connection:
            await connection.run_sync(_DIAGNOSES.metadata.create_all)
            await connection.execute(delete(_DIAGNOSES).where(_DIAGNOSES.c.id.in_(list(owners))))
            if owners:
                rows = [{"id": diagnosis, "patient_id": patient} for diagnosis, patient in owners.items()]
                await connection.execute(insert(_DIAGNOSES), rows)
    except (SQLAlchemyError, OSError) as error:
        raise DatabaseUnavailable("the database could not be filled") from error
    finally:
        await engine.dispose()


def _create_engine(url: URL, timeout_seconds: float) -> AsyncEngine:
    arguments: dict[str, Any] = {"timeout": timeout_seconds}  # SQLite: for a lock; asyncpg: for connecting
    if url.drivername == "postgresql+asyncpg":
        arguments |= {
            "command_timeout": timeout_seconds,
            "server_settings": {"application_name": "realtime_service"},
        }
    try:
        return create_async_engine(
            url,
            connect_args=arguments,
            hide_parameters=True,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=timeout_seconds,
            isolation_level="AUTOCOMMIT",  # one row is read: BEGIN and ROLLBACK would double the round trips
            pool_pre_ping=True,  # after a restart of the server, every pooled connection is dead
        )
    except ModuleNotFoundError as error:
        raise SettingsError(f"REALTIME_DATABASE_URL: needs the package {error.name}") from None


def _driver_url(text: str) -> URL:
    """The URL with the asyncio driver's name, and `sslmode` under the name that asyncpg gives it."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # their texts quote it
        raise SettingsError("REALTIME_DATABASE_URL: not a URL such as postgresql://user@host/name") from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise SettingsError("REALTIME_DATABASE_URL: must start with postgresql:// or sqlite:///")
    if driver == "sqlite+aiosqlite" and url.database in (None, "", ":memory:"):
        raise SettingsError("REALTIME_DATABASE_URL: must name a file, such as sqlite:///realtime.db")
    if driver == "postgresql+asyncpg":
        url = _with_tls(url)
    return url.set(drivername=driver)


def _with_tls(url: URL) -> URL:
    """`sslmode` and `sslrootcert`, libpq's words, where asyncpg takes them: the second one in a DSN alone."""
    words = {name: value for name, value in url.query.items() if name in ("sslmode", "sslrootcert")}
    others = url.difference_update_query(words)
    return others.update_query_dict({"dsn": f"postgresql://?{urlencode(words)}"}) if words else others
