"""Publishes events: builds them by the contract, and refuses what the service would park, before anything is sent."""

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypedDict, Unpack

from pydantic import TypeAdapter, ValidationError

from contracts.events import (
    BodyInvalid,
    EffectivenessUpdate,
    EventBody,
    FeedbackUpdate,
    RecommendationUpdate,
    explain,
    parse_body,
)
from contracts.ids import MAX_EVENT_ID, EventId, UserId, UserIdField, parse_event_id
from contracts.topology import EXCHANGES, Header, routing_key
from realtime_service import tracing
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.domain.errors import EventInvalid, SettingsError
from realtime_service.settings_text import trusting

DEFAULT_AMQP_URL: Final = "amqp://guest:guest@127.0.0.1:5672/"
APP_ID: Final = "realtime_service.publisher"
TIMEOUT_SECONDS: Final = 10.0
"""How long a publish waits for the broker's confirm, lost connections included."""
MAX_HEADER: Final = 256
"""Characters of a header's text; `traceparent` has 55 (W3C Trace Context §3.2)."""
MAX_SHORT_STRING: Final = 255
"""Bytes of an AMQP property."""

_USER_ID: Final = TypeAdapter(UserIdField)


class EventOptions(TypedDict, total=False):
    """What may be said about an event besides its body."""

    event_id: str | None
    """1–128 printable characters; clients show an id once. A random one by default."""
    user_id: int | None
    """A personal event: for this user alone."""
    exclude_connection_id: str | None
    """This connection caused the event and does not need it."""
    traceparent: str | None
    """W3C Trace Context."""
    timeout_seconds: float | None
    """How long to wait for the broker's confirm, lost connections included; the publisher's own time by default."""


class EventPublisher:
    """Publishes events; `async with` opens and closes its connection."""

    def __init__(
        self,
        amqp_url: str | None = None,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        app_id: str = APP_ID,
        confirmed: ConfirmedPublisher | None = None,
    ) -> None:
        """Without `amqp_url` the environment names the broker. `app_id` is your program's name, for people.

        `confirmed`: share this one's connection, whose owner opens and closes it. Raises SettingsError for a URL that
        is none.
        """
        self._timeout_seconds = timeout_seconds
        self._app_id = app_id
        self._own: ConfirmedPublisher | None = None
        if confirmed is None:
            confirmed = self._own = _confirmed(amqp_url or _amqp_url(), app_id)
        self._confirmed = confirmed

    @property
    def connected(self) -> bool:
        """Whether an event published now would go out at once."""
        return self._confirmed.connected

    async def __aenter__(self) -> Self:
        if self._own is not None:
            await self._own.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own is not None:
            await self._own.__aexit__(kind, error, trace)

    async def publish(
        self,
        body: EventBody,
        *,
        event_id: str | None = None,
        user_id: int | None = None,
        exclude_connection_id: str | None = None,
        traceparent: str | None = None,
        timeout_seconds: float | None = None,
    ) -> EventId:
        """Publish, and return the event's id after the broker's confirm. See `EventOptions` for the options.

        Raises EventInvalid (nothing was sent) or PublishError.
        """
        checked_id = _event_id(event_id)
        now = datetime.now(UTC)
        headers: dict[str, Any] = {Header.TIMESTAMP_MS.value: int(now.timestamp() * 1000)}
        if user_id is not None:
            headers[Header.USER_ID.value] = _user_id(user_id)
        if exclude_connection_id is not None:
            headers[Header.EXCLUDE_CONNECTION.value] = _text("exclude_connection_id", exclude_connection_id)
        exchange, encoded = EXCHANGES[body.event_type], _bytes(body)
        said = None if traceparent is None else _text("traceparent", traceparent)
        with tracing.publishing(exchange, checked_id, said) as traced:
            if traced is not None:
                headers[Header.TRACEPARENT.value] = traced
            await self._confirmed.publish(
                exchange,
                routing_key(body.diagnosis_id),
                encoded,
                message_id=checked_id,
                timeout_seconds=self._timeout_seconds if timeout_seconds is None else timeout_seconds,
                message_type=body.event_type.value,
                app_id=self._app_id,
                timestamp=now,
                headers=headers,
            )
        return checked_id

    async def broadcast_recommendation_update(
        self,
        diagnosis_id: int,
        old_data: dict[str, Any],
        new_data: dict[str, Any],
        reason: str,
        **options: Unpack[EventOptions],
    ) -> EventId:
        """A recommendation changed, for `reason`; `old_data` is empty for a new one."""
        body = _body(
            RecommendationUpdate,
            diagnosis_id=diagnosis_id,
            old_data=old_data,
            new_data=new_data,
            reason=reason,
        )
        return await self.publish(body, **options)

    async def broadcast_effectiveness_update(
        self,
        diagnosis_id: int,
        recommendation_id: int,
        effectiveness: float,
        confidence: float,
        sample_size: int,
        **options: Unpack[EventOptions],
    ) -> EventId:
        """A recommendation's effectiveness (0–1) was computed anew from `sample_size` observations."""
        body = _body(
            EffectivenessUpdate,
            diagnosis_id=diagnosis_id,
            recommendation_id=recommendation_id,
            effectiveness=effectiveness,
            confidence=confidence,
            sample_size=sample_size,
        )
        return await self.publish(body, **options)

    async def broadcast_feedback_update(
        self,
        diagnosis_id: int,
        feedback_id: int,
        rating: int,
        effectiveness: float,
        **options: Unpack[EventOptions],
    ) -> EventId:
        """Feedback was summarised: `rating` 1–5, `effectiveness` 0–1."""
        body = _body(
            FeedbackUpdate,
            diagnosis_id=diagnosis_id,
            feedback_id=feedback_id,
            rating=rating,
            effectiveness=effectiveness,
        )
        return await self.publish(body, **options)


