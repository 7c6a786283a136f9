"""Each body, frame and answer of the contract under one name, with its JSON Schema (2020-12).

The name is the schema's file name and its key in both API documents: what travels where (`event`, `server`,
`client`, `http`), a dot, and the `type` or the word for it. The schemas come from the models and refer to
nothing outside themselves, so that any of them can be copied into another program.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from contracts.events import BODIES, EventType
from contracts.http import Accepted, Health, Problem, StatusReport
from contracts.messages import Ack, Auth, ErrorMessage, EventMessage, Gap, Ping, Pong, Welcome

Json = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ID_PREFIX: Final = "urn:realtime-service:v1:"
INTEGERS: Final = "Integers are written without fraction or exponent: 5, not 5.0 and not 5e0."


class _WireSchema(GenerateJsonSchema):
    """What is on the wire: a field that may be left out is never null, one that may not has no default."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def model_field_schema(self, schema: core_schema.ModelField) -> JsonSchemaValue:
        found = super().model_field_schema(schema)
        if "serialization_exclude_if" not in schema:
            found.pop("default", None)
        elif found["default"] is None:
            (found,) = (option for option in found["anyOf"] if option != {"type": "null"})
        return found


@dataclass(frozen=True, slots=True)
class Shape:
    """One thing that travels."""

    name: str
    model: type[BaseModel]
    event: EventType | None = None
    """For an event's body and its message: the kind."""

    def schema(self) -> Json:
        """JSON Schema of what is on the wire."""
        schema = _schema(self.model)
        if self.event is not None and self.model is EventMessage:
            body = _schema(BODIES[self.event])
            del body["properties"]["diagnosis_id"]
            body["required"].remove("diagnosis_id")
            schema["title"] = f"{body['title']}Message"
            schema["description"] = f"{body['description']} {schema['description']}"
            body["title"] += "Data"
            schema["properties"] |= {"type": {"const": self.event.value, "type": "string"}, "data": body}
        return schema

    def document(self) -> Json:
        """The schema as a file of its own."""
        comment = {"$comment": INTEGERS} if self.name.startswith("event.") else {}
        return {"$schema": DIALECT, "$id": ID_PREFIX + self.name} | comment | self.schema()


def _schema(model: type[BaseModel]) -> Json:
    schema = model.model_json_schema(mode="serialization", schema_generator=_WireSchema)
    definitions = schema.pop("$defs", {})
    return {key: _inline(value, definitions) for key, value in schema.items()}


def _inline(node: Any, definitions: Json) -> Any:
    """Replace each reference by what it refers to; what stands beside a reference wins."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    referred = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
    merged = referred | {key: value for key, value in node.items() if key != "$ref"}
    return {key: _inline(value, definitions) for key, value in merged.items()}


def _shapes() -> Iterator[Shape]:
    for kind, body in BODIES.items():
        yield Shape(f"event.{kind}", body, kind)
    yield Shape("server.connect", Welcome)
    for kind in BODIES:
        yield Shape(f"server.{kind}", EventMessage, kind)
    yield Shape("server.gap", Gap)
    yield Shape("server.pong", Pong)
    yield Shape("server.error", ErrorMessage)
    yield Shape("client.ping", Ping)
    yield Shape("client.ack", Ack)
    yield Shape("client.auth", Auth)
    yield Shape("http.accepted", Accepted)
    yield Shape("http.status", StatusReport)
    yield Shape("http.health", Health)
    yield Shape("http.problem", Problem)


SHAPES: Final[dict[str, Shape]] = {shape.name: shape for shape in _shapes()}


def schemas() -> dict[str, Json]:
    """The schemas by name, for the components of an API document."""
    return {name: shape.schema() for name, shape in SHAPES.items()}
