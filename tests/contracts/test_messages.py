"""contracts.messages: frames in both directions, and the time in them."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import to_json

from contracts.events import EventType, explain
from contracts.ids import DiagnosisId, EventId
from contracts.messages import CLIENT_FRAME, Ack, Auth, EventMessage, Ping, event_message, rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""


def event(*, redelivered: bool = False) -> EventMessage:
    return EventMessage(
        type=EventType.FEEDBACK,
        diagnosis_id=DiagnosisId(123),
        timestamp=rfc3339(0),
        event_id=EventId("e-1"),
        data={"note": "schön"},
        redelivered=True if redelivered else None,
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1795341600, "2026-11-22T10:00:00.000Z"),
        (1795341600.0004, "2026-11-22T10:00:00.000Z"),
        (1795341600.9996, "2026-11-22T10:00:01.000Z"),
        (1795341600.123, "2026-11-22T10:00:00.123Z"),
        (8_700_000_000.123, "2245-09-10T10:40:00.123Z"),
        (-0.001, "1969-12-31T23:59:59.999Z"),
        (-62_135_596_800, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_is_rfc_3339_in_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


@given(st.integers(0, LAST_MS))
def test_a_time_in_milliseconds_is_read_back_as_itself(milliseconds: int) -> None:
    text = rfc3339(milliseconds / 1000)
    assert len(text) == 24
    assert (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1) == milliseconds


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, 1e12, -1e12, 2.0**64])
def test_what_is_no_time_of_the_years_1_to_9999_is_refused(seconds: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        rfc3339(seconds)


@given(
    st.sampled_from(EventType),
    st.integers(1, 2**63 - 1),
    st.text(min_size=1, max_size=128),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.floats(-1e9, 1e9)),
)
def test_a_message_put_together_is_the_message(
    kind: EventType, diagnosis: int, event_id: str, data: dict[str, Any]
) -> None:
    message = EventMessage(
        type=kind,
        diagnosis_id=DiagnosisId(diagnosis),
        event_id=EventId(event_id),
        timestamp=rfc3339(1.5),
        data=data,
    )
    put_together = event_message(
        kind, message.diagnosis_id, message.event_id, message.timestamp, to_json(data)
    )
    assert put_together == message.to_bytes()


def test_redelivered_is_left_out_unless_it_is_true() -> None:
    assert "redelivered" not in json.loads(event().to_bytes())
    assert json.loads(event(redelivered=True).to_bytes())["redelivered"] is True


def test_a_frame_is_utf_8_json_without_escapes() -> None:
    assert "schön".encode() in event().to_bytes()


def test_a_message_cannot_be_changed() -> None:
    message: Any = event()
    with pytest.raises(ValidationError):
        message.timestamp = "later"


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"type":"ping"}', Ping()),
        ('{"type":"ping","later":1}', Ping()),
        ('{"type":"ack","event_id":"e-1"}', Ack(event_id=EventId("e-1"))),
        ('{"type":"auth","token":"a.b.c"}', Auth(token="a.b.c")),
    ],
)
def test_a_client_s_frame_is_told_by_its_type_and_unknown_fields_are_dropped(
    text: str, frame: object
) -> None:
    assert CLIENT_FRAME.validate_json(text) == frame


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ping",
        "[]",
        "{}",
        '{"event_id":"e-1"}',
        '{"type":"pong"}',
        '{"type":"ack"}',
        '{"type":"ack","event_id":""}',
        '{"type":"ack","event_id":7}',
        '{"type":"auth","token":null}',
        '{"type":["ping"]}',
        f'{{"type":"ack","event_id":"{"a" * 129}"}}',
    ],
)
def test_other_texts_are_no_frames_of_a_client(text: str) -> None:
    with pytest.raises(ValidationError):
        CLIENT_FRAME.validate_json(text)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "top-secret"},
        {"type": "ack", "event_id": ["top-secret"]},
        {"type": "auth", "token": {"top-secret": "top-secret"}},
        {"top-secret": "top-secret"},
    ],
)
def test_the_explanation_of_a_bad_frame_repeats_nothing_of_it(frame: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refusal:
        CLIENT_FRAME.validate_python(frame)
    assert "top-secret" not in explain(refusal.value)
    assert "top-secret" not in explain(refusal.value, depth=2)
