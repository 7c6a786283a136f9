"""The promises of delivery hold in every history that `machine.Promises` can think of, and it notices when they do not.

`PROMISES_EXAMPLES=20000` looks further than the 200 histories of an ordinary run.
"""

import os
from collections.abc import Iterable

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from contracts.ids import DiagnosisId, EventId
from realtime_service.domain.event import Event
from realtime_service.domain.receipts import Receipts
from realtime_service.domain.recent import RecentIds
from realtime_service.domain.room import Effect, Member, Room, SessionKey, Word
from realtime_service.domain.window import Record, SessionWindow
from tests.domain.machine import Promises

EXAMPLES = int(os.environ.get("PROMISES_EXAMPLES", "200"))
HISTORY = settings(stateful_step_count=50, deadline=None)

Promises.TestCase.settings = settings(HISTORY, max_examples=EXAMPLES)

TestPromises = pytest.mark.timeout(EXAMPLES)(Promises.TestCase)


# The same world with one rule broken


class SettlesOnHandOut(SessionWindow):
    """Bytes written are taken as received."""

    def admit(self) -> list[Record]:
        records = super().admit()
        for record in records:
            record.proven = True
        return records


class SettlesBeyondThePrefix(SessionWindow):
    """The latest proven delivery is acknowledged, and with `multiple` all before it."""

    def settle(self) -> int | None:
        proven = [tag for tag, record in self._unsettled.items() if record.proven]
        for tag, record in self._unsettled.items():
            record.proven = record.proven or bool(proven and tag < proven[-1])
        return super().settle()


class NeverSettlesWhatWaited(SessionWindow):
    """A refused delivery is looked for among those let through alone."""

    def refused(self, tag: int) -> None:
        waiting, self._waiting = self._waiting, type(self._waiting)()
        super().refused(tag)
        self._waiting = waiting


class KnowsNoRepeats(SessionWindow):
    """Every delivery is handed out."""

    def _known(self, record: Record) -> Record | None:
        return record if record.event is None else None


class HandsOutAgain(SessionWindow):
    """What a lost channel returns counts as new, also for those who were sent it."""

    def _hand_out(self, record: Record) -> None:
        super()._hand_out(record)
        record.redelivered = False


class ForgetsProofs(SessionWindow):
    """What was proven and not settled when the channel was lost is unproven again."""

    def lost(self) -> None:
        super().lost()
        self.proven_ids = RecentIds()


class TakesProvenForHandedOut(SessionWindow):
    """What a device proved is withheld from the unnamed clients."""

    def _known(self, record: Record) -> Record | None:
        if record.event is not None and record.event.id in self.proven_ids:
            return Record(None, proven=True)
        return super()._known(record)


class KnowsNoBound(SessionWindow):
    """Any number of bytes is handed out."""

    def _fits(self, record: Record) -> bool:
        return True


class HoldsBackNothing(SessionWindow):
    """A new device's own queue does not wait for the shared stream."""

    def hold(self) -> None:
        pass


class PongProvesEverything(Receipts):
    """Also what was written behind the PING."""

    def pong(self, number: int) -> list[EventId]:
        return [*super().pong(number), *(self.assume() if self.mode == "pong" else [])]


class AckProvesEverything(Receipts):
    """Also what was sent after the event."""

    def ack(self, event: EventId) -> list[EventId]:
        return [*super().ack(event), *(self.assume() if self.mode == "ack" else [])]


class PingCoversTheFuture(Receipts):
    """An event is covered by the PING that went out before it."""

    def sent(self, event: EventId, size: int) -> None:
        super().sent(event, size)
        self._covered = self._sent[event] = self._asked


class NewcomersStartEmpty(Room):
    """What was handed out before and is unproven is not sent to who comes later."""

    def _catch_up(self, member: Member, records: Iterable[Record]) -> list[Effect]:
        return []


