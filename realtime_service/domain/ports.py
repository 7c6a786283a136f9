"""What the service needs from outside, in its own words. Fakes and real adapters pass the same tests."""

from collections.abc import Iterable
from typing import Protocol

from contracts.ids import DiagnosisId, UserId
from realtime_service.domain.identity import Identity


class Ownership(Protocol):
    """Says whose diagnosis it is. Every call is bounded in time and raises `DatabaseUnavailable`, nothing else."""

    async def owner_of(self, diagnosis_id: DiagnosisId) -> UserId | None:
        """The diagnosis' patient; None when there is no such diagnosis."""
        ...

    async def owners_of(self, diagnosis_ids: Iterable[DiagnosisId]) -> dict[DiagnosisId, UserId]:
        """The same for many at once; unknown diagnoses are left out."""
        ...

    async def ping(self) -> None:
        """Return if the database can answer now."""
        ...


class Verifier(Protocol):
    """Turns a token into an identity."""

    async def verify(self, token: str) -> Identity:
        """Who bears this token.

        Raises `TokenExpired`, `NotAuthenticated`, or `KeysUnavailable` when nobody can be told from anybody yet;
        nothing else, whatever the text.
        """
        ...
