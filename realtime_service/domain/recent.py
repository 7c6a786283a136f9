"""A bounded memory of event ids, oldest forgotten first."""

from itertools import islice
from typing import Final

from contracts.ids import EventId

RECENT_IDS: Final = 1024
"""Ids remembered a queue: more than a window (256) and a backlog (100) hold, so that a redelivery is always known, and
enough for a publisher's retries. Some 140 KiB at most, and only for a diagnosis with that many events."""


class RecentIds:
    """The last RECENT_IDS ids that were added."""

    __slots__ = ("_ids", "_limit")

    def __init__(self, limit: int = RECENT_IDS) -> None:
        self._ids: dict[EventId, None] = {}
        self._limit = limit

    def __contains__(self, event: EventId) -> bool:
        return event in self._ids

    def add(self, event: EventId) -> None:
        """Remember an id; one that is known counts as new again."""
        self._ids.pop(event, None)
        self._ids[event] = None
        if len(self._ids) > self._limit:
            del self._ids[next(iter(self._ids))]

    def latest(self, most: int) -> list[EventId]:
        """The last `most` of them, in the order in which they were added."""
        return list(islice(reversed(self._ids), most))[::-1]
