"""A screen for `watch` that remembers what it was given."""

import json
from typing import Any

from realtime_service.cli.watch_screen import Message


class Recording:
    """A `watch_screen.Screen`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.notes: list[str] = []

    @property
    def ids(self) -> list[str]:
        """Of the events, in order."""
        return [event["event_id"] for event in self.events]

    def show(self, text: str, message: Message | None) -> None:
        frame = json.loads(text)
        if "event_id" in frame:
            self.events.append(frame)

    def note(self, text: str) -> None:
        self.notes.append(text)
