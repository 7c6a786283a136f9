"""Requests that schemathesis draws from `/openapi.json`, and bytes that are no requests: no 5xx, and what was promised.

schemathesis runs as a program of its own: in this process it would empty what Hypothesis prints of failing examples.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.fuzz.subject import EXAMPLES, TIMEOUT, Subject
from tests.service.harness.world import PATIENT, token

pytestmark = pytest.mark.timeout(TIMEOUT)

CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
)
CALLERS: Final[Mapping[str, dict[str, str]]] = {
    "nobody": {},
    "the owner": {"Authorization": f"Bearer {token(PATIENT)}"},
    "a publisher": {"Authorization": f"Bearer {token(7, scope='publisher')}"},
    "an operator": {"Authorization": f"Bearer {token(8, scope='operator')}"},
}
MAY_PUBLISH: Final = (CALLERS["the owner"], CALLERS["a publisher"])


@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
async def test_answers_keep_to_the_document(subject: Subject, caller: dict[str, str], tmp_path: Path) -> None:
    base = f"http://{subject.address}"
    async with aiohttp.ClientSession() as session, session.get(f"{base}/openapi.json") as answer:
        document = tmp_path / "openapi.json"
        document.write_text(json.dumps(narrowed(await answer.json(), subject.diagnosis)))
    before = len(subject.replica.logs)
    async with subject.unharmed():
        headers = [part for name, value in caller.items() for part in ("--header", f"{name}: {value}")]
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", base, *headers),
            *("--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES or 10)),
            *("--phases", "examples,coverage,fuzzing", "--warnings", "off", "--no-color"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await program.communicate()
        assert program.returncode == 0, said.decode()
    answered = {
        (line["method"], line["status"])
        for line in subject.replica.logs[before:]
        if line["event"] == "http_request"
    }
    assert (("POST", 200) in answered) is (caller in MAY_PUBLISH), "good requests were among them"


def narrowed(document: Any, diagnosis: int) -> Any:
    """The document with the one diagnosis that exists, and with the answers that its description allows everywhere."""
    for name, schema in document["components"]["schemas"].items():
        if name.startswith("event."):
            schema["properties"]["diagnosis_id"] = {"type": "integer", "enum": [diagnosis]}
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/http.problem"}}}
    anywhere = {
        "400": {"description": "No HTTP.", "content": problem | {"text/plain": {}}},
        "404": {"description": "No such route.", "content": problem},
        "405": {"description": "No such method.", "content": problem},
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"] = anywhere | operation["responses"]
    return document
