"""Stands where a room stands, for tests of sessions."""

from realtime_service.domain.event import Event


class Listener:
    """Remembers how the session opened; a `domain.sessions.SessionListener`."""

    def __init__(self) -> None:
        self.openings: list[bool] = []
        """Whether the queue was made, at each opening."""
        self.ready: list[int] = []
        """How many events waited, at each opening."""
        self.tags: list[int] = []
        """Of what the broker handed over, whatever it was."""

    def making(self) -> None:
        pass

    def opened(self, generation: int, ready: int, *, full: bool, made: bool) -> None:
        self.openings.append(made)
        self.ready.append(ready)

    def delivered(self, tag: int, event: Event, *, redelivered: bool) -> None:
        self.tags.append(tag)

    def refused(self, tag: int, reason: str) -> None:
        self.tags.append(tag)

    def parked(self, generation: int, tag: int) -> None:
        pass

    def lost(self) -> None:
        pass
