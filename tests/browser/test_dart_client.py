"""client.dart, as far as it is checked without a Dart tool-chain: its syntax, and its numbers, those of its twin."""

import re
from typing import Final

import tree_sitter_dart_orchard
from tree_sitter import Language, Node, Parser

from realtime_service.web.files import static
from tests.support import readme

DART: Final = Parser(Language(tree_sitter_dart_orchard.language()))


def mistakes(source: str) -> list[str]:
    """Where the text is no Dart: the lines, as they are."""
    found: list[str] = []

    def look(node: Node) -> None:
        if node.is_error or node.is_missing:
            found.append(source.splitlines()[node.start_point.row].strip())
        for child in node.children:
            look(child)

    look(DART.parse(source.encode()).root_node)
    return found


def test_it_is_dart() -> None:
    assert mistakes(static("client.dart").decode()) == []


def test_what_is_no_dart_is_found() -> None:
    source = static("client.dart").decode()
    for right, wrong in (("if (_wanted) return;", "if _wanted return;"), ("void close() {", "void close( {")):
        assert mistakes(source.replace(right, wrong)) != [], wrong


def test_the_example_in_the_readme_is_dart_and_uses_what_there_is() -> None:
    (block,) = [
        block
        for block in readme.blocks(readme.README.read_text(encoding="utf-8"))
        if block.language == "dart"
    ]
    assert mistakes(f"void main() {{\n{block.text}}}\n") == []
    source = static("client.dart").decode()
    arguments = set(re.findall(r"^  (\w+):", block.text, re.MULTILINE))
    assert arguments
    assert arguments <= set(re.findall(r"^    (?:required )?this\.(\w+)", source, re.MULTILINE))


def test_its_numbers_are_those_of_its_twin() -> None:
    twin = {
        name.removesuffix("_MS").replace("_", "").lower(): int(number.replace("_", ""))
        for name, number in re.findall(
            r"^const ([A-Z_]+) = ([\d_]+);", static("client.js").decode(), re.MULTILINE
        )
    }
    own = {
        name.lower(): int(number)
        for name, number in re.findall(r"static const _(\w+) = (\d+);", static("client.dart").decode())
    }
    assert len(own) >= 8
    assert own == {name: number for name, number in twin.items() if name in own}
