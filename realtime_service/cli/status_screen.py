"""What `status` shows: a table, once or for as long as somebody looks at it.

The colours: green is somebody connected, yellow are events that wait with nobody there, red a backlog that is full, and
what the numbers leave out.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from contracts.http import StatusReport
from contracts.topology import BACKLOG_LIMIT
from realtime_service.cli.watch_screen import printable

_BOLD, _GREEN, _YELLOW, _RED, _PLAIN = "\x1b[1m", "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""The terminal's other screen, without its cursor."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME, _TO_LINE_END, _TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"
_FRAME_LINES: Final = 5
"""Around the rows: what is asked, a blank line, headings, total, how many are left out."""


def table(report: StatusReport, *, colours: bool, most_rows: int | None = None) -> list[str]:
    """Its lines. `most_rows`: only so many diagnoses, those with most events waiting."""
    connections, waiting = report.connections_by_diagnosis, report.queued_messages_by_diagnosis
    known = sorted({*connections, *waiting}, key=lambda text: (len(text), text))  # as numbers
    if most_rows is not None and len(known) > most_rows:
        known.sort(key=lambda text: (-waiting.get(text, 0), -connections.get(text, 0)))
    shown = known[:most_rows]
    width = max(len(word) for word in ("diagnosis", *shown))
    paint = _paint if colours else _leave_plain
    lines = [paint(_BOLD, f"{'diagnosis':<{width}}  {'connections':>11}  {'waiting':>8}")]
    for diagnosis in shown:
        open_, waits = connections.get(diagnosis, 0), waiting.get(diagnosis, 0)
        number = paint(_GREEN if open_ else "", f"{open_:>11}")
        lines.append(f"{diagnosis:<{width}}  {number}  {paint(_alarm(open_, waits), f'{waits:>8}')}")
    if left_out := len(known) - len(shown):
        lines.append(f"… and {left_out} more, with less that waits")
    total = f"{'total':<{width}}  {report.total_connections:>11}  {sum(waiting.values()):>8}"
    lines.append(paint(_BOLD, total))
    return lines + [paint(_RED, line) for line in _left_out(report)]


def _alarm(connections: int, waiting: int) -> str:
    if waiting >= BACKLOG_LIMIT:
        return _RED
    return _YELLOW if waiting and not connections else ""


def _left_out(report: StatusReport) -> Iterator[str]:
    if report.truncated:
        yield (
            "What waits may be incomplete: it lists diagnoses that the replica that answered has seen"
            " (set REALTIME_MANAGEMENT_URL on the server to see all)."
        )
    if report.silent_replicas:
        silent = ", ".join(map(repr, report.silent_replicas))  # a replica may have any name
        yield f"These replicas did not answer, and what they have is not counted: {silent}"


def _paint(colour: str, text: str) -> str:
    return f"{colour}{text}{_PLAIN}" if colour else text


def _leave_plain(_colour: str, text: str) -> str:
    return text


class LiveTable:
    """Is drawn again and again: in place on a terminal, else one below the other."""

    def __init__(self, address: str, *, terminal: bool, colours: bool) -> None:
        self._address = address
        self._terminal = terminal
        self._colours = colours
        self._last: StatusReport | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """While it is looked at. Afterwards the last table stands where the command was typed."""
        if not self._terminal:
            yield
            return
        print(_ENTER, end="", flush=True)
        try:
            yield
        finally:
            print(_LEAVE, end="", flush=True)
            if self._last is not None:
                print("\n".join(table(self._last, colours=self._colours)), flush=True)

    def show(self, report: StatusReport) -> None:
        """Draw what there is now."""
        self._last = report
        rows = max(shutil.get_terminal_size().lines - _FRAME_LINES - 2, 1) if self._terminal else None
        self._draw(["", *table(report, colours=self._colours, most_rows=rows)])

    def away(self, why: str) -> None:
        """Draw that there is no answer, above the last one."""
        line = _paint(_RED if self._colours else "", printable(why))
        last = table(self._last, colours=self._colours, most_rows=1) if self._last and self._terminal else []
        self._draw([line, "", *last])

    def _draw(self, lines: list[str]) -> None:
        heading = f"{datetime.now().astimezone():%H:%M:%S}  {self._address}  Ctrl-C ends"
        if not self._terminal:
            print("\n".join([heading, *(line for line in lines if line), ""]), flush=True)
            return
        drawn = "".join(f"{line}{_TO_LINE_END}\r\n" for line in [heading, *lines])
        sys.stdout.write(f"{_HOME}{drawn}{_TO_SCREEN_END}")
        sys.stdout.flush()
