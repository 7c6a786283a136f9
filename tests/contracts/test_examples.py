"""The golden examples: what the published schema, the model and the bytes on the wire agree upon."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from contracts.documents import FOLDER
from contracts.documents.examples import AMQP_PROPERTIES, EXAMPLES, shape_of
from contracts.documents.shapes import SHAPES
from contracts.events import BODIES, EventBody, EventType, parse_body
from contracts.messages import CLIENT_FRAME, SERVER_MESSAGES, WebSocketMessage, rfc3339


def golden(name: str) -> Any:
    return json.loads((FOLDER / "examples" / f"{name}.json").read_text(encoding="utf-8"))


def schema(name: str) -> Any:
    return json.loads((FOLDER / "schemas" / f"{name}.json").read_text(encoding="utf-8"))


def exact(value: object) -> str:
    """JSON text in which 5 is not 5.0 and true is not 1; the order of fields means nothing."""
    return json.dumps(value, sort_keys=True)


def serialised(name: str) -> bytes:
    """What the model puts on the wire after reading the example."""
    shape = shape_of(name)
    if shape.name.startswith("client."):
        return CLIENT_FRAME.validate_python(golden(name)).model_dump_json().encode()
    model = shape.model.model_validate(golden(name))
    if isinstance(model, EventBody | WebSocketMessage):
        return model.to_bytes()
    return model.model_dump_json().encode()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_valid_by_its_schema(name: str) -> None:
    Draft202012Validator(schema(shape_of(name).name)).validate(golden(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_its_model_puts_on_the_wire(name: str) -> None:
    assert exact(json.loads(serialised(name))) == exact(golden(name))


@pytest.mark.parametrize("name", SHAPES)
def test_each_thing_that_travels_has_a_schema_and_an_example(name: str) -> None:
    assert golden(name)
    assert schema(name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_without_one_of_its_fields_is_refused_by_its_schema(name: str) -> None:
    validator = Draft202012Validator(schema(shape_of(name).name))
    optional = {"redelivered", "truncated", "silent_replicas", "errors"}
    for field in golden(name).keys() - optional:
        assert not validator.is_valid({key: value for key, value in golden(name).items() if key != field})
    for field in golden(name).keys() & optional:
        assert validator.is_valid({key: value for key, value in golden(name).items() if key != field})


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_valid_by_no_other_schema_of_its_kind(name: str) -> None:
    side = name.partition(".")[0]
    others = [other for other in SHAPES if other.startswith(f"{side}.")]
    matching = [other for other in others if Draft202012Validator(schema(other)).is_valid(golden(name))]
    assert matching == [shape_of(name).name]


@pytest.mark.parametrize("kind", EventType)
def test_the_data_of_a_message_is_the_published_body_without_its_diagnosis(kind: EventType) -> None:
    published = golden(f"event.{kind}")
    body = parse_body(kind, json.dumps(published).encode())
    message = golden(f"server.{kind}")
    assert message["data"] == json.loads(body.data())
    assert message["data"] | {"diagnosis_id": 123} == published


def test_the_effectiveness_event_is_that_of_the_contract() -> None:
    assert exact(golden("event.effectiveness_update")) == exact(
        {
            "diagnosis_id": 123,
            "recommendation_id": 789,
            "effectiveness": 0.85,
            "confidence": 0.92,
            "sample_size": 100,
        }
    )


def test_a_repeated_event_differs_from_the_first_by_one_field() -> None:
    first = golden("server.effectiveness_update")
    assert golden("server.effectiveness_update.redelivered") == first | {"redelivered": True}


def test_a_gap_has_a_number_or_null() -> None:
    assert golden("server.gap")["data"] == {"evicted": 1}
    assert golden("server.gap.unknown")["data"] == {"evicted": None}


def test_the_published_time_of_the_examples_is_the_time_of_their_messages() -> None:
    assert rfc3339(AMQP_PROPERTIES["timestamp"]) == golden("server.gap")["timestamp"]


def test_every_model_of_the_wire_has_a_shape() -> None:
    models = {shape.model for shape in SHAPES.values()}
    assert models >= set(BODIES.values()) | set(SERVER_MESSAGES)


def test_a_message_is_told_apart_by_its_type_alone() -> None:
    frames = [name for name in SHAPES if name.startswith(("server.", "client."))]
    types = [schema(name)["properties"]["type"]["const"] for name in frames]
    assert types == [name.partition(".")[2] for name in frames]
    assert len(types) == len(set(types))
