"""What happened to events of late, for the console: which, when, on which connections; never what is in them.

Law: it costs nothing while nobody looks, and a bounded number of entries while somebody does.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

from contracts.ids import ConnectionId, DiagnosisId, EventId
from realtime_service.domain.event import Event
from realtime_service.domain.room import Member, SessionKey

MAX_ENTRIES: Final = 2_000
"""Some 500 bytes each."""
WATCHED_SECONDS: Final = 10.0
"""So long after a look nothing is noted any more."""
MAX_DIAGNOSES: Final = 100
"""Diagnoses whose devices are remembered."""
MAX_DEVICES: Final = 50
"""Devices of a diagnosis that are; those that connected here last."""
MAX_CONNECTIONS: Final = 20
"""Connections that one entry names; the rest are counted."""

_HEAD: Final = re.compile(rb'\{"type":"(\w+)","diagnosis_id":\d+,"timestamp":"([^"]+)"')


class Stage(StrEnum):
    """Where an event got to."""

    DELIVERED = "delivered"
    RELAYED = "relayed"
    SENT = "sent"
    PROVEN = "proven"
    LEFT_UNPROVEN = "left_unproven"


class Entry(BaseModel):
    """An event reached a stage."""

    model_config = ConfigDict(frozen=True)

    number: int
    """Entries are numbered from 1."""
    at: float
    """Unix milliseconds."""
    stage: Stage
    event_id: EventId
    type: str | None = None
    published: str | None = None
    """RFC 3339; with `type`, where the stage still has the event."""
    device: str | None = None
    """`delivered`: from this device's queue; None: from the diagnosis' own."""
    repeated: bool = False
    """It had, or may have, been sent before."""
    connections: tuple[ConnectionId, ...] = ()
    """Some of those it was sent to; the one that proved it, or did not."""
    count: int = 0
    """How many they are."""


class Trace:
    """The last entries of all diagnoses on this replica; a `hub.Observer`."""

    def __init__(
        self, *, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.last = 0
        """The number of the newest entry."""
        self._clock = clock
        self._monotonic = monotonic
        self._entries: deque[tuple[DiagnosisId, Entry]] = deque(maxlen=MAX_ENTRIES)
        self._devices: dict[DiagnosisId, dict[str, None]] = {}  # the latest last
        self._stirred: DiagnosisId | None = None  # where a connection came or left just now
        self._watched_until = 0.0
        self.waiting = 0
        """Who waits for news."""
        self._news = asyncio.Event()
        self._closed = False

    def since(self, number: int, diagnosis: DiagnosisId) -> list[Entry]:
        """The entries of a diagnosis after `number` that are still here. From now on, for a while, there are more."""
        self._watched_until = self._monotonic() + WATCHED_SECONDS
        return [entry for about, entry in self._entries if about == diagnosis and entry.number > number]

    async def news(self, number: int, diagnosis: DiagnosisId, seconds: float) -> None:
        """Return once there are entries after `number`, a connection came or left, or the time is up."""
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                while not self._closed and not self.since(number, diagnosis):
                    self._news.clear()
                    await self._news.wait()
                    if self._stirred == diagnosis:
                        return
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1

    def devices(self, diagnosis: DiagnosisId) -> list[str]:
        """The keys of devices that connected here of late."""
        return sorted(self._devices.get(diagnosis, ()))

    def close(self) -> None:
        """Nobody is to wait for news any more."""
        self._closed = True
        self._news.set()

    # hub.Observer

    def came_or_left(self, diagnosis: DiagnosisId, member: Member) -> None:
        """A connection came, or is gone; its queue stays."""
        if member.device is not None:
            devices = self._devices.pop(diagnosis, {})
            devices.pop(member.device, None)
            devices[member.device] = None
            self._devices[diagnosis] = devices
            if len(devices) > MAX_DEVICES:
                del devices[next(iter(devices))]
            if len(self._devices) > MAX_DIAGNOSES:
                del self._devices[next(iter(self._devices))]
        self._stirred = diagnosis
        self._news.set()

    def delivered(self, session: SessionKey, event: Event, *, redelivered: bool) -> None:
        """The broker handed an event over."""
        self._note_event(Stage.DELIVERED, event, device=session, repeated=redelivered)

    def relayed(self, event: Event) -> None:
        """Other replicas are being told of an event."""
        self._note_event(Stage.RELAYED, event)

    def sent(self, event: Event, members: tuple[Member, ...], *, repeated: bool) -> None:
        """An event was written to these connections."""
        named = tuple(member.id for member in members[:MAX_CONNECTIONS])
        self._note_event(Stage.SENT, event, repeated=repeated, connections=named, count=len(members))

    def proven(self, diagnosis: DiagnosisId, member: Member, events: tuple[EventId, ...]) -> None:
        """A connection proved that it has these events."""
        for event in events:
            self._note(diagnosis, Stage.PROVEN, event, connections=(member.id,), count=1)

    def left_unproven(self, diagnosis: DiagnosisId, member: Member, events: tuple[EventId, ...]) -> None:
        """A connection is gone and had not proved these events."""
        for event in events:
            self._note(diagnosis, Stage.LEFT_UNPROVEN, event, connections=(member.id,), count=1)

    # Parts

    def _note_event(self, stage: Stage, event: Event, **more: object) -> None:
        if head := _HEAD.match(event.message):  # of the message alone: its data are nobody's business here
            more |= {"type": head[1].decode(), "published": head[2].decode()}
        self._note(event.diagnosis, stage, event.id, **more)

    def _note(self, diagnosis: DiagnosisId, stage: Stage, event: EventId, **more: object) -> None:
        if self._monotonic() > self._watched_until:
            return
        self.last += 1
        fields = {"number": self.last, "at": self._clock() * 1000, "stage": stage, "event_id": event, **more}
        self._entries.append((diagnosis, Entry.model_validate(fields)))
        self._stirred = None
        self._news.set()
