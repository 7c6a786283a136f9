"""The database: reachable, the ownership query works, and its clock."""

import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from contracts.ids import DiagnosisId
from realtime_service.adapters.database import OwnershipDatabase
from realtime_service.cli.examinations import good, odd, wrong
from realtime_service.domain.errors import DatabaseUnavailable, SettingsError
from realtime_service.domain.finding import Finding
from realtime_service.settings import Settings

CLOCK_SECONDS: Final = 5.0
"""By which clocks may differ: `nbf` and `iat` may be that far ahead."""

_DATABASE: Final = "database"
_CLOCK: Final = "clock"
_PROBLEM: Final = "no client is let in"
_VIEW: Final = "make the table or view diagnoses(id, patient_id), or name the database that has it"
_GRANT: Final = "GRANT SELECT ON diagnoses to the user in REALTIME_DATABASE_URL"
_URL: Final = "correct REALTIME_DATABASE_URL"
_REASONS: Final = {
    "UndefinedTableError": ("there is no table or view `diagnoses`", _VIEW),
    "no such table": ("there is no table or view `diagnoses`", _VIEW),
    "UndefinedColumnError": ("`diagnoses` lacks the column id or patient_id", _VIEW),
    "no such column": ("`diagnoses` lacks the column id or patient_id", _VIEW),
    "InsufficientPrivilegeError": ("this user may not read `diagnoses`", _GRANT),
    "InvalidPasswordError": ("it refused the password", _URL),
    "InvalidAuthorizationSpecificationError": ("it refused the user", _URL),
    "InvalidCatalogNameError": ("there is no database of that name", _URL),
    "TooManyConnectionsError": ("it takes no more connections", "raise its max_connections"),
    "file is not a database": ("the file is no SQLite database", _URL),
    "ConnectionRefusedError": (
        "connection refused",
        "start it, or correct host and port in REALTIME_DATABASE_URL",
    ),
    "gaierror": ("its host name does not resolve", _URL),
}
"""By what stands in the names or texts of the errors; only these words of ours are shown."""


async def examine_database(settings: Settings) -> list[Finding]:
    """All of it."""
    url = settings.database_url.get_secret_value()
    if (file := _sqlite_file(url)) is not None and not file.is_file():
        return [wrong(_DATABASE, "the SQLite file does not exist", _PROBLEM, "set REALTIME_DATABASE_URL")]
    try:
        async with OwnershipDatabase(url) as database:
            await database.owner_of(DiagnosisId(0))
            clock = await database.clock()
    except SettingsError as error:
        return [wrong(_DATABASE, line, _PROBLEM, _URL) for line in error.problems]
    except DatabaseUnavailable as error:
        found, advice = _reason(error)
        return [wrong(_DATABASE, found, _PROBLEM, advice)]
    kind = "PostgreSQL" if file is None else "SQLite"
    return [good(_DATABASE, f"{kind}; the ownership query works"), *_clock(clock)]


def _sqlite_file(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(parts.path.removeprefix("/")) if parts.scheme.startswith("sqlite") else None


def _reason(error: BaseException) -> tuple[str, str]:
    cause: BaseException | None = error
    while cause is not None:
        for sign, reason in _REASONS.items():
            if sign in (type(cause).__name__, type(getattr(cause, "orig", None)).__name__) or sign in str(
                cause
            ):
                return reason
        cause = cause.__cause__
    return str(error), "look at the database's log, and at the network between here and there"


def _clock(theirs: float | None) -> list[Finding]:
    if theirs is None:
        return []
    ahead = time.time() - theirs
    if abs(ahead) <= CLOCK_SECONDS:
        return [good(_CLOCK, "within 5 s of the database's")]
    found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the database's"
    problem = "good tokens are refused or expired ones let in; replicas misjudge which connection is newer"
    return [odd(_CLOCK, found, problem, "synchronise the clocks of both machines (NTP)")]
