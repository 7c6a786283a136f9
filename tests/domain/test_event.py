"""domain.event: bytes that every client gets alike."""

import json

from contracts.ids import DiagnosisId, EventId
from realtime_service.domain.event import Event


def test_a_repeat_says_so_and_is_the_same_message_otherwise() -> None:
    message = {"type": "feedback_update", "event_id": "e1", "data": {"comment": "}"}}
    event = Event(EventId("e1"), DiagnosisId(1), json.dumps(message).encode())
    assert json.loads(event.repeated_message) == {**message, "redelivered": True}


def test_the_data_of_a_patient_stay_out_of_logs() -> None:
    assert "secret" not in repr(Event(EventId("e1"), DiagnosisId(1), b'{"data":"secret"}'))