class ForgetsWhatPassed(Room):
    """A new device is not sent what the shared session handed out while its own queue was being made."""

    def join_device(self, member: Member, *, new: bool, words: Iterable[Word] = ()) -> list[Effect]:
        self._arriving[member.id].records.clear()
        return super().join_device(member, new=new, words=words)


class SendsToAll(Room):
    """Whoever caused an event gets it, too."""

    @staticmethod
    def _may_get(event: Event, member: Member) -> bool:
        return True


class ParksNothing(Room):
    """A personal event for somebody else is taken like any other."""

    def refuse(self, session: SessionKey, tag: int, reason: str) -> list[Effect]:
        window = self.window(session)
        assert window is not None
        effects = self._hand_out(session, window.deliver(tag, None))
        window.refused(tag)
        return [*effects, *self._settle(session)]


class OneProofForAll(Room):
    """What any client proved is settled in every device's queue."""

    def _proven(self, member: Member, events: Iterable[EventId]) -> list[Effect]:
        proven = list(events)
        effects = super()._proven(member, proven)
        for key, device in self.devices.items():
            device.window.prove(proven)
            effects += self._settle(key)
        return effects


class LedgerOfTheUnnamed(Room):
    """What a named device proved stays in the shared queue."""

    def _proven(self, member: Member, events: Iterable[EventId]) -> list[Effect]:
        if member.device is None:
            return super()._proven(member, events)
        if device := self.devices.get(member.device):
            device.window.prove(events)
        return self._settle(member.device)


class TellsNoGap(Room):
    """Evictions are kept from the clients."""

    def evicted(self, session: SessionKey, event: EventId) -> list[Effect]:
        return []


class WaitsForTheExcluded(Room):
    """An event whose only audience caused it waits for a proof that cannot come."""

    def _needed_by_nobody(self, event: Event) -> bool:
        return False


BROKEN_WINDOWS = [
    SettlesOnHandOut,
    SettlesBeyondThePrefix,
    NeverSettlesWhatWaited,
    KnowsNoRepeats,
    HandsOutAgain,
    ForgetsProofs,
    TakesProvenForHandedOut,
    KnowsNoBound,
    HoldsBackNothing,
]
BROKEN_RECEIPTS = [PongProvesEverything, AckProvesEverything, PingCoversTheFuture]
BROKEN_ROOMS = [
    NewcomersStartEmpty,
    ForgetsWhatPassed,
    SendsToAll,
    ParksNothing,
    OneProofForAll,
    LedgerOfTheUnnamed,
    TellsNoGap,
    WaitsForTheExcluded,
]


@pytest.mark.parametrize("window", BROKEN_WINDOWS)
def test_a_broken_window_breaks_a_promise(window: type[SessionWindow]) -> None:
    class BrokenRoom(Room):
        def __init__(self, diagnosis: DiagnosisId) -> None:
            super().__init__(diagnosis)
            self.shared = window()

        def join_device(self, member: Member, *, new: bool, words: Iterable[Word] = ()) -> list[Effect]:
            effects = super().join_device(member, new=new, words=words)
            assert member.device is not None
            device = self.devices[member.device]
            device.window, whole = window(), device.window
            device.window._handed_out = whole._handed_out
            if new:
                device.window.hold()
            return effects

    class Broken(Promises):
        make_room = BrokenRoom

    assert_found(Broken)


@pytest.mark.parametrize("receipts", BROKEN_RECEIPTS)
def test_broken_receipts_break_a_promise(receipts: type[Receipts]) -> None:
    class Broken(Promises):
        make_receipts = receipts

    assert_found(Broken)


@pytest.mark.parametrize("room", BROKEN_ROOMS)
def test_a_broken_room_breaks_a_promise(room: type[Room]) -> None:
    class Broken(Promises):
        make_room = room

    assert_found(Broken)


def assert_found(machine: type[Promises]) -> None:
    """The machine finds a history in which it fails: always the same ones are tried."""
    search = settings(
        HISTORY,
        max_examples=3000,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=search)
