"""What `watch` prints: events to standard output, one a line; what happens to the connection to standard error.

Law: what came over the network cannot steer the terminal: signs that do not print are shown as escapes.
"""

import json
import os
import shutil
import sys
from datetime import datetime
from typing import Any, Final, Protocol, Self

from contracts.messages import ErrorMessage, EventMessage, Gap, Pong, Welcome

Message = Welcome | EventMessage | Gap | Pong | ErrorMessage

WIDTH: Final = 200
"""Signs a line may have where the output is no terminal; `--json` cuts nothing."""
ID_SIGNS: Final = 8
"""Of an event's id: enough to tell two apart."""

_DIM, _BOLD, _GREEN, _YELLOW, _RED, _PLAIN = (
    "\x1b[2m",
    "\x1b[1m",
    "\x1b[32m",
    "\x1b[33m",
    "\x1b[31m",
    "\x1b[0m",
)


class Screen(Protocol):
    """Where it is shown."""

    def show(self, text: str, message: Message | None) -> None:
        """A frame; None: of a type that is not known here."""

    def note(self, text: str) -> None:
        """What happens to the connection."""


class _Notes:
    def __init__(self) -> None:
        self._last = ""

    def note(self, text: str) -> None:
        """What happens to the connection, once while it stays the same."""
        if text != self._last:
            print(printable(text), file=sys.stderr, flush=True)
        self._last = text


class RawLines(_Notes):
    """Every frame as it came."""

    def show(self, text: str, message: Message | None) -> None:
        """See `Screen`."""
        self._last = ""
        print(text, flush=True)


class EventLines(_Notes):
    """A line for a person: time, type, data, marks."""

    def __init__(self, *, colours: bool, width: int) -> None:
        super().__init__()
        self._colours = colours
        self._width = width

    @classmethod
    def on_standard_output(cls) -> Self:
        """With colours on a terminal, unless NO_COLOR is set (no-color.org)."""
        terminal = sys.stdout.isatty()
        return cls(
            colours=terminal and not os.environ.get("NO_COLOR"),
            width=shutil.get_terminal_size().columns if terminal else WIDTH,
        )

    def show(self, text: str, message: Message | None) -> None:
        """See `Screen`."""
        self._last = ""
        if (line := self._line(text, message)) is not None:
            print(line, flush=True)

    def _line(self, text: str, message: Message | None) -> str | None:
        match message:
            case Welcome():
                return self._paint(_GREEN, welcome_line(message))
            case EventMessage():
                return self._event_line(message)
            case Gap(data=data):
                number = "some" if data.evicted is None else data.evicted
                what = "event was" if number == 1 else "events were"
                when = self._paint(_DIM, local_time(message.timestamp))
                return f"{when}  {self._paint(_YELLOW, f'gap: {number} {what} dropped and will not come')}"
            case ErrorMessage(data=error):
                return self._paint(_RED, printable(f"error: {error.message} ({error.code})"))
            case Pong():
                return None
            case None:
                return self._paint(_DIM, shortened(printable(text), self._width))

    def _event_line(self, message: EventMessage) -> str:
        when, kind = local_time(message.timestamp), f"{message.type.value:<21}"
        event_id = f"{printable(message.event_id)[:ID_SIGNS]:<{ID_SIGNS}}"
        mark = "  (redelivered)" if message.redelivered else ""
        taken = len(when) + len(kind) + len(event_id) + len(mark) + 4
        data = shortened(compact(message.data), max(self._width - taken, 16))
        return (
            f"{self._paint(_DIM, when)}  {self._paint(_BOLD, kind)}{self._paint(_DIM, event_id)}  {data}"
            f"{self._paint(_YELLOW, mark)}"
        )

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colours and text else text


def welcome_line(message: Welcome) -> str:
    """What there is to know at the start."""
    data = message.data
    waiting = "1 event was" if data.queued_messages == 1 else f"{data.queued_messages or 'no'} events were"
    parts = [
        f"connected to diagnosis {message.diagnosis_id}: {waiting} waiting",
        f"receipts by {data.receipts}",
    ]
    if not data.resumed:
        parts.append("this device is new, it has no backlog of its own yet")
    if data.gap:
        parts.append("the backlog was full, older events may be gone")
    return printable("; ".join(parts))


def local_time(timestamp: str) -> str:
    """The time of day here; with the date, when that is another one."""
    try:
        moment = datetime.fromisoformat(timestamp).astimezone()
    except (ValueError, OverflowError):
        return printable(timestamp)
    time = moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"
    return time if moment.date() == datetime.now().astimezone().date() else f"{moment.date()} {time}"


def compact(data: Any) -> str:
    """JSON in one line, fit for a terminal."""
    return printable(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def printable(text: str) -> str:
    """The text with every sign that does not print (controls, direction marks) as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, width: int) -> str:
    """At most `width` signs."""
    return text if len(text) <= width else text[: width - 1] + "…"
