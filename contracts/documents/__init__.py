"""The contract as documents, built from the models and constants of this package, so that none can lie.

AsyncAPI for WebSocket and RabbitMQ, OpenAPI for HTTP, a JSON Schema and an example of all that travels,
a reference and tables in Markdown. `python -m contracts` writes the files, `python -m contracts --check` says which are
stale.
"""

import json
from pathlib import Path
from typing import Final

from contracts.documents.asyncapi import asyncapi
from contracts.documents.examples import EXAMPLES
from contracts.documents.openapi import openapi
from contracts.documents.reference import reference
from contracts.documents.shapes import SHAPES, Json
from contracts.documents.tables import close_code_table, message_table

__all__ = ["FOLDER", "asyncapi", "close_code_table", "files", "message_table", "openapi", "stale", "write"]

FOLDER: Final = Path(__file__).parent.parent
"""Where the files stand: beside the code."""


def files() -> dict[str, str]:
    """Every generated file: its path below FOLDER, and its text."""
    documents: dict[str, Json] = {"asyncapi.json": asyncapi(), "openapi.json": openapi()}
    documents |= {f"schemas/{name}.json": shape.document() for name, shape in SHAPES.items()}
    documents |= {f"examples/{name}.json": value for name, value in EXAMPLES.items()}
    texts = {
        path: json.dumps(value, indent=2, ensure_ascii=False) + "\n" for path, value in documents.items()
    }
    return {**texts, "reference.md": reference(asyncapi(), openapi())}


def stale(folder: Path = FOLDER) -> list[str]:
    """The files that are missing, not what they should be, or not generated any more."""
    wanted = files()
    found = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for pattern in ("*.json", "*.md", "schemas/*.json", "examples/*.json")
        for path in folder.glob(pattern)
    }
    return sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))


def write(folder: Path = FOLDER) -> list[str]:
    """Write what is stale, remove what is not generated any more, and say which files that were."""
    wanted = files()
    changed = stale(folder)
    for name in changed:
        path = folder / name
        if name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name], encoding="utf-8", newline="\n")
        else:
            path.unlink()
    return changed
