"""The OpenAPI 3.1 document of the HTTP routes: what is asked, and every answer."""

from typing import Any, Final

from contracts.documents.asyncapi import CONTRACT_VERSION
from contracts.documents.examples import examples_of
from contracts.documents.shapes import INTEGERS, SHAPES, Json
from contracts.documents.websocket import HEADERS, QUERY
from contracts.events import MAX_BODY_BYTES, EventType
from contracts.http import BROADCAST_ROUTES, IDEMPOTENCY_KEY, MAX_IDEMPOTENCY_KEY, PROBLEM_JSON
from contracts.ids import MAX_ID

_DESCRIPTION: Final = f"""\
The HTTP side of realtime-service: the broadcast routes, the status route, health. Events themselves are
better published to RabbitMQ, and they reach clients over the WebSocket: see `/asyncapi.json`.

Every answer that is no success is `{PROBLEM_JSON}` (RFC 9457), also these, which any route may give:

* 400: the request cannot be read as HTTP (this one answer may be plain text).
* 404: there is no such route. It is never said of a diagnosis: who may not know of one is answered 403.
* 405: the route does not know the method; the header `Allow` says which it knows.

There is no 500 in this contract: where a part is away, the answer is 503, and the same request is worth
repeating.

{INTEGERS}
"""

_PROBLEMS: Final[dict[int, tuple[str, str]]] = {
    400: ("BadRequest", "No WebSocket handshake (RFC 6455 §4.2.1)."),
    401: ("Unauthorized", "No token, or one that is not valid: expired, badly signed, without a user."),
    403: ("Forbidden", "The token does not allow it, or there is no such diagnosis: one answer for both."),
    413: ("ContentTooLarge", f"The body is over {MAX_BODY_BYTES // 1024} KiB."),
    422: ("UnprocessableContent", "No JSON, or a field is missing, of a wrong type or out of range."),
    429: ("TooManyRequests", "Too many requests of this caller."),
    503: (
        "ServiceUnavailable",
        "Not now: broker or database is away, or this replica shuts down. Repeat it.",
    ),
}

_RESPONSE_HEADERS: Final[dict[int, Json]] = {
    401: {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}},
    503: {
        "Retry-After": {"description": "Seconds, where known.", "schema": {"type": "integer", "minimum": 0}}
    },
}


