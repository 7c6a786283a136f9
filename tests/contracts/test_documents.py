"""The generated files beside the contracts, the command that writes them, and the law of the package."""

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from contracts.__main__ import main
from contracts.close_codes import CloseCode
from contracts.documents import FOLDER, close_code_table, files, message_table, stale, write
from contracts.documents.shapes import SHAPES

SCHEMAS = sorted(name for name in files() if name.startswith("schemas/"))
MODULES = sorted(FOLDER.rglob("*.py"))


def test_the_generated_files_are_fresh() -> None:
    assert stale() == [], "run `python -m contracts`"


def test_the_check_says_nothing_while_the_files_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_writing_into_an_empty_folder_makes_every_file(tmp_path: Path) -> None:
    assert write(tmp_path) == sorted(files())
    assert stale(tmp_path) == []
    assert write(tmp_path) == []


def test_a_file_that_is_changed_missing_or_left_over_is_stale_until_written(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "openapi.json").write_text("{}")
    (tmp_path / "schemas" / "client.ping.json").unlink()
    (tmp_path / "examples" / "server.hello.json").write_text("{}")
    changed = ["examples/server.hello.json", "openapi.json", "schemas/client.ping.json"]
    assert stale(tmp_path) == changed
    assert write(tmp_path) == changed
    assert stale(tmp_path) == []
    assert not (tmp_path / "examples" / "server.hello.json").exists()


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_json_schema_2020_12_and_stands_alone(name: str) -> None:
    text = files()[name]
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].startswith("urn:realtime-service:v1:")
    assert "$ref" not in text


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_says_what_it_is_and_what_each_field_means(name: str) -> None:
    schema = json.loads(files()[name])
    assert schema["title"]
    assert schema["description"].endswith(".")
    data = schema["properties"].get("data", {}).get("properties", {})
    undescribed = {
        field
        for field, rule in (schema["properties"] | data).items()
        if not ({"description", "const", "enum"} & set(rule))
    }
    assert undescribed == set()


def test_the_close_code_table_has_a_row_for_each_code() -> None:
    rows = close_code_table().splitlines()
    assert rows[1] == "| --- | --- | --- | --- |"
    assert [row.split(" ")[1] for row in rows[2:]] == [str(code.value) for code in CloseCode]


def test_the_message_table_has_a_row_for_each_frame() -> None:
    rows = message_table().splitlines()
    frames = [name.partition(".")[2] for name in SHAPES if name.startswith(("server.", "client."))]
    assert [row.split(" ")[1].strip("`") for row in rows[2:]] == frames
    assert "| `gap` | server → client | `data.evicted` |" in message_table()
    assert "`redelivered`?" in message_table()


@pytest.mark.parametrize("table", [close_code_table, message_table])
def test_every_row_of_a_table_has_as_many_cells_as_its_head(table: Callable[[], str]) -> None:
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table().splitlines()}) == 1


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.relative_to(FOLDER).as_posix())
def test_the_contracts_import_pydantic_and_the_standard_library_only(module: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").partition(".")[0])
    assert imported <= sys.stdlib_module_names | {"pydantic", "pydantic_core", "contracts"}
