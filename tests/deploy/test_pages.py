"""The pages of `deploy/docs`: what they name exists."""

import importlib
import re
from pathlib import Path
from typing import Final

import pytest

from realtime_service.settings import Settings
from tests.support import readme

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted((ROOT / "deploy" / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_what_a_page_links_to_or_names_is_there(page: Path) -> None:
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`(tests/[\w/.]+\.py)", text)
    missing = [link for link in links if link and not (page.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).is_file()]
    assert not missing
    assert links or named, "a page that stands alone"


UNITS: Final = {"KiB": 1024, "MiB": 1024**2, "ms": 0.001, "days": 24 * 60 * 60}
NUMBERS: Final = [
    row for row in readme.rows((ROOT / "deploy/docs/guarantees.md").read_text(), "The numbers") if row[0]
]


@pytest.mark.parametrize("row", NUMBERS, ids=[row[-1].strip("`") for row in NUMBERS])
def test_a_number_that_is_promised_is_the_one_in_force(row: list[str]) -> None:
    number, unit = row[0].split()
    source = row[-1].strip("`")
    if source.startswith("REALTIME_"):
        set_to = Settings.model_fields[source.removeprefix("REALTIME_").lower()].default
    else:
        module, _, name = source.rpartition(".")
        set_to = getattr(importlib.import_module(module), name) * (0.001 if name.endswith("_MS") else 1)
    assert float(number) * UNITS.get(unit, 1) == pytest.approx(set_to)
