"""What was looked at before or beside the work, and whether it is as it should be: for operators, as data."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Worth knowing; nothing is lost by it."""
    ERROR = "error"
    """Events would be lost, a promise broken or nothing work, and waiting does not repair it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. No text holds a secret."""

    severity: Severity
    object: str
    """What was looked at, such as `exchange 'diagnosis.events'`."""
    found: str
    """How it is."""
    problem: str = ""
    """What is wrong with that; empty where nothing is."""
    advice: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.object}: {self.found}" + (f"; {self.problem}; {self.advice}" if self.problem else "")
