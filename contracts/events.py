"""What upstream tasks publish: one body a kind of event, JSON, at most 64 KiB.

Tolerant to publishers: unknown fields are dropped, so that a publisher may add a field first. Strict in
everything else: types are not coerced (`"5"` is no rating), NaN and Infinity are no numbers (RFC 8259 §6).
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from contracts.ids import MAX_ID, DiagnosisIdField

MAX_BODY_BYTES: Final = 64 * 1024
"""A larger body is refused: it would hold up a phone's link for seconds."""

Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
RecordId = Annotated[int, Field(ge=0, le=MAX_ID, strict=True)]


class EventType(StrEnum):
    """The `type` a client switches on."""

    RECOMMENDATION = "recommendation_update"
    EFFECTIVENESS = "effectiveness_update"
    FEEDBACK = "feedback_update"


class EventBody(BaseModel):
    """What the three kinds have in common: the diagnosis they are about."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)

    event_type: ClassVar[EventType]

    diagnosis_id: DiagnosisIdField

    def data(self) -> bytes:
        """`data` of the client's message: the body without `diagnosis_id`, as JSON."""
        data = {name: value for name, value in self.__dict__.items() if name != "diagnosis_id"}
        return to_json(data, inf_nan_mode="constants")

    def to_bytes(self) -> bytes:
        """The AMQP body."""
        return to_json(self)


class RecommendationUpdate(EventBody):
    """A recommendation changed."""

    event_type: ClassVar[EventType] = EventType.RECOMMENDATION

    old_data: dict[str, JsonValue]
    """The recommendation before the change; empty for a new one."""
    new_data: dict[str, JsonValue]
    """The recommendation as it is now."""
    reason: Annotated[str, Field(strict=True)]
    """Why it changed, for people."""


class EffectivenessUpdate(EventBody):
    """A recommendation's effectiveness was computed anew."""

    event_type: ClassVar[EventType] = EventType.EFFECTIVENESS

    recommendation_id: RecordId
    """The recommendation whose score this is."""
    effectiveness: Ratio
    """Share from 0 to 1."""
    confidence: Ratio
    """Share from 0 to 1."""
    sample_size: RecordId
    """Number of observations behind the score."""


class FeedbackUpdate(EventBody):
    """Feedback on a recommendation was summarised."""

    event_type: ClassVar[EventType] = EventType.FEEDBACK

    feedback_id: RecordId
    """The feedback that was summarised."""
    rating: Annotated[int, Field(ge=1, le=5, strict=True)]
    """Stars from 1 to 5."""
    effectiveness: Ratio
    """Share from 0 to 1."""


BODIES: Final[dict[EventType, type[EventBody]]] = {
    body.event_type: body for body in (RecommendationUpdate, EffectivenessUpdate, FeedbackUpdate)
}


class BodyInvalid(ValueError):
    """A body that is no event. `str()` says what is wrong and where, never a value that was in it."""


def parse_body(event_type: EventType, body: bytes) -> EventBody:
    """Read an AMQP or HTTP body as an event of the kind given.

    Raises BodyInvalid: too large, no JSON, NaN or Infinity, a field missing, of a wrong type or out of range.
    """
    return read_body(event_type, body)[0]


def read_body(event_type: EventType, body: bytes) -> tuple[EventBody, bytes]:
    """The same, and the event's `data`."""
    if len(body) > MAX_BODY_BYTES:
        raise BodyInvalid(f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        value = from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError:
        raise BodyInvalid("the body is not JSON (RFC 8259)") from None
    try:
        # Read once more, as JSON: of Python's values pydantic asks each below `old_data` and `new_data` for its type.
        parsed = BODIES[event_type].model_validate_json(body)
        data = parsed.data()
        if b"Infinity" in data:  # in a text, or a number that is too large for a float: JSON has no bounds
            BODIES[event_type].model_validate(value)
    except ValidationError as error:
        raise BodyInvalid(explain(error)) from None
    return parsed, data


def explain(error: ValidationError, *, depth: int = 1) -> str:
    """Say what is wrong with each field, by name and rule, without repeating what was sent.

    `depth`: how many parts of a field's place are names of ours. Below `old_data` and `new_data` the keys are
    the publisher's, and may say as much about a patient as a value does.
    """
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'][:depth]) or 'body'}: {_rule(problem)}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)[:5]
    )


def _rule(problem: ErrorDetails) -> str:
    """The rule that was broken. Of pydantic's texts for the types used here, one quotes its input."""
    return "no such type" if problem["type"] == "union_tag_invalid" else problem["msg"]
