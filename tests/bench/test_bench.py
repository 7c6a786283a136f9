"""The benchmark runs: what it measures is nobody's business here."""

import json
import subprocess
import sys

from tests.bench.processes import ROOT, WORK


def test_a_row_is_measured_and_written_down() -> None:
    words = [sys.executable, "-m", "tests.bench", "backlog", "--quick", "--no-plots"]
    subprocess.run(words, cwd=ROOT, check=True, timeout=55)
    (row,) = json.loads((WORK / "result.json").read_text())["rows"]
    assert row["figures"]["this service"], row
