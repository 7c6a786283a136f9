"""A delivery whose properties cannot be read is a bad event like any other, not the end of the connection.

pamqp 4.0 raises on a timestamp beyond the year 9999 (nanoseconds will do), text that is no UTF-8, a header of an
unknown type or nested too deeply. aiormq 7.2 then drops the connection; the broker hands the same message out again on
the next one, and so on for ever: one publisher's mistake would stop every diagnosis. There is no hook for this, so the
method with which pamqp reads a content header is replaced, for the whole process.
"""

from typing import Final

from pamqp.commands import Basic
from pamqp.header import ContentHeader

UNREADABLE: Final = "x-unreadable-properties"
"""The one header of such a delivery; `reading.declared_id` refuses it."""

_unmarshal = ContentHeader.unmarshal


def _unmarshal_anything(self: ContentHeader, data: bytes) -> None:
    try:
        _unmarshal(self, data)
    except Exception:  # ValueError, OverflowError, OSError, RecursionError …; the body's size was read before
        self.properties = Basic.Properties(headers={UNREADABLE: True})


def survive_unreadable_properties() -> None:
    """Let such deliveries through, marked."""
    ContentHeader.unmarshal = _unmarshal_anything  # type: ignore[method-assign]
