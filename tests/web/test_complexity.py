"""What things cost, counted in calls of Python functions, not in seconds: what grows with what.

cost of an event: its recipients. Of a connect: nothing. Of an idle connection: no timer of its own.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from realtime_service.domain.event import Event
from realtime_service.domain.room import SHARED, Member, Room, Settle
from tests.service.harness.waiting import until
from tests.web.replica import Replica, Visitors

OWNER = UserId(100)


class Calls:
    """Counts calls of functions of the service, as long as it is entered."""

    def __enter__(self) -> "Calls":
        self.count = 0
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _seen(self, frame: FrameType, what: str, _: Any) -> None:
        if what == "call" and "realtime_service" in frame.f_code.co_filename:
            self.count += 1


def room_of(members: int) -> tuple[Room, list[Member]]:
    room = Room(DiagnosisId(1))
    room.acquainted = True
    room.opened(SHARED, 1, 0, full=False)
    people = [Member.of(ConnectionId(str(number)), OWNER) for number in range(members)]
    for member in people:
        room.join(member)
    return room, people


def cost_of_an_event(members: int, *, before: int = 0) -> int:
    """To hand it out, and to settle it with a proof of each of its recipients; after so many others."""
    room, people = room_of(members)
    calls = Calls()
    for number in range(1, before + 2):
        event = EventId(str(number))
        with calls:
            room.deliver(SHARED, number, Event(event, DiagnosisId(1), b"{}"))
            settled = []
            for member in people:
                member.receipts.sent(event, 2)
                settled += room.pong(member, member.receipts.ping())
        assert Settle(SHARED, 1, number) in settled
    return calls.count


def test_an_event_costs_what_its_recipients_cost() -> None:
    hundred, thousand = cost_of_an_event(100), cost_of_an_event(1000)
    assert hundred * 8 < thousand < hundred * 11


def test_an_event_costs_the_same_after_many_others() -> None:
    assert cost_of_an_event(10, before=2000) <= cost_of_an_event(10) * 1.2


def test_a_member_costs_the_same_in_a_large_room() -> None:
    def cost_of_the_last(members: int) -> int:
        room, _ = room_of(members)
        with Calls() as calls:
            room.join(Member.of(ConnectionId("last"), OWNER))
        return calls.count

    assert cost_of_the_last(1000) <= cost_of_the_last(10)


async def counted(work: Callable[[], Awaitable[object]]) -> int:
    with Calls() as calls:
        await work()
    return calls.count


async def test_a_connect_costs_the_same_among_many(replica: Replica, visitors: Visitors) -> None:
    async def some_connect() -> None:
        for _ in range(10):
            await visitors.welcomed(diagnoses.pop())

    diagnoses = [replica.diagnoses.add() for _ in range(100)]
    for diagnosis in diagnoses:  # their queues are made
        await (await visitors.welcomed(diagnosis)).leave()
        await replica.gone(diagnosis)
    few = await counted(some_connect)
    for _ in range(7):
        await some_connect()
    many = await counted(some_connect)
    assert many < few * 1.25


async def test_an_idle_connection_has_no_timer_of_its_own(replica: Replica, visitors: Visitors) -> None:
    loop = asyncio.get_running_loop()

    def timers() -> int:
        return sum(not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]

    diagnoses = [replica.diagnoses.add() for _ in range(20)]
    await visitors.welcomed(diagnoses[0])
    before = timers()
    for diagnosis in diagnoses:
        await visitors.welcomed(diagnosis)
        await visitors.welcomed(diagnoses[0])
    await until(lambda: timers() < before + 10, "connecting is over, and what it waited with is gone")
