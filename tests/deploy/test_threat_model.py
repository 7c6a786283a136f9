"""`deploy/docs/threat-model.md` names tests; they exist."""

import ast
import re
from typing import Final

from tests.deploy.conftest import ROOT

TEXT: Final = (ROOT / "deploy/docs/threat-model.md").read_text()


def _tests() -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 30
    assert named <= _tests()


def test_every_threat_names_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| who ")]
    assert rows
    assert not [row for row in rows if "`test_" not in row.rsplit("|", 2)[1]]
