"""contracts.events: what is an event. Model and published schema say it both, and say the same."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator, Draft202012Validator
from jsonschema.validators import extend

from contracts.documents.shapes import SHAPES
from contracts.events import BODIES, MAX_BODY_BYTES, BodyInvalid, EventType, parse_body
from contracts.ids import MAX_ID

MARK = "zq-private-zq"

Validator = extend(Draft202012Validator, type_checker=Draft4Validator.TYPE_CHECKER)  # type: ignore[no-untyped-call]  # so in its stubs
"""Integers are told by how they are written, as the schemas' comment says: 5.0 is none (as in draft 4)."""

VALIDATORS = {kind: Validator(SHAPES[f"event.{kind}"].document()) for kind in EventType}

texts = st.text(max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
edges = st.sampled_from(
    [0, 1, -1, 5, 6, MAX_ID, MAX_ID + 1, 0.0, -0.0, 1.0, 5.0, 1.0000000000000002, -5e-324, True, ""]
)
ratios = st.floats(0, 1) | st.sampled_from([0, 1])
records = st.integers(0, MAX_ID)
objects = st.dictionaries(texts, json_values, max_size=3)
diagnoses = st.integers(1, MAX_ID)

VALID: dict[EventType, dict[str, st.SearchStrategy[Any]]] = {
    EventType.RECOMMENDATION: {
        "diagnosis_id": diagnoses,
        "old_data": objects,
        "new_data": objects,
        "reason": texts,
    },
    EventType.EFFECTIVENESS: {
        "diagnosis_id": diagnoses,
        "recommendation_id": records,
        "effectiveness": ratios,
        "confidence": ratios,
        "sample_size": records,
    },
    EventType.FEEDBACK: {
        "diagnosis_id": diagnoses,
        "feedback_id": records,
        "rating": st.integers(1, 5),
        "effectiveness": ratios,
    },
}
kinds = st.sampled_from(EventType)


@st.composite
def almost_valid(draw: st.DrawFn, kind: EventType) -> dict[str, Any]:
    """A valid body, and then up to two fields changed, dropped or added."""
    body: dict[str, Any] = draw(st.fixed_dictionaries(VALID[kind]))
    for field in draw(st.lists(st.sampled_from([*VALID[kind], "added"]), max_size=2)):
        if draw(st.booleans()):
            body.pop(field, None)
        else:
            body[field] = draw(edges | json_values)
    return body


def refusal(kind: EventType, body: bytes) -> BodyInvalid | None:
    """Why a body is no event; None for one that is."""
    try:
        parse_body(kind, body)
    except BodyInvalid as reason:
        return reason
    return None


def accepts(kind: EventType, body: bytes) -> bool:
    return refusal(kind, body) is None


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_body_is_an_event_if_and_only_if_the_published_schema_says_so(data: st.DataObject) -> None:
    kind = data.draw(kinds)
    body = data.draw(almost_valid(kind) | json_values)
    assert accepts(kind, json.dumps(body).encode()) == VALIDATORS[kind].is_valid(body)


@given(st.data())
def test_a_valid_body_is_an_event_and_says_the_same_when_it_is_published_again(data: st.DataObject) -> None:
    kind = data.draw(kinds)
    body = data.draw(st.fixed_dictionaries(VALID[kind]))
    event = parse_body(kind, json.dumps(body).encode())
    assert parse_body(kind, event.to_bytes()) == event
    assert json.loads(event.to_bytes()) == body
    assert json.loads(event.data()) == {key: value for key, value in body.items() if key != "diagnosis_id"}


@given(
    kinds, st.binary() | st.text().map(str.encode) | st.binary().map(lambda tail: b'{"diagnosis_id":' + tail)
)
def test_whatever_the_bytes_a_body_is_an_event_or_refused(kind: EventType, body: bytes) -> None:
    accepts(kind, body)


TOO_LARGE = 1e308
"""Stands for 1e400, which JSON can say and a float cannot."""


@st.composite
def with_a_mark(draw: st.DrawFn, kind: EventType) -> bytes:
    """A body in which a mark stands: as a field's value, inside it, as a key, or in what is no JSON."""
    body = draw(st.fixed_dictionaries(VALID[kind]) | almost_valid(kind))
    hidden = st.sampled_from([MARK, [MARK], {MARK: TOO_LARGE}, {MARK: {MARK: [TOO_LARGE]}}, {MARK: None}])
    body[draw(st.sampled_from([*VALID[kind], MARK]))] = draw(hidden)
    text = json.dumps(body).replace("1e+308", "1e400")
    return draw(st.sampled_from([text, text, text, text[:-1], text + MARK, f'["{MARK}"]'])).encode()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_refusal_never_repeats_what_was_sent(data: st.DataObject) -> None:
    kind = data.draw(kinds)
    reason = refusal(kind, data.draw(with_a_mark(kind)))
    if reason is not None:
        assert MARK not in str(reason)
        assert reason.__cause__ is None
        assert reason.__suppress_context__
        assert len(str(reason)) < 1000


def test_a_refusal_names_the_field_but_not_a_key_below_it() -> None:
    body = b'{"diagnosis_id":1,"old_data":{"zq-private-zq":1e400},"new_data":{},"reason":""}'
    with pytest.raises(BodyInvalid, match=r"^old_data: Input should be a finite number$"):
        parse_body(EventType.RECOMMENDATION, body)


def test_a_refusal_names_up_to_five_fields() -> None:
    assert str(refusal(EventType.EFFECTIVENESS, b"{}")).count("Field required") == 5


FEEDBACK = {"diagnosis_id": 123, "feedback_id": 456, "rating": 4, "effectiveness": 0.75}


@pytest.mark.parametrize(
    "change",
    [
        {"rating": 1},
        {"rating": 5},
        {"effectiveness": 0},
        {"effectiveness": 1},
        {"diagnosis_id": 1},
        {"diagnosis_id": MAX_ID},
        {"feedback_id": 0},
        {"unknown": {"a": 1}},
    ],
)
def test_a_value_on_the_edge_is_in_range_and_an_unknown_field_is_dropped(change: dict[str, object]) -> None:
    event = parse_body(EventType.FEEDBACK, json.dumps(FEEDBACK | change).encode())
    assert set(event.model_dump()) == set(FEEDBACK)


@pytest.mark.parametrize(
    "change",
    [
        {"rating": 0},
        {"rating": 6},
        {"rating": 4.5},
        {"rating": 5.0},
        {"rating": "5"},
        {"rating": True},
        {"rating": None},
        {"effectiveness": -0.001},
        {"effectiveness": 1.001},
        {"effectiveness": "0.5"},
        {"effectiveness": True},
        {"diagnosis_id": 0},
        {"diagnosis_id": -1},
        {"diagnosis_id": "123"},
        {"diagnosis_id": 2**63},
        {"feedback_id": -1},
    ],
)
def test_a_value_out_of_range_or_of_another_type_is_refused(change: dict[str, object]) -> None:
    body = FEEDBACK | change
    assert not accepts(EventType.FEEDBACK, json.dumps(body).encode())
    assert not VALIDATORS[EventType.FEEDBACK].is_valid(body)


@pytest.mark.parametrize("field", FEEDBACK)
def test_every_field_is_needed(field: str) -> None:
    body = {name: value for name, value in FEEDBACK.items() if name != field}
    assert not accepts(EventType.FEEDBACK, json.dumps(body).encode())


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "0x1", "01", ".5", "1."]
)
def test_what_json_does_not_call_a_number_is_refused_wherever_it_stands(number: str) -> None:
    feedback = f'{{"diagnosis_id":1,"feedback_id":1,"rating":1,"effectiveness":{number}}}'
    nested = f'{{"diagnosis_id":1,"old_data":{{}},"new_data":{{"a":[{number}]}},"reason":""}}'
    assert not accepts(EventType.FEEDBACK, feedback.encode())
    assert not accepts(EventType.RECOMMENDATION, nested.encode())


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"\xef\xbb\xbf{}", b"null", b"[]", b"[" * 60_000, b'"\\ud800"', b"{}{}"]
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert not any(accepts(kind, body) for kind in EventType)


def test_a_body_may_have_64_kib_and_not_a_byte_more() -> None:
    empty = b'{"diagnosis_id":1,"old_data":{},"new_data":{},"reason":""}'
    full = empty.replace(b'"reason":""', b'"reason":"' + b"x" * (65_536 - len(empty)) + b'"')
    assert len(full) == MAX_BODY_BYTES == 65_536
    assert accepts(EventType.RECOMMENDATION, full)
    assert not accepts(EventType.RECOMMENDATION, full.replace(b"xx", b"xxx", 1))


def test_the_types_a_client_switches_on_are_those_of_the_replaced_module() -> None:
    assert {kind.value for kind in BODIES} == {
        "recommendation_update",
        "effectiveness_update",
        "feedback_update",
    }
    assert all(body.event_type is kind for kind, body in BODIES.items())
