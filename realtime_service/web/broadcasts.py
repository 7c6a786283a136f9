"""The broadcast routes of the replaced module: publish over HTTP, for callers that do not speak AMQP.

Law: the answer 200 comes after the broker's confirm. Checks go from cheap to dear, and a stranger is stopped
before anything is read: 401, 429, 413, 422, 403, 503. Not yours and no such diagnosis are one answer.
"""

import asyncio
import math
import re
import uuid
from typing import Final

import structlog
from aiohttp import hdrs, web

from contracts.events import MAX_BODY_BYTES, BodyInvalid, EventBody, EventType, parse_body
from contracts.http import BROADCAST_ROUTES, IDEMPOTENCY_KEY, MAX_IDEMPOTENCY_KEY, Accepted
from contracts.ids import EventId
from realtime_service.domain.identity import Identity, Scope
from realtime_service.logs import hashed
from realtime_service.web.credentials import authenticate
from realtime_service.web.keys import BROADCAST_LIMITS, EVENT_SINK, OWNERSHIP, VERIFIER
from realtime_service.web.problems import Handler, HttpProblem

log = structlog.get_logger(__name__)

BODY_SECONDS: Final = 10.0
"""How long a caller may take to send 64 KiB; beyond, 408. Nobody holds a request open for ever."""
EVENT_NAMESPACE: Final = uuid.UUID("a31f9bda-e621-4be4-ba9b-70f58343e283")
"""Of the event ids made from idempotency keys (RFC 9562 §5.5); another one would make retries new events."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")


def routes() -> list[web.RouteDef]:
    """One POST a kind of event. They need VERIFIER, OWNERSHIP, EVENT_SINK and BROADCAST_LIMITS."""
    return [web.post(path, _handler(kind)) for kind, path in BROADCAST_ROUTES.items()]


def _handler(kind: EventType) -> Handler:
    async def broadcast(request: web.Request) -> web.StreamResponse:
        caller = await authenticate(request, request.app[VERIFIER])
        _within_rate(request, caller)
        body = _parsed(kind, await read_body(request))
        event_id = idempotent_event_id(request, kind, caller, body)
        await _allowed(request, caller, body)
        event_id = await request.app[EVENT_SINK].publish(
            body, event_id=event_id, traceparent=traceparent_of(request)
        )
        accepted = Accepted(event_id=event_id, diagnosis_id=body.diagnosis_id)
        return web.Response(body=accepted.model_dump_json().encode(), content_type="application/json")

    return broadcast


async def read_body(request: web.Request, *, seconds: float = BODY_SECONDS) -> bytes:
    """The body, decompressed; never more than MAX_BODY_BYTES of it are held.

    Raises HttpProblem: 413 too large, 408 too slow, 400 broken off or badly encoded.
    """
    body = bytearray()
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise _too_large()
    try:
        async with asyncio.timeout(seconds):
            while chunk := await request.content.read(MAX_BODY_BYTES + 1 - len(body)):
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise HttpProblem(
            408, "the body did not arrive in time", headers={hdrs.CONNECTION: "close"}
        ) from None
    except (web.RequestPayloadError, ConnectionError):
        raise HttpProblem(400, "the body broke off or is badly encoded") from None
    return bytes(body)


def idempotent_event_id(
    request: web.Request, kind: EventType, caller: Identity, body: EventBody
) -> EventId | None:
    """The id that the same caller, route, diagnosis and `Idempotency-Key` always make; None without a key.

    Raises HttpProblem(422): not one key of 1–255 printable characters.
    """
    keys = request.headers.getall(IDEMPOTENCY_KEY, [])
    if not keys:
        return None
    key = keys[0]
    if len(keys) > 1 or not 0 < len(key) <= MAX_IDEMPOTENCY_KEY or not key.isprintable():
        rule = f"{IDEMPOTENCY_KEY}: must be one value of 1 to {MAX_IDEMPOTENCY_KEY} printable characters"
        raise HttpProblem(422, "a header is not valid", errors=[rule])
    name = f"{caller.user_id}\n{BROADCAST_ROUTES[kind]}\n{body.diagnosis_id}\n{key}"
    return EventId(str(uuid.uuid5(EVENT_NAMESPACE, name)))


def traceparent_of(request: web.BaseRequest) -> str | None:
    """The caller's trace (W3C Trace Context §3.2); None for what is not exactly one valid header."""
    headers = request.headers.getall("traceparent", [])
    return headers[0] if len(headers) == 1 and _TRACEPARENT.match(headers[0]) else None


def _within_rate(request: web.Request, caller: Identity) -> None:
    if wait := request.app[BROADCAST_LIMITS].take(caller.user_id):
        raise HttpProblem(
            429, "too many requests of this caller", headers={hdrs.RETRY_AFTER: str(math.ceil(wait))}
        )


def _parsed(kind: EventType, body: bytes) -> EventBody:
    try:
        return parse_body(kind, body)
    except BodyInvalid as invalid:
        detail = f"the body is no {kind.replace('_', ' ')}"
        raise HttpProblem(422, detail, errors=str(invalid).split("; ")) from None


async def _allowed(request: web.Request, caller: Identity, body: EventBody) -> None:
    """Raises HttpProblem(403) or DatabaseUnavailable."""
    owner = await request.app[OWNERSHIP].owner_of(body.diagnosis_id)
    if owner is None or (owner != caller.user_id and not caller.has(Scope.PUBLISHER)):
        log.info("broadcast_refused", diagnosis=hashed(body.diagnosis_id), exists=owner is not None)
        raise HttpProblem(403, "the diagnosis is not yours, or there is no such diagnosis")


def _too_large() -> HttpProblem:
    return HttpProblem(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
