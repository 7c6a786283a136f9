"""openapi.json: valid OpenAPI 3.1, and saying what the contract says."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from contracts.documents import FOLDER
from contracts.events import EventType
from contracts.http import BROADCAST_ROUTES

DOCUMENT: dict[str, Any] = json.loads((FOLDER / "openapi.json").read_text(encoding="utf-8"))
PATHS = DOCUMENT["paths"]
COMPONENTS = DOCUMENT["components"]
OPERATIONS = [(path, method) for path, item in PATHS.items() for method in item]
BROADCASTS = [
    "/ws/broadcast-recommendation-update",
    "/ws/broadcast-effectiveness-update",
    "/ws/broadcast-feedback-update",
]


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    validate(DOCUMENT)


def test_the_routes_are_those_of_the_contract() -> None:
    assert {(method, path) for path, method in OPERATIONS} == {
        *(("post", route) for route in BROADCASTS),
        ("get", "/ws/status"),
        ("get", "/ws/{diagnosis_id}"),
        ("get", "/livez"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("get", "/openapi.json"),
        ("get", "/asyncapi.json"),
    }


def test_the_broadcast_routes_are_those_of_the_replaced_module() -> None:
    assert list(BROADCAST_ROUTES.values()) == BROADCASTS


@pytest.mark.parametrize("kind", EventType)
def test_a_broadcast_takes_the_event_and_a_key_and_answers_every_outcome(kind: EventType) -> None:
    operation = PATHS[BROADCAST_ROUTES[kind]]["post"]
    media = operation["requestBody"]["content"]["application/json"]
    assert media["schema"] == {"$ref": f"#/components/schemas/event.{kind}"}
    assert [(parameter["in"], parameter["name"]) for parameter in operation["parameters"]] == [
        ("header", "Idempotency-Key")
    ]
    assert set(operation["responses"]) == {"200", "401", "403", "413", "422", "429", "503"}
    assert all("bearer" in requirement for requirement in operation["security"])


def test_the_status_is_for_operators() -> None:
    operation = PATHS["/ws/status"]["get"]
    assert operation["security"] == [{"bearer": ["operator"]}]
    assert set(operation["responses"]) == {"200", "401", "403"}


def test_the_connection_is_described_as_an_upgrade() -> None:
    operation = PATHS["/ws/{diagnosis_id}"]["get"]
    assert set(operation["responses"]) == {"101", "400", "503"}
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "diagnosis_id",
        "token",
        "client_id",
        "receipts",
        "Sec-WebSocket-Protocol",
    }


@pytest.mark.parametrize(
    "path", ["/livez", "/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json"]
)
def test_health_metrics_and_documents_need_no_token(path: str) -> None:
    assert PATHS[path]["get"]["security"] == []


@pytest.mark.parametrize("name", COMPONENTS["responses"])
def test_every_refusal_is_a_problem_document(name: str) -> None:
    content = COMPONENTS["responses"][name]["content"]
    assert list(content) == ["application/problem+json"]
    assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/http.problem"}


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_route_promises_a_500(path: str, method: str) -> None:
    assert "500" not in PATHS[path][method]["responses"]


@pytest.mark.parametrize("status", [400, 404, 405])
def test_what_any_route_may_answer_is_said_once(status: int) -> None:
    assert f"* {status}: " in DOCUMENT["info"]["description"]


def media_types(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        here = [node] if "schema" in node and "examples" in node else []
        return here + [found for value in node.values() for found in media_types(value)]
    return [found for item in node for found in media_types(item)] if isinstance(node, list) else []


def test_every_example_is_valid_by_the_schema_beside_it() -> None:
    found = media_types(PATHS) + media_types(COMPONENTS["responses"])
    assert len(found) >= 9
    for media in found:
        schema = COMPONENTS["schemas"][media["schema"]["$ref"].rpartition("/")[2]]
        for example in media["examples"].values():
            Draft202012Validator(schema).validate(example["value"])
