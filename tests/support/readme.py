"""The README, taken apart: fenced blocks, tables written by hand, tables that are generated, links.

`python -m tests.support.readme` writes the generated tables anew.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contracts.documents import close_code_table, message_table
from realtime_service.settings import settings_table

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"

TABLES: Final[dict[str, Callable[[], str]]] = {
    "messages": message_table,
    "close codes": close_code_table,
    "settings": settings_table,
}
"""What stands between `<!-- generated: NAME -->` and `<!-- /generated -->`."""

_GENERATED: Final = re.compile(r"(<!-- generated: ([a-z ]+) -->\n)(.*?)(<!-- /generated -->\n)", re.DOTALL)
_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING: Final = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    language: str
    heading: str
    """The nearest heading above it."""
    number: int
    """Its place among the blocks of its language below that heading, from 1."""
    text: str

    def __str__(self) -> str:
        return f"{self.heading}: {self.language} {self.number}"


def blocks(text: str) -> list[Block]:
    """All fenced blocks, in order."""
    found: list[Block] = []
    headings = [(heading.start(), heading[1]) for heading in _HEADING.finditer(_without_blocks(text))]
    for fence in _FENCE.finditer(text):
        heading = [title for start, title in headings if start < fence.start()][-1]
        number = sum(1 for block in found if (block.language, block.heading) == (fence[1], heading)) + 1
        found.append(Block(fence[1], heading, number, fence[2]))
    return found


def prose(text: str) -> str:
    """The README without its fenced blocks and generated tables."""
    return _GENERATED.sub("", _FENCE.sub("", text))


def refreshed(text: str) -> str:
    """The README with its generated tables as they are now. Raises KeyError for a table that nobody makes."""
    return _GENERATED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[4]}", text)


def generated(text: str) -> list[str]:
    """The names of the generated tables, in order."""
    return [found[2] for found in _GENERATED.finditer(text)]


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of all table rows written by hand below a heading."""
    section = prose(text).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|") and not set(line) <= set("|- ")
    ]


def links(text: str) -> Iterator[str]:
    """The targets of all links outside of blocks."""
    return (link[1] for link in _LINK.finditer(prose(text)))


def anchors(text: str) -> set[str]:
    """What `#…` may name: headings, as GitHub turns them into anchors."""
    titles = (heading[1].lower() for heading in _HEADING.finditer(_without_blocks(text)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def _without_blocks(text: str) -> str:
    """Fenced blocks blanked, so that what is in them is no heading; places stay the same."""
    return _FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]), text)


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
