"""Findings for a person: a table, with what is wrong and what to do about it below each line."""

import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TextIO

from realtime_service.cli.watch_screen import printable
from realtime_service.domain.finding import Finding, Severity

MOST_WIDE: Final = 120
LEAST_WIDE: Final = 40

_PLAIN: Final = "\x1b[0m"
_COLOURS: Final = {Severity.OK: "\x1b[32m", Severity.WARNING: "\x1b[33m", Severity.ERROR: "\x1b[1;31m"}
_COUNTED: Final = {Severity.ERROR: "wrong", Severity.WARNING: "to know of", Severity.OK: "as it should be"}
_SEVERITY: Final = max(len(severity) for severity in Severity) + 2


def has_colours(stream: TextIO) -> bool:
    """Whether it is a terminal, and NO_COLOR is not set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def width_of(stream: TextIO) -> int:
    """Signs that fit into a line."""
    wide = shutil.get_terminal_size().columns if stream.isatty() else MOST_WIDE
    return max(min(wide, MOST_WIDE), LEAST_WIDE)


def table(findings: Sequence[Finding], *, colours: bool, width: int) -> str:
    """The table, errors last, where one looks on a terminal; what is the same of several objects is said once."""
    alike: dict[Finding, list[str]] = {}
    for finding in findings:
        alike.setdefault(replace(finding, object=""), []).append(finding.object)
    together = [replace(finding, object=", ".join(objects)) for finding, objects in alike.items()]
    in_order = sorted(together, key=lambda finding: list(Severity).index(finding.severity))
    return "\n".join(line for finding in in_order for line in _lines(finding, colours, width))


def report(findings: Sequence[Finding], stream: TextIO) -> str:
    """The table for this stream, and the numbers."""
    of = Counter(finding.severity for finding in findings)
    counted = ", ".join(f"{of[severity]} {word}" for severity, word in _COUNTED.items())
    return f"{table(findings, colours=has_colours(stream), width=width_of(stream))}\n\n{counted}"


def _lines(finding: Finding, colours: bool, width: int) -> list[str]:
    word = f"{finding.severity:<{_SEVERITY}}"
    mark = f"{_COLOURS[finding.severity]}{word}{_PLAIN}" if colours else word
    first, *rest = _wrapped(f"{finding.object}: {finding.found}", width, hanging="")
    lines = [mark + first, *rest]
    if finding.problem:
        lines += _below(
            "wrong: " if finding.severity is Severity.ERROR else "note:  ", finding.problem, width
        )
        lines += _below("do:    ", finding.advice, width)
    return lines


def _below(title: str, text: str, width: int) -> list[str]:
    first, *rest = _wrapped(title + text, width, hanging=" " * len(title))
    return [" " * _SEVERITY + first, *rest]


def _wrapped(text: str, width: int, *, hanging: str) -> list[str]:
    """Its lines; those after the first are moved in, as the first one will be."""
    lines = textwrap.wrap(
        printable(text), width - _SEVERITY, subsequent_indent=hanging, break_on_hyphens=False
    ) or [""]
    return [lines[0], *(" " * _SEVERITY + line for line in lines[1:])]
