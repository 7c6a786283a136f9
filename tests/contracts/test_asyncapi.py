"""asyncapi.json: valid AsyncAPI 3.0.0, and saying what the contract says."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from contracts import topology
from contracts.close_codes import CloseCode
from contracts.documents import FOLDER

DOCUMENT: dict[str, Any] = json.loads((FOLDER / "asyncapi.json").read_text(encoding="utf-8"))
OFFICIAL = Draft7Validator(
    json.loads(Path(__file__).with_name("asyncapi-3.0.0.schema.json").read_text(encoding="utf-8"))
)
CHANNELS = DOCUMENT["channels"]
EVENTS = ["event.recommendation_update", "event.effectiveness_update", "event.feedback_update"]


def resolve(reference: str) -> Any:
    node: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [found for value in node.values() for found in references(value)]
    return [found for item in node for found in references(item)] if isinstance(node, list) else []


def exchange(channel: str) -> dict[str, Any]:
    found: dict[str, Any] = CHANNELS[channel]["bindings"]["amqp"]["exchange"]
    return found


def queue(channel: str) -> dict[str, Any]:
    found: dict[str, Any] = CHANNELS[channel]["bindings"]["amqp"]["queue"]
    return found


def test_the_document_is_valid_by_the_official_schema() -> None:
    OFFICIAL.validate(DOCUMENT)


def test_the_official_schema_refuses_what_is_no_asyncapi_3() -> None:
    broken = json.loads(json.dumps(DOCUMENT))
    broken["operations"]["receive_frames"]["action"] = "consume"
    assert not OFFICIAL.is_valid(broken)


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        assert resolve(reference)


def test_an_operation_has_messages_of_its_own_channel_only() -> None:
    for operation in DOCUMENT["operations"].values():
        channel = operation["channel"]["$ref"]
        assert operation["messages"]
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"])


def test_a_task_finds_exchange_key_and_body_of_each_kind_of_event() -> None:
    for kind in ("recommendation", "effectiveness", "feedback"):
        assert CHANNELS[kind]["address"] == "diagnosis.{diagnosis_id}"
        assert list(CHANNELS[kind]["messages"]) == [f"event.{kind}_update"]
        assert exchange(kind) == {
            "name": f"diagnosis.{kind}",
            "type": "topic",
            "durable": True,
            "autoDelete": False,
            "x-internal": False,
            "x-arguments": {"alternate-exchange": "diagnosis.unrouted"},
        }


@pytest.mark.parametrize("name", ["events", "devices"])
def test_an_inner_exchange_is_internal_and_fed_by_the_three_outer_ones(name: str) -> None:
    assert exchange(name)["name"] == f"diagnosis.{name}"
    assert exchange(name)["x-internal"] is True
    assert exchange(name)["x-bindings"] == [
        {"source": f"diagnosis.{kind}", "routingKey": "diagnosis.*"}
        for kind in ("recommendation", "effectiveness", "feedback")
    ]


def test_only_the_exchange_of_device_queues_has_no_alternate() -> None:
    assert exchange("events")["x-arguments"] == {"alternate-exchange": "diagnosis.unrouted"}
    assert "x-arguments" not in exchange("devices")


def test_the_other_exchanges_are_those_of_the_contract() -> None:
    assert (exchange("unrouted")["name"], exchange("unrouted")["type"]) == ("diagnosis.unrouted", "fanout")
    assert (exchange("nodes")["name"], exchange("nodes")["type"]) == ("realtime.nodes", "topic")


def test_the_queues_are_those_of_the_contract_with_their_arguments() -> None:
    queues = {name: queue(name) for name in CHANNELS if "queue" in name}
    assert {name: (found["name"], found["x-arguments"]) for name, found in queues.items()} == {
        "shared_queue": ("diagnosis.{diagnosis_id}", topology.backlog_arguments()),
        "device_queue": ("diagnosis.{diagnosis_id}.device.{device_key}", topology.device_arguments()),
        "unrouted_queue": ("diagnosis.unrouted", topology.UNROUTED_ARGUMENTS),
        "parked_queue": ("diagnosis.parked", topology.PARKED_ARGUMENTS),
        "node_queue": ("realtime.node.{replica}", topology.NODE_ARGUMENTS),
    }


def test_every_queue_is_durable_and_not_exclusive() -> None:
    for name in CHANNELS:
        if "queue" in name:
            assert (queue(name)["durable"], queue(name)["exclusive"]) == (True, False)


def test_every_header_of_an_event_is_described() -> None:
    assert set(DOCUMENT["components"]["schemas"]["amqp.headers"]["properties"]) == {
        "timestamp_in_ms",
        "traceparent",
        "user_id",
        "exclude_connection_id",
        "x-origin-exchange",
    }


def test_every_property_of_an_event_is_described() -> None:
    properties = DOCUMENT["components"]["schemas"]["amqp.properties"]["properties"]
    assert set(properties) == {"message_id", "timestamp", "content_type", "delivery_mode", "type", "app_id"}
    assert properties["content_type"]["const"] == "application/json"
    assert properties["delivery_mode"]["const"] == 2


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["messages"]))
def test_the_examples_of_a_message_are_valid_by_the_schemas_beside_them(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    for example in message.get("examples", []):
        for part in ("payload", "headers"):
            if part in example:
                Draft202012Validator(resolve(message[part]["$ref"])).validate(example[part])


@pytest.mark.parametrize("name", EVENTS)
def test_the_example_properties_of_an_event_are_valid(name: str) -> None:
    properties = DOCUMENT["components"]["messages"][name]["x-amqp-properties"]
    assert properties["examples"]
    for example in properties["examples"]:
        Draft202012Validator(properties).validate(example)
        assert example["type"] == name.removeprefix("event.")


def test_the_connection_says_how_to_bring_a_token_and_to_name_a_device() -> None:
    binding = CHANNELS["connection"]["bindings"]["ws"]
    assert CHANNELS["connection"]["address"] == "/ws/{diagnosis_id}"
    assert set(binding["query"]["properties"]) == {"token", "client_id", "receipts"}
    assert binding["query"]["properties"]["receipts"]["enum"] == ["pong", "ack"]
    assert set(binding["headers"]["properties"]) == {"Authorization", "Sec-WebSocket-Protocol"}


def test_the_connection_has_every_frame_of_both_sides() -> None:
    def types(operation: str) -> list[str]:
        messages = DOCUMENT["operations"][operation]["messages"]
        return [resolve(resolve(message["$ref"])["$ref"])["name"] for message in messages]

    assert types("send_messages") == [
        "connect",
        "recommendation_update",
        "effectiveness_update",
        "feedback_update",
        "gap",
        "pong",
        "error",
    ]
    assert types("receive_frames") == ["ping", "ack", "auth"]


def test_the_connection_lists_every_close_code_in_data_and_in_words() -> None:
    codes = CHANNELS["connection"]["x-close-codes"]
    assert [entry["code"] for entry in codes] == [code.value for code in CloseCode]
    assert all(set(entry) == {"code", "name", "reason", "meaning", "advice"} for entry in codes)
    for entry in codes:
        assert f"| {entry['code']} | {entry['reason'] or '(none)'} |" in CHANNELS["connection"]["description"]
