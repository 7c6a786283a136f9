"""The two documents for people: `reference.md`, made from AsyncAPI and OpenAPI, so that it says what they say."""

import json
from collections.abc import Iterator
from typing import Any, Final

_TOP: Final = """\
# Reference

Made by `python -m contracts` from [asyncapi.json](asyncapi.json) and [openapi.json](openapi.json); do not edit it. What
the messages mean together is in the [README](../README.md#protocol).
"""


def reference(asyncapi: dict[str, Any], openapi: dict[str, Any]) -> str:
    """Markdown: HTTP, what travels through RabbitMQ, what travels over the WebSocket."""
    return "\n".join([_TOP, *_http(openapi), *_channels(asyncapi), *_messages(asyncapi)]).rstrip() + "\n"


def _http(document: dict[str, Any]) -> Iterator[str]:
    yield "## HTTP\n"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"### `{method.upper()} {path}`\n"
            yield f"{operation['summary']} {operation.get('description', '')}".strip() + "\n"
            yield from _parameters(operation.get("parameters", []))
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is not None:
                yield "Body:\n"
                yield from _fields(_schema(document, body["schema"]))
                yield from _examples(each["value"] for each in body.get("examples", {}).values())
            yield "| status | |"
            yield "| --- | --- |"
            for status, answer in operation["responses"].items():
                yield f"| {status} | {_cell(_schema(document, answer)['description'])} |"
            yield ""


def _parameters(parameters: list[dict[str, Any]]) -> Iterator[str]:
    if parameters:
        yield "| parameter | in | |"
        yield "| --- | --- | --- |"
        for each in parameters:
            yield f"| `{each['name']}` | {each['in']} | {_cell(each.get('description', ''))} |"
        yield ""


def _channels(document: dict[str, Any]) -> Iterator[str]:
    yield "## RabbitMQ\n"
    for channel in document["channels"].values():
        binding = channel.get("bindings", {}).get("amqp")
        if binding is None:
            continue
        yield f"### {channel['title']}\n"
        yield channel["description"] + "\n"
        if "exchange" in binding:
            yield f"Routing key: `{channel['address']}`.\n"
        if named := [f"`{message}`" for message in channel["messages"]]:
            yield f"Carries {', '.join(named)}.\n"


def _messages(document: dict[str, Any]) -> Iterator[str]:
    yield "## Messages\n"
    for name, message in document["components"]["messages"].items():
        yield f"### `{name}`\n"
        yield message["summary"] + "\n"
        yield from _fields(_schema(document, message["payload"]))
        yield from _examples(each["payload"] for each in message.get("examples", []))


def _fields(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    rows = list(_rows(schema, schema, prefix))
    if rows:
        yield "| field | type | |"
        yield "| --- | --- | --- |"
        yield from rows
        yield ""


def _rows(root: dict[str, Any], schema: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, found in schema.get("properties", {}).items():
        field = _local(root, found)
        needed = "" if name in schema.get("required", []) else "?"
        about = found.get("description", field.get("description", ""))
        yield f"| `{prefix}{name}`{needed} | {_type(root, field)} | {_cell(about)} |"
        yield from _rows(root, field, f"{prefix}{name}.")


def _type(root: dict[str, Any], field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(root, _local(root, each)) for each in field["anyOf"])
    low, high = field.get("minimum"), field.get("maximum")
    bounds = f", {low if low is not None else '…'} to {high if high is not None else '…'}"
    return str(field.get("type", "any")) + (bounds if low is not None or high is not None else "")


def _local(root: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """What a reference inside a schema stands for."""
    if (reference := field.get("$ref")) is None:
        return field
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part, {})
    return {**found, **{key: value for key, value in field.items() if key != "$ref"}}


def _schema(document: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return _local(document, found)


def _examples(values: Iterator[Any]) -> Iterator[str]:
    for value in values:
        yield f"```json\n{json.dumps(value, ensure_ascii=False)}\n```\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