def openapi() -> Json:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "realtime-service", "version": CONTRACT_VERSION, "description": _DESCRIPTION},
        "servers": [{"url": "/", "description": "Wherever this document came from."}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": _paths(),
        "components": {
            "schemas": {
                name: shape.schema() for name, shape in SHAPES.items() if name.startswith(("event.", "http."))
            },
            "responses": {name: _problem(status) for status, (name, _) in _PROBLEMS.items()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "`user_id` or else `sub` is the user id, `exp` is required; `scope` may "
                    "hold `operator` or `publisher`.",
                },
                "query_token": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


_TAGS: Final = {
    "events": "For upstream tasks that do not speak AMQP.",
    "clients": "For apps.",
    "operation": "For operators and their machines.",
    "documents": "The contract, as machines read it.",
}


def _paths() -> dict[str, Json]:
    broadcasts = {route: {"post": _broadcast(kind)} for kind, route in BROADCAST_ROUTES.items()}
    return broadcasts | {
        "/ws/{diagnosis_id}": {"get": _upgrade()},
        "/ws/status": {
            "get": _get(
                "operation",
                "status",
                "Who is connected and what waits.",
                {200: _answer("The report.", "http.status")} | _problems(401, 403),
                description="For tokens with the scope `operator`.",
                security=[{"bearer": ["operator"]}],
            )
        },
        "/livez": {"get": _health("livez", "The process runs. Nothing else is looked at.", ready=False)},
        "/healthz": {"get": _health("healthz", "The older name of `/livez`.", ready=False)},
        "/readyz": {
            "get": _health(
                "readyz", "Broker and database answer, and this replica is not draining.", ready=True
            )
        },
        "/metrics": {
            "get": _get(
                "operation",
                "metrics",
                "Metrics for Prometheus.",
                {200: _content("The metrics.", "text/plain", {"schema": {"type": "string"}})},
            )
        },
        "/openapi.json": {"get": _document("openapi", "This document.")},
        "/asyncapi.json": {"get": _document("asyncapi", "The contract of WebSocket and RabbitMQ.")},
    }


def _broadcast(kind: EventType) -> Json:
    name = f"event.{kind}"
    return {
        "tags": ["events"],
        "operationId": f"broadcast_{kind}",
        "summary": SHAPES[name].schema()["description"],
        "description": "For the owner of the diagnosis, and for tokens with the scope `publisher`. The "
        "answer comes after the broker's confirm: then the event is safe.",
        "security": [{"bearer": []}, {"bearer": ["publisher"]}],
        "parameters": [
            {
                "name": IDEMPOTENCY_KEY,
                "in": "header",
                "description": "The same caller, route, diagnosis and key make the same event id, so that a "
                "request may be repeated after an answer was lost.",
                "schema": {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY},
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": _media(name)}},
        "responses": _responses(
            {200: _answer("The broker confirmed the event.", "http.accepted")}
            | _problems(401, 403, 413, 422, 429, 503)
        ),
    }


def _upgrade() -> Json:
    """The WebSocket handshake, as far as HTTP goes."""
    number = {"type": "integer", "minimum": 1, "maximum": MAX_ID}
    path = {"name": "diagnosis_id", "in": "path", "required": True, "schema": number}
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in QUERY["properties"].items()]
    protocol = {
        "name": "Sec-WebSocket-Protocol",
        "in": "header",
        "schema": HEADERS["properties"]["Sec-WebSocket-Protocol"],
    }
    return _get(
        "clients",
        "connect",
        "Open the WebSocket of a diagnosis.",
        {101: {"description": "The connection is a WebSocket from here: see `/asyncapi.json`."}}
        | _problems(400, 503),
        description="A GET that is upgraded (RFC 6455 §4). Who may not watch the diagnosis is upgraded too, "
        "and then closed with 1008: browsers do not let an app see the status of a failed handshake.",
        parameters=[path, *query, protocol],
        security=[{"bearer": []}, {"query_token": []}, {}],
    )


def _health(name: str, summary: str, *, ready: bool) -> Json:
    answers = {200: _answer("Yes.", "http.health")}
    if ready:
        answers[503] = _answer("No: send no new work here.", "http.health")
    return _get("operation", name, summary, answers)


def _document(name: str, summary: str) -> Json:
    content = _content("The document.", "application/json", {"schema": {"type": "object"}})
    return _get("documents", name, summary, {200: content})


def _get(tag: str, name: str, summary: str, answers: dict[int, Json], **more: Any) -> Json:
    """A GET operation; without `security` it is open to all."""
    return {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        "security": [],
        **more,
        "responses": _responses(answers),
    }


def _responses(answers: dict[int, Json]) -> Json:
    return {str(status): answer for status, answer in answers.items()}


def _problems(*statuses: int) -> dict[int, Json]:
    return {status: {"$ref": f"#/components/responses/{_PROBLEMS[status][0]}"} for status in statuses}


def _problem(status: int) -> Json:
    content: Json = {"schema": {"$ref": "#/components/schemas/http.problem"}}
    examples = {
        name: {"value": value}
        for name, value in examples_of("http.problem").items()
        if value["status"] == status
    }
    answer = _content(
        _PROBLEMS[status][1], PROBLEM_JSON, content | ({"examples": examples} if examples else {})
    )
    return answer | ({"headers": _RESPONSE_HEADERS[status]} if status in _RESPONSE_HEADERS else {})


def _answer(description: str, shape: str) -> Json:
    return _content(description, "application/json", _media(shape))


def _media(shape: str) -> Json:
    examples = {name: {"value": value} for name, value in examples_of(shape).items()}
    return {"schema": {"$ref": f"#/components/schemas/{shape}"}, "examples": examples}


def _content(description: str, media_type: str, media: Json) -> Json:
    return {"description": description, "content": {media_type: media}}
