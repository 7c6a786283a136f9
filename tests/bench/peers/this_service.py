"""This service, as an operator starts it: `realtime-service serve`, with uvloop where it uses that."""

import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import jwt

from contracts.messages import ReceiptMode
from realtime_service.embedded.loopback import answers, free_ports, wait_until
from tests.bench.processes import ROOT, WORK, running

SECRET: Final = "a secret that is made up for the benchmark alone"
USER: Final = 1
DAY_SECONDS: Final = 24 * 3600
READY: Final = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
OK: Final = b"HTTP/1.1 200"
READY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Service:
    """A replica that runs."""

    pid: int
    port: int


def token() -> str:
    """A good token of the user who owns all diagnoses of the benchmark."""
    return jwt.encode({"sub": str(USER), "exp": int(time.time()) + DAY_SECONDS}, SECRET, "HS256")


def targets(diagnoses: Iterable[int], *, receipts: ReceiptMode = "pong") -> list[str]:
    """A request target for a client of each diagnosis."""
    word = token()
    return [f"/ws/{diagnosis}?token={word}&receipts={receipts}" for diagnosis in diagnoses]


@contextmanager
def this_service(
    amqp_url: str,
    diagnoses: int,
    *,
    backlog_limit: int = 100,
    number: int = 0,
    more: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """A replica whose database knows the diagnoses 1 to `diagnoses`; `number` tells replicas' logs apart.

    `more` are further settings, by variable.
    """
    database = WORK / "diagnoses.sqlite3"
    with sqlite3.connect(database) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS diagnoses (id BIGINT PRIMARY KEY, patient_id BIGINT NOT NULL)"
        )
        rows = ((number, USER) for number in range(1, diagnoses + 1))
        connection.executemany("INSERT OR IGNORE INTO diagnoses VALUES (?, ?)", rows)
    connection.close()
    port = free_ports(1)[0]
    env = {
        "PYTHONPATH": str(ROOT),
        "REALTIME_PORT": str(port),
        "REALTIME_AMQP_URL": amqp_url,
        "REALTIME_DATABASE_URL": f"sqlite:///{database}",
        "REALTIME_JWT_SECRET": SECRET,
        "REALTIME_MAX_CONNECTIONS": "50000",
        "REALTIME_MAX_CONNECTIONS_PER_USER": "50000",  # one user owns them all
        "REALTIME_BACKLOG_LIMIT": str(backlog_limit),
        "REALTIME_DRAIN_SECONDS": "0",
        "REALTIME_LOG_LEVEL": "warning",
        **(more or {}),
    }
    words = (sys.executable, "-m", "realtime_service", "serve")
    with running(words, port, env, log=f"this-service-{number}") as pid:
        if not wait_until(lambda: answers(port, READY, OK), READY_SECONDS):
            raise RuntimeError("the service did not become ready")
        yield Service(pid, port)