def _body(kind: type[EventBody], **arguments: object) -> EventBody:
    try:
        return kind.model_validate(arguments)
    except ValidationError as error:
        raise EventInvalid(explain(error)) from None


def _bytes(body: EventBody) -> bytes:
    """The AMQP body, read back as the service will read it: what it would park is refused here."""
    try:
        encoded = body.to_bytes()
        parse_body(body.event_type, encoded)
    except BodyInvalid as error:
        raise EventInvalid(str(error)) from None
    except ValueError:
        raise EventInvalid("the body holds text that is no Unicode (a lone surrogate)") from None
    return encoded


def _event_id(text: object) -> EventId:
    if text is None:
        return EventId(uuid.uuid4().hex)
    checked = parse_event_id(text) if isinstance(text, str) else None
    if checked is None or len(checked.encode()) > MAX_SHORT_STRING:
        raise EventInvalid(
            f"event_id must be 1 to {MAX_EVENT_ID} printable characters, {MAX_SHORT_STRING} bytes at most"
        )
    return checked


def _user_id(number: object) -> UserId:
    try:
        return _USER_ID.validate_python(number)
    except ValidationError as error:
        raise EventInvalid(f"user_id: {error.errors()[0]['msg']}") from None


def _text(name: str, text: object) -> str:
    if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= MAX_HEADER:
        raise EventInvalid(f"{name} must be 1 to {MAX_HEADER} printable characters")
    return text


def _amqp_url() -> str:
    """What the environment names, with the authorities that it names for TLS."""
    authorities = os.environ.get("REALTIME_CA_FILE")
    return trusting("cafile", _given_url(), Path(authorities) if authorities else None, "amqps")


def _given_url() -> str:
    if url := os.environ.get("REALTIME_AMQP_URL"):
        return url
    if path := os.environ.get("REALTIME_AMQP_URL_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(
                f"REALTIME_AMQP_URL_FILE: the file cannot be read ({type(error).__name__})"
            ) from error
    return DEFAULT_AMQP_URL


def _confirmed(amqp_url: str, app_id: str) -> ConfirmedPublisher:
    try:
        return ConfirmedPublisher(amqp_url, name=app_id)
    except ValueError as error:
        raise SettingsError(f"REALTIME_AMQP_URL: {error}") from None
