"""One example of each thing that travels, written by hand: the golden truth that models are tested against.

A name is that of the shape, with a further word where a shape has more than one example.
"""

from typing import Any, Final

from contracts.documents.shapes import SHAPES, Shape

_TIME: Final = "2026-11-22T10:00:00.000Z"
_EVENT_ID: Final = "0d4b3c1e-6a52-4f7b-9c58-2f1f5d7a9e10"

_RECOMMENDATION: Final = {
    "old_data": {"recommendation_id": 789, "title": "Walk 20 minutes a day", "priority": 2},
    "new_data": {"recommendation_id": 789, "title": "Walk 30 minutes a day", "priority": 1},
    "reason": "the effectiveness score fell below 0.5",
}
_EFFECTIVENESS: Final = {
    "recommendation_id": 789,
    "effectiveness": 0.85,
    "confidence": 0.92,
    "sample_size": 100,
}
_FEEDBACK: Final = {"feedback_id": 456, "rating": 4, "effectiveness": 0.75}


def _message(kind: str, data: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"type": kind, "diagnosis_id": 123, "timestamp": _TIME, "data": data, **more}


EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "event.recommendation_update": {"diagnosis_id": 123, **_RECOMMENDATION},
    "event.effectiveness_update": {"diagnosis_id": 123, **_EFFECTIVENESS},
    "event.feedback_update": {"diagnosis_id": 123, **_FEEDBACK},
    "server.connect": _message(
        "connect",
        {
            "connection_id": "7f3a2b9c4d5e4f60a1b2c3d4e5f60718",
            "queued_messages": 3,
            "gap": False,
            "resumed": True,
            "receipts": "pong",
            "window": 256,
            "receipt_timeout_seconds": 5.0,
            "heartbeat_seconds": 25.0,
        },
    ),
    "server.recommendation_update": _message("recommendation_update", _RECOMMENDATION, event_id=_EVENT_ID),
    "server.effectiveness_update": _message("effectiveness_update", _EFFECTIVENESS, event_id=_EVENT_ID),
    "server.effectiveness_update.redelivered": _message(
        "effectiveness_update", _EFFECTIVENESS, event_id=_EVENT_ID, redelivered=True
    ),
    "server.feedback_update": _message("feedback_update", _FEEDBACK, event_id=_EVENT_ID),
    "server.gap": _message("gap", {"evicted": 1}),
    "server.gap.unknown": _message("gap", {"evicted": None}),
    "server.pong": _message("pong", {}),
    "server.error": _message("error", {"code": "unknown_type", "message": "no frame has this type"}),
    "client.ping": {"type": "ping"},
    "client.ack": {"type": "ack", "event_id": _EVENT_ID},
    "client.auth": {"type": "auth", "token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMDAifQ.c2lnbmF0dXJl"},
    "http.accepted": {"status": "accepted", "event_id": _EVENT_ID, "diagnosis_id": 123},
    "http.status": {
        "total_diagnoses": 1,
        "total_connections": 2,
        "connections_by_diagnosis": {"123": 2},
        "queued_messages_by_diagnosis": {"456": 3},
    },
    "http.status.truncated": {
        "total_diagnoses": 1,
        "total_connections": 2,
        "connections_by_diagnosis": {"123": 2},
        "queued_messages_by_diagnosis": {"456": 3},
        "truncated": True,
    },
    "http.status.silent_replica": {
        "total_diagnoses": 1,
        "total_connections": 2,
        "connections_by_diagnosis": {"123": 2},
        "queued_messages_by_diagnosis": {"456": 3},
        "truncated": True,
        "silent_replicas": ["5f0c92ab"],
    },
    "http.health": {"status": "ok", "checks": {}},
    "http.health.unavailable": {"status": "unavailable", "checks": {"broker": "away", "database": "ok"}},
    "http.problem": {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "the diagnosis is not yours, or there is no such diagnosis",
    },
    "http.problem.invalid": {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "the body is no feedback update",
        "errors": ["rating: Input should be less than or equal to 5"],
    },
}

AMQP_PROPERTIES: Final[dict[str, Any]] = {
    "message_id": _EVENT_ID,
    "timestamp": 1795341600,
    "content_type": "application/json",
    "delivery_mode": 2,
    "type": "effectiveness_update",
    "app_id": "analytics",
}
"""The AMQP properties of an event, those of the time above."""

AMQP_HEADERS: Final[dict[str, Any]] = {
    "timestamp_in_ms": 1795341600000,
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
"""Its headers."""


def shape_of(name: str) -> Shape:
    """The shape that an example of this name shows."""
    return SHAPES[".".join(name.split(".")[:2])]


def examples_of(shape: str) -> dict[str, dict[str, Any]]:
    """The examples of a shape, by name."""
    return {name: value for name, value in EXAMPLES.items() if shape_of(name).name == shape}
