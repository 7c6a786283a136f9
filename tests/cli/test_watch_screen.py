"""What `watch` prints."""

import io

import pytest

from contracts.events import EventType
from contracts.ids import ConnectionId, DiagnosisId, EventId
from contracts.messages import ErrorData, ErrorMessage, EventMessage, Gap, GapData, Pong, Welcome, WelcomeData
from realtime_service.cli.watch_screen import EventLines, RawLines, local_time

AT = "2026-11-22T10:00:00.123Z"
DIAGNOSIS = DiagnosisId(123)

Capture = pytest.CaptureFixture[str]


def event(*, event_id: str = "0123456789abcdef", redelivered: bool = False, **data: object) -> EventMessage:
    return EventMessage(
        type=EventType.FEEDBACK,
        diagnosis_id=DIAGNOSIS,
        timestamp=AT,
        event_id=EventId(event_id),
        data=data,
        redelivered=True if redelivered else None,
    )


def welcome(**data: object) -> Welcome:
    known = {
        "connection_id": ConnectionId("c"),
        "queued_messages": 0,
        "gap": False,
        "resumed": True,
        "receipts": "pong",
        "window": 256,
        "receipt_timeout_seconds": 5.0,
        "heartbeat_seconds": 25.0,
    }
    return Welcome(diagnosis_id=DIAGNOSIS, timestamp=AT, data=WelcomeData.model_validate(known | data))


@pytest.fixture
def screen() -> EventLines:
    return EventLines(colours=False, width=200)


def test_an_event_is_one_line_of_time_type_id_and_data(screen: EventLines, capsys: Capture) -> None:
    screen.show("", event(rating=4))
    assert capsys.readouterr().out == f'{local_time(AT)}  feedback_update      01234567  {{"rating":4}}\n'


def test_a_redelivered_event_is_marked(screen: EventLines, capsys: Capture) -> None:
    screen.show("", event(redelivered=True))
    assert capsys.readouterr().out.endswith("{}  (redelivered)\n")


def test_long_data_are_cut_to_the_width_and_the_mark_stays(capsys: Capture) -> None:
    EventLines(colours=False, width=100).show("", event(redelivered=True, text="x" * 500))
    line = capsys.readouterr().out.rstrip("\n")
    assert len(line) == 100
    assert line.endswith("…  (redelivered)")


def test_what_came_over_the_network_cannot_steer_the_terminal(screen: EventLines, capsys: Capture) -> None:
    screen.show("", event(event_id="e\u202ed", text="\x1b[2J\x9b31m\u202e\nnext"))
    screen.show("\x1b]0;title\x07", None)
    screen.note("closed \x1b[2J")
    captured = capsys.readouterr()
    assert all(line.isprintable() for line in (captured.out + captured.err).splitlines())
    assert len(captured.out.splitlines()) == 2


def test_the_welcome_sums_up_what_there_is_to_know(screen: EventLines, capsys: Capture) -> None:
    screen.show("", welcome())
    screen.show("", welcome(queued_messages=1, gap=True, resumed=False, receipts="ack"))
    assert capsys.readouterr().out.splitlines() == [
        "connected to diagnosis 123: no events were waiting; receipts by pong",
        "connected to diagnosis 123: 1 event was waiting; receipts by ack; this device is new, it has no backlog of its"
        " own yet; the backlog was full, older events may be gone",
    ]


@pytest.mark.parametrize(
    ("evicted", "said"), [(1, "gap: 1 event was"), (7, "gap: 7 events were"), (None, "gap: some events were")]
)
def test_a_gap_says_how_much_is_gone(
    evicted: int | None, said: str, screen: EventLines, capsys: Capture
) -> None:
    screen.show("", Gap(diagnosis_id=DIAGNOSIS, timestamp=AT, data=GapData(evicted=evicted)))
    assert capsys.readouterr().out == f"{local_time(AT)}  {said} dropped and will not come\n"


def test_an_error_is_shown_and_a_pong_is_not(screen: EventLines, capsys: Capture) -> None:
    error = ErrorData(code="bad_frame", message="frames are JSON text")
    screen.show("", Pong(diagnosis_id=DIAGNOSIS, timestamp=AT))
    screen.show("", ErrorMessage(diagnosis_id=DIAGNOSIS, timestamp=AT, data=error))
    assert capsys.readouterr().out == "error: frames are JSON text (bad_frame)\n"


def test_raw_lines_are_the_frames_as_they_came(capsys: Capture) -> None:
    RawLines().show('{"type":"new"}', None)
    assert capsys.readouterr().out == '{"type":"new"}\n'


def test_a_note_is_said_once_until_something_else_happens(screen: EventLines, capsys: Capture) -> None:
    for _ in range(3):
        screen.note("no connection")
    screen.show("", event())
    screen.note("no connection")
    assert capsys.readouterr().err.splitlines() == ["no connection", "no connection"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    EventLines.on_standard_output().show("", event())
    assert "\x1b[" in terminal.getvalue()

    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    EventLines.on_standard_output().show("", event())
    assert "\x1b" not in terminal.getvalue()

    monkeypatch.setattr("sys.stdout", pipe := io.StringIO())
    monkeypatch.delenv("NO_COLOR")
    EventLines.on_standard_output().show("", event())
    assert "\x1b" not in pipe.getvalue()
