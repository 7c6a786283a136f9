"""A PostgreSQL for tests, by the same ways and with the same law as the private broker.

The order: the database that is named; else a private server of installed programs; else a container; else the server is
installed, after saying so; else one message. Whatever was started listens on loopback alone and does not outlive us.
"""

import os
import pwd
import re
import secrets
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from realtime_service.embedded.container import require_docker_engine, started
from realtime_service.embedded.install import SystemPackage, install
from realtime_service.embedded.loopback import LOOPBACK, answers, free_ports, wait_until
from realtime_service.embedded.watchdog import Watchdog, WatchdogFailure
from realtime_service.embedded.ways import AllClosed, NotOpen, Say, first_open

SETTING: Final = "REALTIME_TEST_DATABASE_URL"
PACKAGE: Final = SystemPackage(
    title="PostgreSQL", apt="postgresql", service="postgresql", brew="postgresql@17"
)
IMAGE: Final = "postgres:17"
START_SECONDS: Final = 30.0
USER: Final = "realtime"

_PLACES: Final = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)
_STARTUP: Final = b"".join([struct.pack("!i", 196608), b"user\0", USER.encode(), b"\0database\0postgres\0\0"])
"""The first message of protocol 3.0, without its length. A server that is ready asks for authentication (`R`); one that
is still starting says so in an error (`E`)."""
_HELLO: Final = struct.pack("!i", len(_STARTUP) + 4) + _STARTUP

_UNSAFE_AND_FAST: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class DatabaseUnavailable(Exception):
    """There is no PostgreSQL to test with, and why."""


def find_postgresql() -> Path | None:
    """The folder of the newest server programs, where the usual packages put them, or on PATH."""
    folders = [folder for pattern in _PLACES for folder in Path("/").glob(pattern[1:])]
    complete = [folder for folder in folders if os.access(folder / "initdb", os.X_OK)]
    if complete:
        return max(complete, key=lambda folder: [int(number) for number in re.findall(r"\d+", str(folder))])
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def private_postgresql(programs: Path) -> Iterator[str]:
    """A server of our own, started from installed programs; yields its URL. Raises NotOpen."""
    directory = Path(tempfile.mkdtemp(prefix="realtime-postgresql-"))
    user = _unprivileged_user()
    if user:
        shutil.chown(directory, user)
    watchdog = Watchdog(directory)
    try:
        (port,), password = free_ports(1), secrets.token_hex(16)
        try:
            _create_cluster(programs, directory, password, user)
            options = (
                f"listen_addresses={LOOPBACK}",
                f"port={port}",
                "unix_socket_directories=",
                *_UNSAFE_AND_FAST,
            )
            process = watchdog.start(
                [programs / "postgres", "-D", directory / "data", *(f"--{option}" for option in options)],
                environment=os.environ,
                log=directory / "console.log",
                user=user,
                farewell=signal.SIGQUIT,  # at once, and without leaving its shared memory behind
            )
        except (OSError, subprocess.SubprocessError, WatchdogFailure) as error:
            output = getattr(error, "output", None) or ""
            raise NotOpen(f"{programs}/postgres could not be started: {error}\n{output}".rstrip()) from error
        up = wait_until(lambda: answers(port, _HELLO, b"R") or not watchdog.running(process), START_SECONDS)
        if not up or not watchdog.running(process):
            raise NotOpen(f"{programs}/postgres did not start:\n{(directory / 'console.log').read_text()}")
        yield f"postgresql+asyncpg://{USER}:{password}@{LOOPBACK}:{port}/postgres"
    finally:
        watchdog.close()


@contextmanager
def obtain_postgresql(
    env_url: str | None, *, say: Say, find: Callable[[], Path | None] = find_postgresql
) -> Iterator[str]:
    """Yield a SQLAlchemy URL for asyncpg; what was started for it is gone afterwards. Raises DatabaseUnavailable."""

    @contextmanager
    def given() -> Iterator[str]:
        if not env_url:
            raise NotOpen(f"{SETTING} is not set")
        yield env_url

    @contextmanager
    def private() -> Iterator[str]:
        programs = find()
        if programs is None:
            raise NotOpen("no PostgreSQL server is installed")
        with private_postgresql(programs) as url:
            yield url

    @contextmanager
    def container() -> Iterator[str]:
        require_docker_engine()
        from testcontainers.community.postgres import PostgresContainer

        made = PostgresContainer(IMAGE, username=USER, password=secrets.token_hex(16), driver="asyncpg")
        with started(made, say) as running:
            yield running.get_connection_url()

    @contextmanager
    def installed() -> Iterator[str]:
        if find() is not None:
            raise NotOpen("a PostgreSQL server is installed already")
        install(PACKAGE, say)
        with private() as url:
            yield url

    try:
        with first_open([given, private, container, installed]) as url:
            yield url
    except AllClosed as error:
        raise DatabaseUnavailable(
            f"There is no PostgreSQL to test with. Set {SETTING}=postgresql+asyncpg://…, install the server\n"
            f"({PACKAGE.apt} with apt-get, {PACKAGE.brew} with brew), or start a Docker engine.\n"
            f"What was tried:\n{error}"
        ) from None


def _create_cluster(programs: Path, directory: Path, password: str, user: str | None) -> None:
    secret = directory / "password"
    secret.write_text(password)
    secret.chmod(0o600)
    if user:
        shutil.chown(secret, user)
    account = pwd.getpwnam(user) if user else None
    words = ["--username", USER, "--pwfile", str(secret), "--auth", "scram-sha-256", "--encoding", "UTF8"]
    subprocess.run(
        [programs / "initdb", "--pgdata", directory / "data", "--no-sync", "--locale", "C", *words],
        cwd=directory,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
        text=True,
        timeout=START_SECONDS,
    )


def _unprivileged_user() -> str | None:
    """Who runs the server: PostgreSQL refuses root. None: we do, being nobody special."""
    if os.geteuid() != 0:
        return None
    known = {account.pw_name for account in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)
