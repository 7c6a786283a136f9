"""The tests' own PostgreSQL keeps the private broker's law."""

import psutil
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool


async def test_it_answers_through_sqlalchemy(postgresql_url: str) -> None:
    engine = create_async_engine(postgresql_url, poolclass=NullPool)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT 40 + 2"))).scalar_one() == 42
    await engine.dispose()


def test_it_listens_on_loopback_alone(postgresql_url: str) -> None:
    assert postgresql_url.startswith("postgresql+asyncpg://")
    heard = {
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert heard <= {"127.0.0.1", "::1"}
