"""Markdown tables of the contract, for the README and for the descriptions in the API documents."""

from collections.abc import Iterable, Iterator

from contracts.close_codes import ADVICE, MEANINGS, REASONS, CloseCode
from contracts.documents.shapes import SHAPES, Json

_DIRECTIONS = {"server": "server → client", "client": "client → server"}
_IN_EVERY_FRAME = {"type", "diagnosis_id", "timestamp"}


def close_code_table() -> str:
    """Each close code: the number, the reason text sent with it, what happened, what a client does next."""
    return _table(
        ("code", "reason text", "what happened", "what a client does"),
        ((str(int(code)), REASONS[code] or "(none)", MEANINGS[code], ADVICE[code]) for code in CloseCode),
    )


def message_table() -> str:
    """Each WebSocket frame: its type, its direction, its fields beside the common ones, what it says."""
    return _table(("type", "direction", "fields", "meaning"), _message_rows())


def _message_rows() -> Iterator[tuple[str, ...]]:
    for name, shape in SHAPES.items():
        side, _, word = name.partition(".")
        if side in _DIRECTIONS:
            schema = shape.schema()
            yield f"`{word}`", _DIRECTIONS[side], ", ".join(_fields(schema)), schema["description"]


def _fields(schema: Json, path: str = "") -> Iterator[str]:
    """The fields of a frame, those of `data` one by one; a question mark says: not always there."""
    for name, field in schema["properties"].items():
        if field.get("properties") and not path:
            yield from _fields(field, f"{name}.")
        elif path or name not in _IN_EVERY_FRAME:
            yield f"`{path}{name}`{'' if name in schema['required'] else '?'}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; a pipe in a cell is escaped (GitHub Flavored Markdown §4.10)."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
